"""The service's books after a run: API, PostgreSQL and Redis must agree to the cent.

The expected balance of each account is the one before the run plus the rows the run left.
"""

import asyncio
import json
import time
import urllib.request
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from app.bootstrap import OperatorServices
from app.kit.money import decimal_text
from app.ledger.codes import Mode
from app.ledger.keys import account_key, flight_key
from app.ledger.mode import Ruling
from app.ledger.store import SHARD
from bench.compare.bodies import account_id
from bench.compare.samples import TRANSACTIONS, Cell, Figures
from bench.compare.wrk import possible_rows

if TYPE_CHECKING:
    from redis.asyncio import Redis

_QUIET_S = 60.0
# A commit under way when the load ended may take longer than one look.
_LOOK_S, _LOOKS = 0.05, 5
_ASKED_MAX = 5
_REDIS_PART = 1_000
_BALANCES = """
SELECT account_no, account_id, settled_minor::bigint AS settled
  FROM accounts WHERE kind = 'customer' AND account_id NOT LIKE 'holding:%'
"""
_PENDING = """
SELECT count(*) FILTER (WHERE status = 'PENDING') AS pending,
       coalesce(max(batch_seq), 0) AS last FROM journal_batches WHERE batch_seq > $1
"""
_NEW_ROWS = """
SELECT account_no, count(*) AS rows, sum(change_minor)::bigint AS change
  FROM journal_entries WHERE batch_seq > $1 GROUP BY account_no
"""


class LedgerBooks:
    """What one database of the service must hold, and Redis for it if Redis decides."""

    def __init__(self, database: Any, redis: "Redis", services: OperatorServices) -> None:
        """Read with connections of its own; `services` settle what a run left."""
        self._database = database
        self._redis = redis
        self._services = services
        self._last_seq = 0
        self._balances: dict[int, int] = {}
        self._names: dict[int, str] = {}

    async def begin(self) -> None:
        """Take the books as they are for right; checks begin after this."""
        ruling = await self._services.mode.read_ruling()
        await self._bring_to_rest(ruling)
        self._last_seq = (await self._database.fetchrow(_PENDING, 0))["last"]
        self._balances = await self._read_balances()

    async def check(self, cell: Cell, figures: Figures, url: str, mode: Mode) -> dict[str, bool]:
        """Wait until everything is decided and settled, then compare all three with one another."""
        ruling = await self._services.mode.read_ruling()
        await self._bring_to_rest(ruling)
        rows = await self._database.fetch(_NEW_ROWS, self._last_seq)
        changes = {row["account_no"]: row["change"] for row in rows}
        expected = {
            number: balance + changes.get(number, 0) for number, balance in self._balances.items()
        }
        self._last_seq = (await self._database.fetchrow(_PENDING, self._last_seq))["last"]
        self._balances = await self._read_balances()
        new = sum(row["rows"] for row in rows)
        used = {account_id(number) for number in range(cell.accounts)}
        touched = {self._names[number] for number in changes if number in self._names}
        return {
            "postgres": self._balances == expected,
            "redis": mode is not Mode.REDIS or await self._redis_agrees(ruling, touched),
            "api": self._api_agrees(url, sorted(touched)[:_ASKED_MAX]),
            "a row is a cent": self._is_cents(cell, new, sum(changes.values())),
            "every acceptance has its row": new in possible_rows(cell, figures),
            "no refusals": figures.refused == 0 and figures.errors == 0,
            "no other account": touched <= used,
            "in its mode": ruling.mode is mode,
        }

    async def _bring_to_rest(self, ruling: Ruling) -> None:
        """Settle until nothing is pending, in flight or still coming."""
        deadline, seen, looks = time.monotonic() + _QUIET_S, -1, 0
        while time.monotonic() < deadline:
            await self._services.settler.settle()
            held = await self._redis.hlen(flight_key(SHARD, ruling.epoch))
            state = await self._database.fetchrow(_PENDING, self._last_seq)
            is_same = held == 0 and state["pending"] == 0 and state["last"] == seen
            looks = looks + 1 if is_same else 0
            if looks == _LOOKS:
                return
            seen = state["last"]
            await asyncio.sleep(_LOOK_S)
        raise SystemExit("the service does not come to rest")

    async def _read_balances(self) -> dict[int, int]:
        rows = await self._database.fetch(_BALANCES)
        self._names = {row["account_no"]: row["account_id"] for row in rows}
        return {row["account_no"]: row["settled"] for row in rows}

    async def _redis_agrees(self, ruling: Ruling, names: set[str]) -> bool:
        """Compare what each account that was used may still spend with what it has."""
        by_name = {self._names[number]: minor for number, minor in self._balances.items()}
        wanted = sorted(names)
        for start in range(0, len(wanted), _REDIS_PART):
            part = wanted[start : start + _REDIS_PART]
            pipeline = self._redis.pipeline(transaction=False)
            for name in part:
                pipeline.hmget(account_key(SHARD, ruling.epoch, name), ["available", "incoming"])
            for name, found in zip(part, await pipeline.execute(), strict=True):
                if found != [str(by_name[name]), "0"]:
                    return False
        return True

    @staticmethod
    def _is_cents(cell: Cell, rows: int, change_minor: int) -> bool:
        """Debits of a cent leave as many rows as cents; transfers and holds leave only pairs."""
        if cell.kind == TRANSACTIONS:
            return rows == -change_minor
        return change_minor == 0 and rows % 2 == 0

    def _api_agrees(self, url: str, names: list[str]) -> bool:
        by_name = {self._names[number]: minor for number, minor in self._balances.items()}
        return all(
            ask(f"{url}/api/v1/balance/{name}")["available_balance"]
            == decimal_text(by_name[name], 2)
            for name in names
        )


def ask(url: str) -> Any:
    """Read a JSON answer."""
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.load(answer)


def require(cell: Cell, figures: Figures, facts: Mapping[str, bool]) -> None:
    """End the run, with 1, when something is not exact."""
    wrong = [name for name, holds in facts.items() if not holds]
    if wrong:
        raise SystemExit(f"wrong after {cell} {figures}: {', '.join(wrong)}")
