"""What PostgreSQL is asked about the ledger as a whole; every answer is bounded."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from app import limits
from app.infra.queries import load_queries
from app.ledger.model import Transaction
from app.ledger.store import SHARD, LedgerStore, transaction_of

_QUERIES = {name: query.sql for name, query in load_queries("web").items()}
_Row = Any


class Clock(NamedTuple):
    """What time it is in PostgreSQL, and when its day began in UTC."""

    now: datetime
    today: datetime


class Second(NamedTuple):
    """How many entries were journaled in one second; None where that was not counted to the end."""

    at: datetime
    entries: int | None


class Settled(NamedTuple):
    """One settlement."""

    settlement_id: int
    settled_at: datetime
    entry_count: int


class Epoch(NamedTuple):
    """Who decided from when on, and why."""

    epoch: int
    mode: str
    reason: str
    opened_at: datetime


class HotAccount(NamedTuple):
    """How many entries of a sample are an account's."""

    account_id: str
    currency: str
    entries: int
    sampled: int


class DashboardStore:
    """Bounded reads of the ledger's tables."""

    def __init__(self, ledger: LedgerStore) -> None:
        """Ask through a ledger's store."""
        self._ledger = ledger

    async def _fetch(self, name: str, *arguments: Any) -> Sequence[_Row]:
        return await self._ledger.fetch_sql(_QUERIES[name], *arguments)

    async def clock(self) -> Clock:
        """Ask PostgreSQL for the time."""
        return Clock(*(await self._fetch("live_clock"))[0])

    async def seconds(self, start: datetime) -> list[Second]:
        """Count what was journaled in each second from one on; seconds with nothing are left out.

        The last of too many was not counted to the end, and what follows it not at all.
        """
        rows = await self._fetch("live_seconds", start, limits.LIVE_BATCHES_MAX)
        seconds = [Second(row["second"], int(row["entries"] or 0)) for row in rows]
        if rows and rows[-1]["is_partial"]:
            seconds[-1] = Second(seconds[-1].at, None)
        return seconds

    async def pending(self) -> tuple[int, bool]:
        """Count entries that are not settled; True where there are more."""
        row = (await self._fetch("live_pending", limits.LIVE_PENDING_BATCHES_MAX))[0]
        return row["entries"], row["is_partial"]

    async def settled(self, start: datetime, after_id: int) -> list[Settled]:
        """Read settlements of an instant or later that are not known yet, oldest first."""
        rows = await self._fetch("live_settled", start, after_id, limits.LIVE_SETTLEMENTS_MAX)
        return [Settled(*row) for row in rows]

    async def epochs(self) -> list[Epoch]:
        """Read the latest epochs, the newest first."""
        rows = await self._fetch("live_epochs", SHARD, limits.LIVE_EPOCHS_SHOWN)
        return [Epoch(*row) for row in rows]

    async def recent(self) -> list[Transaction]:
        """Read customers' latest transactions, the newest first."""
        rows = await self._fetch("live_recent", limits.LIVE_TRANSACTIONS_SHOWN)
        return [transaction_of(row) for row in rows]

    async def hot(self, start: datetime) -> list[HotAccount]:
        """Tell which accounts a sample of the latest entries is of, those with most first."""
        rows = await self._fetch(
            "live_hot",
            start,
            limits.LIVE_SAMPLED_BATCHES,
            limits.LIVE_SAMPLED_ENTRIES,
            limits.LIVE_ACCOUNTS_SHOWN,
        )
        return [HotAccount(*row) for row in rows]
