"""The stream of events in Redis, of bounded length.

A Redis that was flushed or replaced lost it. That is noticed: the cursor remembers the id of the
last entry, and the newest entry of a stream is never trimmed. Then the stream is filled again from
some time before.
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from app import limits
from app.events.courier import SinkFailed
from app.events.model import BEGINNING, Cursor, Position, TellableEvent
from app.infra.redis import REDIS_ERRORS
from app.settings import Events

if TYPE_CHECKING:
    from redis.asyncio import Redis


class RedisStream:
    """A stream that everybody may read."""

    name = "redis"

    def __init__(self, redis: "Redis", settings: Events) -> None:
        """Use a client of its own."""
        self._redis = redis
        self._key = settings.stream
        self._items = settings.stream_items
        self._refill = timedelta(milliseconds=settings.refill_ms)
        self._checked_at = 0.0

    async def check(self, cursor: Cursor) -> Position | None:
        """See now and then whether the last entry is there still."""
        now = asyncio.get_running_loop().time()
        if cursor.mark is None or now - self._checked_at < limits.STREAM_CHECK_S:
            return None
        try:
            found = await self._redis.xrange(self._key, cursor.mark, cursor.mark)
        except REDIS_ERRORS as exc:
            raise SinkFailed(f"Redis does not answer: {exc}") from exc
        self._checked_at = now
        return None if found else self._refill_from(cursor)

    async def put(self, events: Sequence[TellableEvent], cursor: Cursor) -> str | None:
        """Add entries, a bounded number in one piece, and look whether the one before is there."""
        mark = cursor.mark
        for start in range(0, len(events), limits.STREAM_WRITE_ITEMS):
            mark = await self._add(events[start : start + limits.STREAM_WRITE_ITEMS], mark)
        return mark

    async def _add(self, events: Sequence[TellableEvent], mark: str | None) -> str:
        def queue(pipeline: Any) -> None:
            if mark is not None:
                pipeline.xrange(self._key, mark, mark)
            for event in events:
                fields = {
                    "id": event.event_id,
                    "type": event.type.value,
                    "account_id": event.account_id,
                    "sequence": event.sequence,
                    "event": event.body,
                }
                pipeline.xadd(self._key, fields, maxlen=self._items, approximate=True)

        try:
            replies = await self._redis.transaction(queue)
        except REDIS_ERRORS as exc:
            raise SinkFailed(f"Redis does not take events: {exc}") from exc
        if mark is not None and not replies[0]:
            # It was emptied since it was looked at last: begin a new one, and fill it from before.
            self._checked_at = 0.0
            await self._forget()
            raise SinkFailed("the stream was emptied")
        return str(replies[-1])

    async def _forget(self) -> None:
        """Remove what was added behind a gap."""
        try:
            await self._redis.delete(self._key)
        except REDIS_ERRORS as exc:
            raise SinkFailed(f"Redis does not answer: {exc}") from exc

    def _refill_from(self, cursor: Cursor) -> Position:
        earliest = BEGINNING.at + self._refill
        if cursor.position.at <= earliest:
            return BEGINNING
        return Position(cursor.position.at - self._refill)
