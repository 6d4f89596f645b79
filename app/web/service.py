"""The figures of the dashboard. They are put together when somebody looks, at a cost that does not
grow with what flows; what this keeps between two looks is bounded.
"""

from datetime import UTC, datetime, timedelta

import msgspec

from app import limits
from app.ledger.model import Transaction
from app.ledger.store import LedgerStore
from app.web.store import Clock, DashboardStore, Epoch, HotAccount, Second

_SECOND = timedelta(seconds=1)
# A batch has a time from before its commit, so a second is shown when it is over for so long.
_COMMIT = timedelta(milliseconds=300)
_SETTLED_AGAIN = timedelta(seconds=10)


class LedgerFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The whole ledger as PostgreSQL has it; `seconds` are whole ones, the latest last."""

    seconds: tuple[Second, ...]
    pending_count: int
    pending_is_more: bool
    settled_today: int | None
    hot: list[HotAccount]
    recent: list[Transaction]
    epochs: list[Epoch]


class Dashboard:
    """What one process knows of the whole ledger for those who look."""

    def __init__(self, store: LedgerStore) -> None:
        """Ask through a ledger's store."""
        self._store = DashboardStore(store)
        self._seconds: dict[datetime, int | None] = {}
        self._today: datetime | None = None
        self._settled_count, self._settlement_id = 0, 0
        self._settled_from = datetime.now(UTC)

    async def ledger(self) -> LedgerFigures:
        """Ask PostgreSQL about the whole ledger; raises `PostgresUnavailable`."""
        clock = await self._store.clock()
        seconds = await self._whole_seconds(clock.now)
        pending_count, is_more = await self._store.pending()
        return LedgerFigures(
            seconds=seconds,
            pending_count=pending_count,
            pending_is_more=is_more,
            settled_today=await self._settled_today(clock),
            hot=await self._store.hot(clock.now - timedelta(seconds=limits.LIVE_WINDOW_S)),
            recent=await self._store.recent(),
            epochs=await self._store.epochs(),
        )

    async def _whole_seconds(self, now: datetime) -> tuple[Second, ...]:
        """Bring the latest seconds up to date; the last few again, for a commit may come late."""
        last = (now - _COMMIT).replace(microsecond=0) - _SECOND
        first = last - (limits.LIVE_SECONDS_SHOWN - 1) * _SECOND
        again = max(self._seconds, default=first) - (limits.LIVE_SECONDS_AGAIN - 1) * _SECOND
        start = max(first, again)
        found = {each.at: each.entries for each in await self._store.seconds(start)}
        unknown_from = min((at for at, entries in found.items() if entries is None), default=None)
        kept = {at: entries for at, entries in self._seconds.items() if first <= at < start}
        while start <= last:
            is_known = unknown_from is None or start < unknown_from
            kept[start] = found.get(start, 0) if is_known else None
            start += _SECOND
        self._seconds = kept
        return tuple(Second(at, kept[at]) for at in sorted(kept))

    async def _settled_today(self, clock: Clock) -> int | None:
        """Add what was settled since the last look; None as long as there is more to add."""
        if clock.today != self._today:
            self._today, self._settled_from = clock.today, clock.today
            self._settled_count, self._settlement_id = 0, 0
        found = await self._store.settled(self._settled_from, self._settlement_id)
        if found:
            self._settled_count += sum(each.entry_count for each in found)
            self._settlement_id = max(each.settlement_id for each in found)
            self._settled_from = max(clock.today, found[-1].settled_at - _SETTLED_AGAIN)
        return self._settled_count if len(found) < limits.LIVE_SETTLEMENTS_MAX else None
