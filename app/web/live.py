"""One snapshot a second for everybody who listens: taken once, and only while somebody does.

Who is slow misses snapshots and is given the latest; who takes none for too long is let go.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from app import limits
from app.infra.http import encode
from app.web.errors import TooManyListeners
from app.web.schemas import Snapshot

_log = logging.getLogger(__name__)


class LiveFeed:
    """What is shared by all who look at one process."""

    def __init__(self, take: Callable[[], Awaitable[Snapshot]]) -> None:
        """`take` makes a snapshot; it is never called twice at once."""
        self._take = take
        self._taking = asyncio.Lock()
        self._latest: Snapshot | None = None
        self._taken_at = 0.0
        self._body = b""
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.listener_count = 0
        self.has_ended = False

    async def latest(self) -> Snapshot:
        """Give a snapshot that is no older than the time between two."""
        loop = asyncio.get_running_loop()
        async with self._taking:
            is_old = loop.time() - self._taken_at >= limits.LIVE_SAMPLE_S
            if self._latest is None or is_old:
                self._latest = await self._take()
                self._taken_at = loop.time()
                self._body = b"data: %b\n\n" % encode(self._latest)
                self._news.set()
                self._news = asyncio.Event()
            return self._latest

    @property
    def is_sampling(self) -> bool:
        """Tell whether snapshots are taken although nobody asks for one."""
        return self._task is not None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take part; raises `TooManyListeners`."""
        if self.listener_count >= limits.LIVE_LISTENERS_MAX:
            raise TooManyListeners
        self.listener_count += 1
        if self._task is None:
            self._task = asyncio.create_task(self._sample())
        try:
            yield
        finally:
            self.listener_count -= 1
            if self.listener_count == 0 and self._task is not None:
                self._task.cancel()
                self._task = None

    async def after(self, number: int) -> tuple[int, bytes] | None:
        """Wait for a snapshot that is newer than one; the latest, where there are several, and None
        when there will be no more.
        """
        while not self.has_ended and (self._latest is None or self._latest.number <= number):
            await self._news.wait()
        return None if self.has_ended or self._latest is None else (self._latest.number, self._body)

    def end(self) -> None:
        """Let everybody go: the process stops."""
        self.has_ended = True
        self._news.set()

    async def _sample(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + limits.LIVE_SAMPLE_S
            try:
                await self.latest()
            except Exception:  # the next one may be better, and who looks sees that none came
                _log.exception("no snapshot could be taken")
            await asyncio.sleep(max(0.0, due - loop.time()))
