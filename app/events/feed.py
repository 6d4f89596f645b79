"""Reads the journal as events, in the one order in which everybody is told of them.

What happened is read out of the rows that the change itself wrote, below a time before which
nothing can appear any more. So a page that was read once is the same for ever, and readers share
it.
"""

import asyncio
import logging
from collections import OrderedDict
from datetime import datetime, timedelta

from app import limits
from app.events.journal_events import events_of
from app.events.model import EventPage, Position, Watermark
from app.events.store import EventStore
from app.ledger.hold_store import read_done_acts

_log = logging.getLogger(__name__)
_CLOCK_MARGIN = timedelta(minutes=1)


class Feed:
    """The events of one ledger."""

    def __init__(self, store: EventStore) -> None:
        """Read through a store; does no I/O."""
        self._store = store
        self._lock = asyncio.Lock()
        self._pages: OrderedDict[Position, EventPage] = OrderedDict()
        self._watermark: Watermark | None = None
        self._asked_at = 0.0
        self._empty: set[Position] = set()

    async def page(self, start: Position) -> EventPage:
        """Read what comes from a place on, as the readers of all sinks do: one at a time, and what
        one has read the others are given. Bounded by batches and entries.
        """
        async with self._lock:
            known = self._pages.get(start)
            if known is not None:
                self._pages.move_to_end(start)
                return known
            watermark = await self._fresh_watermark(start)
            if start in self._empty or start.at >= watermark.before:
                return _nothing(start, watermark)
            page = await self._read(
                start, watermark.before, limits.EVENT_PAGE_BATCHES, limits.EVENT_PAGE_ENTRIES
            )
            if page.end == start:
                self._empty.add(start)
                return page
            self._pages[start] = page
            if len(self._pages) > limits.EVENT_PAGES_KEPT:
                self._pages.popitem(last=False)
            return page

    async def read(self, start: Position, account_no: int | None, limit: int) -> EventPage:
        """Read at most so many events from a place on, of one account or of all."""
        watermark = await self._store.watermark()
        before = watermark.before
        if start.at >= before:
            return _nothing(start, watermark)
        batches_max = limits.EVENT_BATCHES_LOOKED_AT
        page = await self._read(start, before, batches_max, limit, account_no)
        if len(page.events) <= limit:
            return page
        events = page.events[:limit]
        return EventPage(events, events[-1].position.after_step)

    async def _fresh_watermark(self, start: Position) -> Watermark:
        """Ask at intervals, and when the last answer cannot know of the place yet."""
        now = asyncio.get_running_loop().time()
        is_old = now - self._asked_at > limits.EVENT_POLL_S / 2
        if self._watermark is None or is_old or start.at > self._watermark.now:
            self._watermark = await self._store.watermark()
            self._asked_at = now
            self._empty.clear()
        return self._watermark

    async def _read(
        self,
        start: Position,
        before: datetime,
        batches_max: int,
        entries_max: int,
        account_no: int | None = None,
    ) -> EventPage:
        rows = await self._store.page(start, before, batches_max, entries_max, account_no)
        if not rows:
            return EventPage((), start)
        places = [(row["batch_seq"], row["item_no"]) for row in rows if row["is_act"]]
        acts = await read_done_acts(self._store.ledger, places)
        # Of the first batch some steps may have been told before; of the others none was.
        events = tuple(
            event for event in events_of(rows, acts, account_no) if event.position >= start
        )
        last = rows[-1]
        return EventPage(events, Position(last["at"], last["kind"], last["batch_seq"]).after_batch)


def _nothing(start: Position, watermark: Watermark) -> EventPage:
    """Go on waiting; or go back, where the clock of PostgreSQL was put back: what happens now has
    times from before the place, and would never be told.
    """
    if start.at <= watermark.now:
        return EventPage((), start)
    _log.warning("the clock of PostgreSQL went back behind %s; telling again", start.at)
    return EventPage((), Position(watermark.before - _CLOCK_MARGIN))
