"""Reads the journal as events, in the one order in which everybody is told of them.

What happened is read out of the rows that the change itself wrote, below a time before which
nothing can appear any more. So a page that was read once is the same for ever, and readers share
it.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from app import limits
from app.events.model import STEPS, EventPage, EventType, Position, TellableEvent, Watermark
from app.events.schemas import EventView
from app.events.store import EventStore
from app.infra.http import encode
from app.ledger.codes import HoldKind
from app.ledger.hold_schemas import HoldView, hold_view
from app.ledger.hold_store import read_done_acts
from app.ledger.holds import DoneAct
from app.ledger.model import EXTERNAL_PREFIX, HOLDING_PREFIX
from app.ledger.schemas import TransactionView, instant, transaction_view
from app.ledger.store import account_of, transaction_of

_log = logging.getLogger(__name__)
_Row = Any
_CLOCK_MARGIN = timedelta(minutes=1)
_INTERNAL = (EXTERNAL_PREFIX, HOLDING_PREFIX)
_ENDINGS = {each: each.partition(".")[2] for each in EventType}
_ACCEPTED, _REVERSED, _ACT = 1, 2, 3
_HOLD_TYPES = {
    HoldKind.PLACE: EventType.HOLD_PLACED,
    HoldKind.CAPTURE: EventType.HOLD_CAPTURED,
    HoldKind.RELEASE: EventType.HOLD_RELEASED,
    HoldKind.EXPIRE: EventType.HOLD_EXPIRED,
}


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
            event for event in _events_of(rows, acts, account_no) if event.position >= start
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


def _events_of(
    rows: Sequence[_Row], acts: dict[tuple[int, int], DoneAct], account_no: int | None
) -> list[TellableEvent]:
    events: list[TellableEvent] = []
    for row in rows:
        if row["item_no"] is None:
            continue
        is_wanted = account_no is None or row["account_no"] == account_no
        if is_wanted and not row["account_id"].startswith(_INTERNAL):
            events += _transaction_events(row)
        if row["is_act"]:
            act = acts[row["batch_seq"], row["item_no"]]
            if account_no is None or act.hold.account.account_no == account_no:
                events.append(_hold_event(row, act))
    return events


def _transaction_events(row: _Row) -> list[TellableEvent]:
    account = account_of(row)
    data = transaction_view(transaction_of(row, account))
    if row["kind"]:
        return [_event(row, _ACCEPTED, EventType.TRANSACTION_SETTLED, account.account_id, data)]
    told = [_event(row, _ACCEPTED, EventType.TRANSACTION_ACCEPTED, account.account_id, data)]
    if row["reverses"] is not None:
        reversed_type = EventType.TRANSACTION_REVERSED
        told.append(_event(row, _REVERSED, reversed_type, account.account_id, data))
    return told


def _hold_event(row: _Row, act: DoneAct) -> TellableEvent:
    hold = act.hold
    return _event(row, _ACT, _HOLD_TYPES[act.kind], hold.account.account_id, hold_view(hold))


def _event(
    row: _Row, step: int, kind: EventType, account_id: str, data: TransactionView | HoldView
) -> TellableEvent:
    batch_seq, item_no = row["batch_seq"], row["item_no"]
    place = Position(row["at"], row["kind"], batch_seq, item_no * STEPS + step)
    event_id = f"{batch_seq}-{item_no}-{_ENDINGS[kind]}"
    sequence = place.after_step.text
    view = EventView(
        id=event_id,
        type=kind,
        account_id=account_id,
        occurred_at=instant(row["at"]),
        sequence=sequence,
        data=data,
    )
    return TellableEvent(event_id, kind, account_id, place, sequence, encode(view))
