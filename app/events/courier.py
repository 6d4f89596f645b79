"""Carries events from the journal to one sink, in order and at least once.

The cursor moves on after the sink has taken a page, never before; so a process that dies in between
tells a page twice, and none is missed.
"""

import asyncio
import logging
import zlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol

from app import errors, limits
from app.events.feed import Feed
from app.events.model import Cursor, Position, TellableEvent
from app.events.store import EventStore

_log = logging.getLogger(__name__)
_RETRY_FIRST_S = 0.2


class SinkFailed(Exception):
    """The sink did not take what it was given; it may have taken some of it."""


class Sink(Protocol):
    """Where events go."""

    name: str

    async def check(self, cursor: Cursor) -> Position | None:
        """Tell whence it needs to be told once more; None when it has what it was told."""

    async def put(self, events: Sequence[TellableEvent], cursor: Cursor) -> str | None:
        """Take events in order; returns what the cursor is to remember of it.

        Raises `SinkFailed`.
        """


class Courier:
    """Tells one sink of everything."""

    def __init__(self, feed: Feed, store: EventStore, sink: Sink) -> None:
        """Put the parts together; does no I/O."""
        self._feed = feed
        self._store = store
        self._sink = sink
        self._cursor: Cursor | None = None

    async def deliver_always(self) -> None:
        """Tell the sink for ever; it is asked again later, and later, while it fails."""
        self._cursor, wait_s = None, _RETRY_FIRST_S
        loop = asyncio.get_running_loop()
        while not is_cancelled():
            try:
                began = loop.time()
                moved = await self.step()
                wait_s = _RETRY_FIRST_S
                # It rests as long as it worked: servers that are busy make it work longer, so it
                # leaves them to those who move money, and makes up for it later.
                await asyncio.sleep(loop.time() - began if moved else limits.EVENT_POLL_S)
            except (SinkFailed, errors.LedgerError) as exc:
                _log.warning("events to %s interrupted: %s", self._sink.name, exc)
                await self._wait(wait_s)
                wait_s = min(2 * wait_s, limits.EVENT_RETRY_S)
            except Exception:
                _log.exception("events to %s failed", self._sink.name)
                await self._wait(limits.EVENT_RETRY_S)

    async def step(self) -> bool:
        """Tell the sink of one page; False when there was nothing to tell."""
        cursor = self._cursor or await self._store.cursor(self._sink.name)
        if cursor is None:
            raise errors.InvariantViolation(f"there is no cursor for {self._sink.name}")
        self._cursor = None
        again_from = await self._sink.check(cursor)
        if again_from is not None and again_from < cursor.position:
            _log.warning("%s lost what it was told; it is told again", self._sink.name)
            self._cursor = await self._store.move(self._sink.name, cursor, again_from, None)
            return True
        page = await self._feed.page(cursor.position)
        if page.end == cursor.position:
            self._cursor = cursor
            return False
        mark = await self._sink.put(page.events, cursor) if page.events else cursor.mark
        told = len(page.events)
        self._cursor = await self._store.move(self._sink.name, cursor, page.end, mark, told)
        return True

    async def _wait(self, seconds: float) -> None:
        self._cursor = None
        await asyncio.sleep(seconds)


def is_cancelled() -> bool:
    """Tell whether the running task was cancelled, even if a library swallowed that, as
    `asyncio.wait_for` may before Python 3.12.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def tell_in_lanes(
    events: Iterable[TellableEvent],
    tell: Callable[[TellableEvent], Awaitable[None]],
    lane_count: int,
) -> None:
    """Tell of several accounts at once, and of each in order. The first failure ends all."""
    lanes: list[list[TellableEvent]] = [[] for _ in range(lane_count)]
    for event in events:
        lanes[zlib.crc32(event.account_id.encode()) % lane_count].append(event)

    async def run(lane: list[TellableEvent]) -> None:
        for event in lane:
            await tell(event)

    tasks = [asyncio.create_task(run(lane)) for lane in lanes if lane]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
