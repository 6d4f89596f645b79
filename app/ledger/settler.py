"""Settlement: folds what is pending into settled balances, chunk by chunk.

A chunk is one SQL transaction, done or not done. Showing it in Redis afterwards is a courtesy that
may be missed and heals itself; `available` never depends on it.
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from app import errors, limits
from app.infra.postgres import POSTGRES_ERRORS
from app.ledger.admission import Admission, Fenced, SettledLine
from app.ledger.mode import ModeKeeper, Ruling
from app.ledger.store import QUERIES

if TYPE_CHECKING:
    from app.infra.postgres import Pool

_log = logging.getLogger(__name__)


class SettledCount(NamedTuple):
    """How much one run of the settler folded."""

    batches: int
    entries: int


class Settler:
    """Settles one database; several may run, each chunk lets one of them work."""

    def __init__(self, pool: "Pool", mode: ModeKeeper, admission: Admission) -> None:
        """Use a pool whose statements may take as long as a chunk takes."""
        self._pool = pool
        self._mode = mode
        self._admission = admission

    async def settle(self) -> SettledCount:
        """Fold until nothing is pending or another settler is at work.

        Raises `PostgresUnavailable`; what was folded before stays folded.
        """
        batches = entries = 0
        for _ in range(limits.SETTLE_CHUNKS_MAX):
            chunk = await self._fetch_one(
                "settle_chunk", limits.SETTLE_BATCHES_MAX, limits.SETTLE_ENTRIES_MAX
            )
            if chunk["outcome"] != "settled":
                break
            batches += chunk["batches"]
            entries += chunk["entries"]
            await self._show(chunk["settlement"])
        return SettledCount(batches, entries)

    async def ensure_partitions(self) -> int:
        """Make the journal's partitions for the coming months; returns how many were made."""
        made = await self._fetch_one("ensure_partitions", limits.PARTITION_MONTHS_AHEAD)
        return int(made[0])

    async def _show(self, settlement_id: int) -> None:
        """Move a settlement from pending to settled in Redis, for the accounts loaded there."""
        try:
            ruling = await self._mode.observe()
            if ruling is None:
                return
            rows = await self._fetch("lines_of_settlement", settlement_id)
            for start in range(0, len(rows), limits.REFRESH_ACCOUNTS_MAX):
                part = rows[start : start + limits.REFRESH_ACCOUNTS_MAX]
                await self._refresh(ruling, part)
        except (Fenced, errors.RedisUnavailable) as exc:
            _log.warning("settlement %s is not shown in redis: %s", settlement_id, exc)

    async def _refresh(self, ruling: Ruling, rows: Sequence[Any]) -> None:
        """Send lines; where Redis missed earlier ones, send all it missed as one."""
        behind = await self._admission.refresh(ruling, [SettledLine(*row[1:]) for row in rows])
        caught_up = []
        for position, version in behind:
            account_no, account_id = rows[position][:2]
            row = await self._fetch_one("lines_since_version", account_no, int(version))
            caught_up.append(SettledLine(account_id, version, *row))
        if caught_up:
            await self._admission.refresh(ruling, caught_up)

    async def _fetch(self, name: str, *arguments: Any) -> Any:
        try:
            return await self._pool.fetch(QUERIES[name], *arguments)
        except POSTGRES_ERRORS as exc:
            raise errors.PostgresUnavailable(f"PostgreSQL does not answer: {exc}") from exc

    async def _fetch_one(self, name: str, *arguments: Any) -> Any:
        return (await self._fetch(name, *arguments))[0]
