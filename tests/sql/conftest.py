"""Two accounts and short ways to call the functions that decide money."""

from typing import Any

import pytest


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

    async def journal(
        self,
        changes: list[tuple[int, int]],
        *,
        attempt: int | None = None,
        epoch: int = 0,
        keys: list[tuple[int, str]] = (),
        ids: list[str | None] | None = None,
        word: str = "word",
    ) -> Any:
        """Journal (account number, change) items with (item, name) keys."""
        if attempt is None:
            self.attempt += 1
            attempt = self.attempt
        return await self.connection.fetchrow(
            "SELECT * FROM journal_batch_v2("
            "0::smallint, $1, $9, $2, $3, $4, $5, NULL, NULL, $6, $7, $8)",
            epoch,
            attempt,
            [account for account, _ in changes],
            [change for _, change in changes],
            ids,
            [item for item, _ in keys],
            [0 for _ in keys],
            [name for _, name in keys],
            word,
        )

    async def decide(
        self,
        changes: list[tuple[int, int]],
        *,
        attempt: int | None = None,
        epoch: int = 0,
        repeated: bool = False,
        keys: list[tuple[int, str]] = (),
        balance_max: int = 9 * 10**18,
        word: str = "word",
    ) -> Any:
        """Decide (account number, change) items in mode `postgres`."""
        if attempt is None:
            self.attempt += 1
            attempt = self.attempt
        return await self.connection.fetchrow(
            "SELECT * FROM decide_batch_v1("
            "0::smallint, $1, $10, $2, $3, $4, $5, $6, NULL, NULL, NULL, $7, $8, $9)",
            epoch,
            attempt,
            repeated,
            balance_max,
            [account for account, _ in changes],
            [change for _, change in changes],
            [item for item, _ in keys],
            [0 for _ in keys],
            [name for _, name in keys],
            word,
        )

    async def settle(self, batches_max: int = 1_000) -> Any:
        return await self.connection.fetchrow("SELECT * FROM settle_chunk_v1($1)", batches_max)

    async def count(self, table: str, where: str = "true") -> int:
        return await self.connection.fetchval(f"SELECT count(*) FROM {table} WHERE {where}")


@pytest.fixture
async def sql(database: Any) -> Sql:
    """The functions on a database whose epoch 0 is in force."""
    await database.execute(
        "UPDATE ledger_shards SET postgres_identity = postgres_identity_v1(), redis_token = 'word'"
    )
    return Sql(database)


@pytest.fixture
async def fallen_back(sql: Sql) -> Sql:
    """The functions on a database where PostgreSQL decides in epoch 0."""
    await sql.connection.execute("UPDATE ledger_shards SET mode = 'postgres'")
    return sql
