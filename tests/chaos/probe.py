"""After the faults: every account still decides by its true balance, through every API.

Each account is asked for one minor unit more than it has, which must be refused, then for all it
has, which must be accepted. What a run did to it is in the history like everything else.
"""

import asyncio
from itertools import count, cycle

from tests.chaos.bodies import major
from tests.chaos.checker import Violation, balances
from tests.chaos.client import HttpClient
from tests.chaos.facts import Facts
from tests.chaos.history import Account, History, Operation, Outcome, Sending
from tests.chaos.load import PATIENCE_S, Load

PROBE_TRIES_MAX = 8
PROBE_PAUSE_S = 0.25
_TASKS = 8
_DECIDED = (Outcome.ACCEPTED, Outcome.REFUSED)


class WrongDecision(Exception):
    """An account decided otherwise than its balance says."""


async def probe_accounts(
    urls: dict[str, str], history: History, facts: Facts, load: Load
) -> list[Violation]:
    """Probe each account the run opened; returns what was decided wrongly."""
    available = balances(facts)
    waiting = [account for name, account in history.accounts.items() if name in available]
    wrong: list[Violation] = []
    numbers, apis = count(), cycle(urls.items())

    async def probe_some() -> None:
        while waiting:
            account, (api, url) = waiting.pop(), next(apis)
            client = HttpClient(url)
            try:
                figure = available[account.account_id].available
                await _probe(load, history, client, api, account, figure, numbers)
            except WrongDecision as exc:
                wrong.append(Violation("decided_wrongly", account.account_id, {"what": str(exc)}))
            finally:
                client.close()

    await asyncio.gather(*(probe_some() for _ in range(_TASKS)))
    return wrong


async def nudge(urls: dict[str, str], history: History, load: Load) -> None:
    """Send one credit through every API, so that each one looks at its Redis again.

    An idle service learns that Redis lost everything only when it is asked for something.
    """
    account = next(iter(history.accounts.values()))
    for number, (api, url) in enumerate(urls.items()):
        client = HttpClient(url)
        operation = _operation(account, 1, f"nudge.{number}", is_credit=True)
        history.operations.append(operation)
        await _decided(load, client, api, operation)
        client.close()


async def _probe(
    load: Load,
    history: History,
    client: HttpClient,
    api: str,
    account: Account,
    available: int,
    numbers: "count[int]",
) -> None:
    steps = [(available + 1, Outcome.REFUSED)]
    if available > 0:
        steps.append((available, Outcome.ACCEPTED))
    for amount_minor, expected in steps:
        operation = _operation(account, amount_minor, f"probe.{next(numbers)}")
        history.operations.append(operation)
        sending = await _decided(load, client, api, operation)
        if sending.outcome is not expected:
            told = f"{sending.outcome} {sending.status} {sending.code}"
            raise WrongDecision(f"a debit of {amount_minor} of {available} was {told}")


def _operation(
    account: Account, amount_minor: int, name: str, *, is_credit: bool = False
) -> Operation:
    reference = f"{account.account_id}.{name}"
    return Operation(
        reference=reference,
        account_id=account.account_id,
        amount=major(amount_minor, account.exponent),
        amount_minor=amount_minor,
        is_credit=is_credit,
        key=f"k:{reference}",
        sendings=[],
    )


async def _decided(load: Load, client: HttpClient, api: str, operation: Operation) -> Sending:
    """Send until it is decided, a bounded number of times."""
    for _ in range(PROBE_TRIES_MAX):
        sending = await load.send(client, api, operation, PATIENCE_S)
        if sending.outcome in _DECIDED:
            break
        await asyncio.sleep(PROBE_PAUSE_S)
    return sending
