"""What a load asks of the service beside the load itself: accounts, balances, proofs."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from app.kit.money import decimal_text
from tests.drills.client import LOST, Answer, Connection
from tests.drills.load import EXPONENT
from tests.drills.observed import Balance, balance_of

CURRENCY = "USD"
_OK, _CREATED, _NOT_FOUND, _CONFLICT, _TOO_MANY, _SERVER_ERROR = 200, 201, 404, 409, 429, 500
_CONNECTIONS = 16
_TIMEOUT_S = 60.0
_RETRY_PAUSE_S = 0.2
_DECIDE_TIMEOUT_S = 30.0
_SETTLED_POLL_S = 0.1
T = TypeVar("T")
R = TypeVar("R")


class LedgerRefused(Exception):
    """The service answered something that a load cannot go on with."""


class Ledger:
    """Asks one instance over a few keep-alive connections."""

    def __init__(self, url: str) -> None:
        """Connect on first use."""
        self._url = url
        self._free = [Connection(url, _TIMEOUT_S) for _ in range(_CONNECTIONS)]

    async def close(self) -> None:
        """Close the connections."""
        for connection in self._free:
            await connection.close()

    async def ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, key: str | None = None
    ) -> Answer:
        """One request; `LOST` is an answer too."""
        connection = self._free.pop()
        try:
            answer = await connection.request(method, path, body, key)
            if answer.status == LOST and method == "GET":
                # An idle connection may have been closed by the other side.
                answer = await connection.request(method, path)
            return answer
        finally:
            self._free.append(connection)

    async def for_each(self, values: Iterable[T], ask: Callable[[T], Awaitable[R]]) -> list[R]:
        """Ask something for each of many values, some at a time; in their order."""
        waiting = deque(enumerate(values))
        results: dict[int, R] = {}

        async def work() -> None:
            while waiting:
                place, value = waiting.popleft()
                results[place] = await ask(value)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(_CONNECTIONS, len(waiting))):
                tasks.create_task(work())
        return [results[place] for place in sorted(results)]

    async def balance(self, account_id: str) -> Balance | None:
        """An account's balance; None when there is no such account."""
        answer = await self.ask("GET", f"/api/v1/balance/{account_id}")
        if answer.status == _NOT_FOUND:
            return None
        if answer.status != _OK:
            raise LedgerRefused(f"the balance of {account_id} was answered {answer}")
        if answer.body["currency"] != CURRENCY:
            raise LedgerRefused(f"{account_id} is in {answer.body['currency']}, not in {CURRENCY}")
        return balance_of(answer.body, EXPONENT)

    async def balances(self, account_ids: Iterable[str]) -> dict[str, Balance]:
        """The balances of accounts that exist."""
        names = list(account_ids)
        found = await self.for_each(names, self.balance)
        return {name: balance for name, balance in zip(names, found, strict=True) if balance}

    async def open(self, account_id: str, opening_minor: int) -> None:
        """Open an account; one that is there already is left as it is."""
        body = {
            "account_id": account_id,
            "currency": CURRENCY,
            "opening_balance": decimal_text(opening_minor, EXPONENT),
        }
        answer = await self.ask("POST", "/api/v1/accounts", body)
        if answer.status not in (_CREATED, _CONFLICT):
            raise LedgerRefused(f"{account_id} was not opened: {answer}")

    async def move(self, account_id: str, change_minor: int, key: str) -> Answer:
        """Post one transaction until it is decided; `LedgerRefused` when it is not accepted."""
        body = {
            "account_id": account_id,
            "amount": decimal_text(abs(change_minor), EXPONENT),
            "type": "credit" if change_minor > 0 else "debit",
        }
        answer = await self.decide("/api/v1/transaction", body, key)
        if answer.status != _CREATED:
            raise LedgerRefused(f"{change_minor} on {account_id} was answered {answer}")
        return answer

    async def decide(
        self, path: str, body: dict[str, Any], key: str, timeout_s: float = _DECIDE_TIMEOUT_S
    ) -> Answer:
        """Send the same request until it is accepted or refused for good, a bounded time."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            answer = await self.ask("POST", path, body, key)
            if answer.status not in (LOST, _TOO_MANY) and answer.status < _SERVER_ERROR:
                return answer
            if asyncio.get_running_loop().time() + _RETRY_PAUSE_S > deadline:
                raise LedgerRefused(f"{key} could not be decided: {answer}")
            await asyncio.sleep(_RETRY_PAUSE_S)

    async def pending_count(self, account_id: str) -> int:
        """How many transactions of an account are accepted and not settled."""
        answer = await self.ask("GET", f"/api/v1/pending/{account_id}?limit=1")
        if answer.status != _OK:
            raise LedgerRefused(f"what {account_id} has pending was answered {answer}")
        return int(answer.body["count"])

    async def settled_balances(
        self, account_ids: Iterable[str], timeout_s: float
    ) -> dict[str, Balance]:
        """The balances once nothing is pending, or as they are when that takes too long."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        balances = await self.balances(account_ids)
        while True:
            pending = [
                name
                for name, balance in balances.items()
                if balance.pending_debit_minor or balance.pending_credit_minor
            ]
            if not pending or asyncio.get_running_loop().time() > deadline:
                return balances
            await asyncio.sleep(_SETTLED_POLL_S)
            balances |= await self.balances(pending)

    async def verify(self) -> dict[str, Any]:
        """The service's own proof; where it does not answer 200, `status` says so."""
        answer = await self.ask("GET", "/api/v1/verify")
        if answer.status != _OK:
            return {"status": f"answered {answer.status} {answer.body.get('code', '')}".rstrip()}
        return answer.body

    async def find(self, key: str) -> Answer:
        """What became of a key."""
        return await self.ask("GET", f"/api/v1/transactions?idempotency_key={key}")
