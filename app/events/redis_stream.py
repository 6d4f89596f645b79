"""The stream of events in Redis, of bounded length.

A Redis that was flushed or replaced lost it. That is noticed: the cursor remembers the id of the
last entry, and the newest entry of a stream is never trimmed. Then the stream is filled again from
some time before.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from app import limits
from app.events.courier import SinkFailed
from app.events.model import BEGINNING, Appended, Cursor, Position, TellableEvent
from app.infra.redis import REDIS_ERRORS
from app.infra.scripts import LuaScripts
from app.settings import Events

if TYPE_CHECKING:
    from redis.asyncio import Redis


class RedisStream:
    """A stream that everybody may read."""

    name = "redis"

    def __init__(self, redis: "Redis", settings: Events) -> None:
        """Use a client of its own."""
        self._scripts = LuaScripts(redis)
        self._key = settings.stream
        self._items = str(settings.stream_items)
        self._refill = timedelta(milliseconds=settings.refill_ms)
        self._checked_at = 0.0

    async def check(self, cursor: Cursor) -> Position | None:
        """See now and then whether the last entry is there still."""
        now = asyncio.get_running_loop().time()
        if cursor.mark is None or now - self._checked_at < limits.STREAM_CHECK_S:
            return None
        word, _ = await self._append((), cursor.mark)
        self._checked_at = now
        return self._refill_from(cursor) if word == Appended.EMPTIED else None

    async def put(self, events: Sequence[TellableEvent], cursor: Cursor) -> str | None:
        """Add entries, a bounded number at once, where the one before is there still."""
        mark = cursor.mark
        for start in range(0, len(events), limits.STREAM_WRITE_ITEMS):
            some = events[start : start + limits.STREAM_WRITE_ITEMS]
            word, mark = await self._append(some, mark)
            if word == Appended.EMPTIED:
                self._checked_at = 0.0
                raise SinkFailed("the stream was emptied")
        return mark

    async def _append(
        self, events: Sequence[TellableEvent], mark: str | None
    ) -> tuple[Appended, str]:
        """Add entries behind the last one. Raises `SinkFailed`."""
        fields: list[str | bytes] = []
        for event in events:
            fields += (event.event_id, event.type, event.account_id, event.sequence, event.body)
        try:
            word, newest = await self._scripts.call(
                "append", [self._key], [mark or "", self._items, *fields]
            )
        except REDIS_ERRORS as exc:
            # Redis may be another server now, for one a replica that was promoted.
            self._scripts.start_over()
            raise SinkFailed(f"Redis does not take events: {exc}") from exc
        return Appended(word), newest

    def _refill_from(self, cursor: Cursor) -> Position:
        earliest = BEGINNING.at + self._refill
        if cursor.position.at <= earliest:
            return BEGINNING
        return Position(cursor.position.at - self._refill)
