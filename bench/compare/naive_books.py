"""The naive rival's accounts, and its books after a run: its rows and its balances in Redis."""

import asyncio
from typing import Any

from bench.compare.bodies import account_id
from bench.compare.naive import SCHEMA, balance_key
from bench.compare.samples import Cell, Figures
from bench.compare.wrk import possible_rows

_LOOKS_MAX = 200
_LOOK_S = 0.1
_NEW_ROWS = """
SELECT a.account_id, count(*) AS rows, sum(e.change_minor)::bigint AS change,
       max(e.entry_id) AS last
  FROM entries e JOIN accounts a USING (account_no) WHERE e.entry_id > $1 GROUP BY a.account_id
"""


class NaiveBooks:
    """What the rival's database and its keys must hold."""

    def __init__(self, database: Any, redis: Any) -> None:
        """Read with connections of its own."""
        self._database = database
        self._redis = redis
        self._balances: dict[str, int] = {}
        self._last_id = 0

    async def begin(self, accounts: int, opening_minor: int) -> None:
        """Open the accounts."""
        self._balances = {account_id(number): opening_minor for number in range(accounts)}
        await self._database.execute(SCHEMA)
        await self._database.executemany(
            "INSERT INTO accounts (account_id, opening_minor) VALUES ($1, $2)",
            list(self._balances.items()),
        )
        await self._redis.mset({balance_key(name): minor for name, minor in self._balances.items()})

    async def check(self, cell: Cell, figures: Figures) -> dict[str, bool]:
        """Wait until nothing comes any more, then compare each balance with its rows."""
        seen = -1
        for _ in range(_LOOKS_MAX):
            rows = await self._database.fetch(_NEW_ROWS, self._last_id)
            held = await self._redis.mget([balance_key(name) for name in self._balances])
            new = sum(row["rows"] for row in rows)
            changes = {row["account_id"]: row["change"] for row in rows}
            expected = [minor + changes.get(name, 0) for name, minor in self._balances.items()]
            agrees = [int(text) for text in held] == expected
            if agrees and new == seen:
                break
            seen = new
            await asyncio.sleep(_LOOK_S)
        self._balances = dict(zip(self._balances, expected, strict=True))
        self._last_id = max([self._last_id, *(row["last"] for row in rows)])
        return {
            "sum of rows = change of balance": agrees,
            "a row is a cent": new == -sum(changes.values()),
            "every acceptance has its row": new in possible_rows(cell, figures),
            "no refusals": figures.refused == 0 and figures.errors == 0,
        }
