"""Records what the service sends to its servers for batches of a given size, to be sent again.

The calls come from the service itself, so what is measured with them follows it. Which argument is
which is read from the scripts' and the queries' own headers.
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

from asyncpg.pool import PoolConnectionProxy

from app.bootstrap import open_services
from app.errors import LedgerError
from app.infra.queries import load_queries
from app.infra.scripts import LuaScripts
from app.kit.money import parse_amount
from app.ledger.codes import Direction
from app.ledger.model import TransactionRequest
from app.ledger.service import LedgerService
from app.settings import Settings
from bench.compare.bodies import AMOUNT, account_id

JOURNAL_QUERY = load_queries("ledger")["journal_batch"]
ADMIT = "admit"
_ATTEMPT_FIRST = 2**60
_PARAMETERS = [name for name, _ in JOURNAL_QUERY.parameters]
# What one key for a whole request is remembered by.
_REQUEST_NAMES = ("request_key", "request_name")


class ScriptCall(NamedTuple):
    """A script's keys and its arguments."""

    keys: Sequence[str]
    arguments: Sequence[str]


class Admissions:
    """The recorded admissions without end, each of a new attempt that confirms the one before."""

    def __init__(self, recording: "Recording", argument_names: Sequence[str]) -> None:
        """`argument_names` are the script's, in order."""
        self._calls = itertools.cycle(recording.admissions)
        self._place = {name: position for position, name in enumerate(argument_names)}
        self._slot = f"again.{time.time_ns()}"
        self._before = 0

    def __iter__(self) -> Iterator[ScriptCall]:
        """Give calls without end."""
        for number, call in enumerate(self._calls, start=1):
            attempt = _ATTEMPT_FIRST + number
            changed = {
                "slot": self._slot,
                "number": number,
                "attempt": attempt,
                "journaled": self._before,
            }
            self._before, arguments = attempt, list(call.arguments)
            for name, value in changed.items():
                arguments[self._place[name]] = str(value)
            yield ScriptCall(call.keys, arguments)


def as_another(arguments: Sequence[Any], attempt: int, name: str) -> list[Any]:
    """Make of a journal call another attempt's, with names that nobody has used."""
    changed = dict(zip(_PARAMETERS, arguments, strict=True))
    changed["attempt_id"] = attempt
    count = len(changed["key_names"].split())
    changed["key_names"] = " ".join([f"{name}-{item}" for item in range(count)])
    for parameter in _REQUEST_NAMES:
        if changed[parameter] is not None:
            changed[parameter] = f"{name}-{parameter}"
    return list(changed.values())


class Recording:
    """The calls of some batches, in order."""

    def __init__(self) -> None:
        """Begin with none."""
        self.admissions: list[ScriptCall] = []
        self.journals: list[tuple[Any, ...]] = []

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Note every admission and every call of the journal on its way."""
        call, fetchrow = LuaScripts.call, PoolConnectionProxy.fetchrow

        async def noted_call(scripts: Any, name: str, keys: Any, arguments: Any) -> Any:
            arguments = list(arguments)
            if name == ADMIT:
                self.admissions.append(ScriptCall(list(keys), arguments))
            return await call(scripts, name, keys, arguments)

        async def noted_fetchrow(
            connection: Any, statement: str, *arguments: Any, **how: Any
        ) -> Any:
            if statement == JOURNAL_QUERY.sql:
                self.journals.append(arguments)
            return await fetchrow(connection, statement, *arguments, **how)

        with (
            patch.object(LuaScripts, "call", noted_call),
            patch.object(PoolConnectionProxy, "fetchrow", noted_fetchrow),
        ):
            yield


async def record(
    settings: Settings, accounts: int, items: int, batches: int, keys: str
) -> Recording:
    """Have the service decide batches of exactly so many items, and note what it sends.

    `keys` says what has a key, the request or each item. Raises `ValueError` when that is not one
    admission, which confirms the batch before, and one journal call a batch.
    """
    recording, tag = Recording(), time.time_ns()
    async with open_services(settings) as services:
        ledger = services.ledger
        for first in range(0, accounts, items):
            count = min(items, accounts - first)
            await _decide(ledger, range(first, first + count), f"{tag}-known-{first}", keys)
        with recording.listening():
            for number in range(batches):
                numbers = [(number * items + item) % accounts for item in range(items)]
                await _decide(ledger, numbers, f"{tag}-{number}", keys)
    calls = len(recording.admissions), len(recording.journals)
    if calls != (batches, batches):
        raise ValueError(f"{batches} batches sent {calls} admissions and journal calls")
    return recording


async def _decide(ledger: LedgerService, numbers: Sequence[int], batch: str, keys: str) -> None:
    """Ask for a whole batch at once, so that it goes as one; raises what refuses an item."""
    asked = [
        _request(number, f"{batch}-{item}" if keys == "item" else None)
        for item, number in enumerate(numbers)
    ]
    key = f"batch-{batch}" if keys == "request" else None
    for answer in await ledger.post_transactions(asked, key, atomic=False):
        if isinstance(answer, LedgerError):
            raise answer


def _request(number: int, name: str | None) -> TransactionRequest:
    return TransactionRequest(
        account_id=account_id(number),
        amount=parse_amount(AMOUNT),
        direction=Direction.DEBIT,
        idempotency_key=None if name is None else f"{number}-{name}",
    )
