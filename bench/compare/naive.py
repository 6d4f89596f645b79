"""The naive design: for each request one script call and one committed insert, nothing gathered.

It stands where the ledger stands behind the hot route, so that reading, checking, encoding and the
HTTP server are the service's own and the difference is the batching. Repetitions are answered from
the row that the unique index keeps.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import asyncpg

from app import errors
from app.api.fast_lane import FastLane
from app.infra.postgres import open_pool
from app.infra.redis import open_redis
from app.kit.ids import EntryPosition, assigned_transaction_id
from app.kit.money import minor_units
from app.ledger.codes import Direction, EntryStatus, Mode
from app.ledger.model import Acceptance, Account, Transaction, TransactionRequest
from app.ledger.service import LedgerService
from app.ledger.store import accepted_ms
from bench.compare.serving import Served, ready, serve

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from app.infra.postgres import Pool

# Enough to keep both servers busy; twice as many served no more, half as many seldom.
CONNECTIONS = 32
_TIMEOUT_MS = 20_000
SCHEMA = """
CREATE TABLE accounts (
    account_no    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id    text   COLLATE "C" NOT NULL UNIQUE,
    opening_minor bigint NOT NULL
);
CREATE TABLE entries (
    entry_id        bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_no      bigint      NOT NULL,
    change_minor    bigint      NOT NULL,
    idempotency_key text        COLLATE "C" NOT NULL CONSTRAINT entries_key UNIQUE,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp()
);
"""
_RESERVE = """
local available = tonumber(redis.call('GET', KEYS[1]))
local change = tonumber(ARGV[1])
if not available or available + change < 0 then return 0 end
redis.call('INCRBY', KEYS[1], ARGV[1])
return 1
"""
_INSERT = """
INSERT INTO entries (account_no, change_minor, idempotency_key) VALUES ($1, $2, $3)
RETURNING entry_id, created_at
"""
_FIND = """
SELECT entry_id, account_no, change_minor, created_at FROM entries WHERE idempotency_key = $1
"""


def balance_key(account_id: str) -> str:
    """Name the key that holds an account's balance."""
    return f"naive:account:{account_id}"


class NaiveLedger:
    """What the hot route of transactions needs of a ledger."""

    def __init__(self, redis: "Redis", pool: "Pool", accounts: dict[str, Account]) -> None:
        """Know every account beforehand, as the service does once it has seen it."""
        self._redis = redis
        self._reserve = redis.register_script(_RESERVE)
        self._pool = pool
        self._accounts = accounts

    def begin_transaction(self, request: TransactionRequest) -> "asyncio.Future[Acceptance]":
        """Start what `post_transaction` does."""
        return asyncio.ensure_future(self.post_transaction(request))

    async def post_transaction(self, request: TransactionRequest) -> Acceptance:
        """Reserve in Redis, insert in PostgreSQL, answer; a reservation without a row is undone."""
        account = self._accounts.get(request.account_id)
        if account is None:
            raise errors.AccountNotFound(pointer="/account_id")
        if request.idempotency_key is None:
            raise errors.IdempotencyKeyRequired
        amount_minor = minor_units(request.amount, account.exponent)
        change = amount_minor if request.direction is Direction.CREDIT else -amount_minor
        key = balance_key(account.account_id)
        if not await self._reserve(keys=[key], args=[str(change)]):
            raise errors.InsufficientAvailable(pointer="/amount")
        try:
            arguments = (account.account_no, change, request.idempotency_key)
            row = await self._pool.fetchrow(_INSERT, *arguments)
        except asyncpg.UniqueViolationError:
            await self._redis.incrby(key, -change)
            return await self._repeated(account, change, request.idempotency_key)
        return Acceptance(_transaction(row, account, change), replayed=False)

    async def _repeated(self, account: Account, change: int, key: str) -> Acceptance:
        row = await self._pool.fetchrow(_FIND, key)
        if row is None or (row["account_no"], row["change_minor"]) != (account.account_no, change):
            raise errors.IdempotencyKeyReused
        return Acceptance(_transaction(row, account, change), replayed=True)


def _transaction(row: Any, account: Account, change_minor: int) -> Transaction:
    position = EntryPosition(row["entry_id"], 0)
    return Transaction(
        transaction_id=assigned_transaction_id(accepted_ms(row["created_at"]), position),
        account=account,
        change_minor=change_minor,
        status=EntryStatus.PENDING,
        mode=Mode.REDIS,
        accepted_at=row["created_at"],
        updated_at=row["created_at"],
    )


@asynccontextmanager
async def opened() -> AsyncIterator[Served]:
    """Open the connections and stand behind the hot route."""
    async with (
        open_redis(os.environ["REDIS_URL"], _TIMEOUT_MS, CONNECTIONS) as redis,
        open_pool(os.environ["DATABASE_URL"], _TIMEOUT_MS, CONNECTIONS) as pool,
    ):
        rows = await pool.fetch("SELECT account_no, account_id FROM accounts")
        accounts = {
            row["account_id"]: Account(row["account_no"], row["account_id"], "USD", 2)
            for row in rows
        }
        ledger = cast("LedgerService", NaiveLedger(redis, pool, accounts))
        yield Served(ready, FastLane(lambda: ledger).connection)


if __name__ == "__main__":
    serve(int(os.environ["PORT"]), opened)
