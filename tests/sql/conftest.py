"""Two accounts and short ways to call the functions that decide money."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import pytest


class Part(NamedTuple):
    """What the part of a request gives beside its items: the request's key first."""

    name: str
    digest: bytes = b"asked"
    refusals: str = "[]"
    positions: Sequence[int] = ()
    number: int = 0


class Groups(NamedTuple):
    """For each item the transfer that it is half of, and the first of its group."""

    transfer_nos: Sequence[int]
    group_nos: Sequence[int]


# The last version of decide_batch that knows no groups.
_WITHOUT_GROUPS = 3
# The last one that knows no conditions.
_WITHOUT_CONDITIONS = 4


def claim_of(extent: str, part: Part | None) -> tuple[Any, ...]:
    """The extent; the scope, the request's key, the part's name, digest and refusals, if any."""
    if part is None:
        return extent, None, None, None, None, None
    return extent, 0, part.name, f"part:{part.number}:{part.name}", part.digest, part.refusals


class Sql:
    """Calls the SQL functions as the service does, on one connection."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.attempt = 0

    async def open_account(self, account_id: str, opening_minor: int = 0) -> int:
        self.attempt += 1
        return await self.connection.fetchval(
            "SELECT open_account_v1(0::smallint, $1, $2, 'external:USD', 'USD', 2::smallint, 0,"
            " '{}', $3, $4)",
            self.attempt,
            account_id,
            opening_minor,
            f"opening:{account_id}",
        )

    def _attempt(self, attempt: int | None) -> int:
        """Number an attempt that has no number."""
        if attempt is not None:
            return attempt
        self.attempt += 1
        return self.attempt

    async def journal(
        self,
        changes: Sequence[tuple[int, int]],
        *,
        attempt: int | None = None,
        epoch: int = 0,
        keys: Sequence[tuple[int, str]] = (),
        ids: Sequence[str | None] | None = None,
        word: str = "word",
        extent: str = "each",
        part: Part | None = None,
        groups: Groups | None = None,
        holds: str | None = None,
        effective_ats: Sequence[datetime | None] | None = None,
    ) -> Any:
        """Journal (account number, change) items with (item, name) keys."""
        return await self.connection.fetchrow(
            "SELECT * FROM journal_batch_v5(0::smallint, $1, $2, $3, $4, $5, $6, $7, $8,"
            " $9, $10, $11, $12, NULL, NULL, $13, $14, $15, $16, $17, $18, $19, NULL)",
            epoch,
            word,
            self._attempt(attempt),
            *claim_of(extent, part),
            [account for account, _ in changes],
            [change for _, change in changes],
            ids,
            *_columns(keys),
            *(groups or (None, None)),
            holds,
            effective_ats,
        )

    async def journal_v2(
        self,
        changes: Sequence[tuple[int, int]],
        *,
        attempt: int | None = None,
        epoch: int = 0,
        keys: Sequence[tuple[int, str]] = (),
        word: str = "word",
    ) -> Any:
        """Journal as older processes do."""
        return await self.connection.fetchrow(
            "SELECT * FROM journal_batch_v2("
            "0::smallint, $1, $2, $3, $4, $5, NULL, NULL, NULL, $6, $7, $8)",
            epoch,
            word,
            self._attempt(attempt),
            [account for account, _ in changes],
            [change for _, change in changes],
            *_columns(keys),
        )

    async def decide(
        self,
        changes: Sequence[tuple[int, int]],
        *,
        attempt: int | None = None,
        epoch: int = 0,
        repeated: bool = False,
        keys: Sequence[tuple[int, str]] = (),
        balance_max: int = 9 * 10**18,
        word: str = "word",
        extent: str = "each",
        part: Part | None = None,
        version: int = 5,
        groups: Groups | None = None,
        holds: str | None = None,
        expected: tuple[Sequence[int | None], Sequence[int | None]] | None = None,
    ) -> Any:
        """Decide (account number, change) items in mode `postgres`; 2 as older processes do."""
        return await self.connection.fetchrow(
            f"SELECT * FROM decide_batch_v{version}("
            "0::smallint, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10,"
            " $11, $12, $13, $14, NULL, NULL, NULL, $15, $16, $17"
            f"{', $18, $19, $20' if version > _WITHOUT_GROUPS else ''}"
            f"{', NULL, NULL, $21, $22' if version > _WITHOUT_CONDITIONS else ''})",
            epoch,
            word,
            self._attempt(attempt),
            repeated,
            balance_max,
            *claim_of(extent, part),
            None if part is None else part.positions or range(len(changes)),
            [account for account, _ in changes],
            [change for _, change in changes],
            *_columns(keys),
            *((*(groups or (None, None)), holds) if version > _WITHOUT_GROUPS else ()),
            *((expected or (None, None)) if version > _WITHOUT_CONDITIONS else ()),
        )

    async def change(
        self,
        account_id: str = "A",
        *,
        attempt: int | None = None,
        epoch: int = 0,
        word: str = "word",
        mode: str = "redis",
        versions: Sequence[int] | None = None,
        limit: int | None = None,
        frozen: str | None = None,
        metadata: str | None = None,
        closed: bool = False,
        available: int | None = None,
        balance_max: int = 9 * 10**18,
    ) -> Any:
        """Change an account as the service does."""
        return await self.connection.fetchrow(
            "SELECT * FROM change_account_v1("
            "0::smallint, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
            epoch,
            word,
            mode,
            self._attempt(attempt),
            account_id,
            versions,
            limit,
            frozen,
            metadata,
            closed,
            available,
            balance_max,
        )

    async def void_change(self, attempt: int) -> str:
        return await self.connection.fetchval("SELECT void_change_v1($1)", attempt)

    async def account(self, account_id: str = "A") -> Any:
        """What of an account can be changed, and its versions."""
        return await self.connection.fetchrow(
            "SELECT credit_limit_minor, frozen, metadata::text, closed, config_version,"
            "       settled_minor FROM accounts WHERE account_id = $1",
            account_id,
        )

    async def decide_v1(
        self,
        changes: Sequence[tuple[int, int]],
        *,
        attempt: int | None = None,
        repeated: bool = False,
        keys: Sequence[tuple[int, str]] = (),
    ) -> Any:
        """Decide as older processes do."""
        return await self.connection.fetchrow(
            "SELECT * FROM decide_batch_v1("
            "0::smallint, 0, 'word', $1, $2, 1000000, $3, $4, NULL, NULL, NULL, $5, $6, $7)",
            self._attempt(attempt),
            repeated,
            [account for account, _ in changes],
            [change for _, change in changes],
            *_columns(keys),
        )

    async def settle(self, batches_max: int = 1_000) -> Any:
        return await self.connection.fetchrow(
            "SELECT * FROM settle_chunk_v2($1, 1000000)", batches_max
        )

    async def count(self, table: str, where: str = "true") -> int:
        return await self.connection.fetchval(f"SELECT count(*) FROM {table} WHERE {where}")


def _columns(keys: Sequence[tuple[int, str]]) -> tuple[list[int], list[int], list[str]]:
    """The items, scopes and names of keys."""
    return [item for item, _ in keys], [0 for _ in keys], [name for _, name in keys]


@pytest.fixture
async def sql(database: Any) -> Sql:
    """The functions on a database whose epoch 0 is in force."""
    await database.execute(
        "UPDATE ledger_shards SET postgres_identity = postgres_identity_v1(), redis_token = 'word',"
        " protocol_version = 4"
    )
    return Sql(database)


@pytest.fixture
async def fallen_back(sql: Sql) -> Sql:
    """The functions on a database where PostgreSQL decides in epoch 0."""
    await sql.connection.execute("UPDATE ledger_shards SET mode = 'postgres'")
    return sql
