"""Turns at something that only so many may do at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app import errors


class Turns:
    """A bounded number of turns, and a bounded wait for one."""

    def __init__(self, count: int, wait_s: float, too_many: str) -> None:
        """`too_many` is what is said to those who waited in vain."""
        self._free = asyncio.Semaphore(count)
        self._wait_s = wait_s
        self._too_many = too_many

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn and take it; raises `Overloaded` when that takes too long."""
        try:
            async with asyncio.timeout(self._wait_s):
                await self._free.acquire()
        except TimeoutError as exc:
            raise errors.Overloaded(self._too_many) from exc
        try:
            yield
        finally:
            self._free.release()
