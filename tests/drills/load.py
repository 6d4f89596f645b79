"""A bounded load with a memory: keep-alive connections that send until each intention is decided.

Every request carries an Idempotency-Key. What is answered 429 or 5xx, or not at all, is sent again
with the same key and body. Paced, so that a drill shows the service's delays and not its own.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from app.kit.money import decimal_text
from tests.drills.client import LOST, Answer, Connection
from tests.drills.history import ACCEPTED_STATUS, History, Intention

TRANSACTION_PATH = "/api/v1/transaction"
EXPONENT = 2
RETRY_PAUSE_S = 0.05
DECIDE_TIMEOUT_S = 60.0
_HOT_SHARE, _SCARCE_SHARE = 40, 10
_AMOUNT_MINOR_MAX = 999


class LoadError(Exception):
    """The load could not be set up or brought to an end."""


class Account(NamedTuple):
    """An account of the load; `scarce` ones are only debited and run dry."""

    account_id: str
    opening_minor: int
    scarce: bool = False


HOT = Account("ACC001", 100_000_000)
SCARCE = Account("SCARCE", 1_000, scarce=True)
WARM = tuple(Account(f"WARM{number:02}", 1_000_000) for number in range(1, 13))
ACCOUNTS = (HOT, SCARCE, *WARM)


class Load:
    """Some connections that post debits and credits on a mix of accounts until told to stop."""

    def __init__(
        self,
        urls: Sequence[str],
        history: History,
        *,
        connections: int,
        per_second: int,
        seed: object,
    ) -> None:
        """Spread the connections over the instances; `per_second` bounds all of them together."""
        self.history = history
        self._urls = urls
        self._connections = connections
        self._pause_s = connections / per_second
        self._seed = seed
        self._runs = 0
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to send."""
        self._stopping.clear()
        self._runs += 1
        self._tasks = [
            asyncio.create_task(self._keep_posting(number)) for number in range(self._connections)
        ]

    async def stop(self) -> None:
        """Begin nothing more and wait until all that was begun is decided or given up."""
        self._stopping.set()
        tasks, self._tasks = self._tasks, []
        await asyncio.gather(*tasks)

    async def __aenter__(self) -> "Load":
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def touch(self) -> None:
        """Credit every account once, so that whoever decides now has to know all of them."""
        connection = Connection(self._urls[0])
        self._runs += 1
        for account_id in self.history.openings:
            key = f"touch-{self._seed}-{self._runs}-{account_id}"
            await decide(connection, self.history.intend(key, account_id, 1))
        await connection.close()

    async def _keep_posting(self, number: int) -> None:
        connection = Connection(self._urls[number % len(self._urls)])
        draw = random.Random(f"{self._seed}:{self._runs}:{number}")
        # Spread the first requests over one pause, or all connections would send in step.
        await self._pause(self._pause_s * number / self._connections)
        count = 0
        while not self._stopping.is_set():
            begun = time.monotonic()
            count += 1
            key = f"load-{self._seed}-{self._runs}-{number}-{count}"
            await decide(connection, self.history.intend(key, *_movement(draw)))
            await self._pause(self._pause_s - (time.monotonic() - begun))
        await connection.close()

    async def _pause(self, seconds: float) -> None:
        if seconds > 0:
            try:
                await asyncio.wait_for(self._stopping.wait(), seconds)
            except TimeoutError:
                return


async def decide(
    connection: Connection, intention: Intention, timeout_s: float = DECIDE_TIMEOUT_S
) -> Intention:
    """Send an intention until it is decided, a bounded time; past it its outcome is unknown."""
    deadline = time.monotonic() + timeout_s
    body = {
        "account_id": intention.account_id,
        "amount": decimal_text(abs(intention.change_minor), EXPONENT),
        "type": "credit" if intention.change_minor > 0 else "debit",
    }
    while True:
        sent_at = time.monotonic()
        answer = await connection.request("POST", TRANSACTION_PATH, body, intention.key)
        sending = intention.note(sent_at, time.monotonic(), answer)
        if sending.is_decided or time.monotonic() + RETRY_PAUSE_S >= deadline:
            return intention
        await asyncio.sleep(RETRY_PAUSE_S)


async def open_accounts(url: str, history: History, accounts: Sequence[Account] = ACCOUNTS) -> None:
    """Open the accounts of a load with their balances."""
    connection = Connection(url)
    for account in accounts:
        body = {
            "account_id": account.account_id,
            "currency": "USD",
            "opening_balance": decimal_text(account.opening_minor, EXPONENT),
        }
        answer = await connection.request("POST", "/api/v1/accounts", body)
        if answer.status != ACCEPTED_STATUS:
            raise LoadError(f"account {account.account_id} was not opened: {answer}")
        history.openings[account.account_id] = account.opening_minor
    await connection.close()


async def ask(url: str, path: str) -> Answer:
    """Ask one instance once; `LoadError` when it does not answer."""
    connection = Connection(url)
    answer = await connection.request("GET", path)
    await connection.close()
    if answer.status == LOST:
        raise LoadError(f"{url}{path} was not answered")
    return answer


def _movement(draw: random.Random) -> tuple[str, int]:
    """Draw an account and a change: many on the hot one, some on one that runs dry."""
    share, amount_minor = draw.randrange(100), draw.randint(1, _AMOUNT_MINOR_MAX)
    if share < _SCARCE_SHARE:
        return SCARCE.account_id, -amount_minor
    account = HOT if share < _SCARCE_SHARE + _HOT_SHARE else draw.choice(WARM)
    return account.account_id, draw.choice((amount_minor, -amount_minor))


def settings_text(environment: dict[str, Any]) -> str:
    """Name settings in one line."""
    return ", ".join(f"{name}={value}" for name, value in sorted(environment.items())) or "defaults"
