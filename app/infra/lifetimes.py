"""What runs beside a service, and what has to be waited for before it is there."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

import tenacity

from app.errors import Unavailable

_STARTUP_WAIT_S = 15
T = TypeVar("T")


@asynccontextmanager
async def running_beside(*loops: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run loops beside the service; they are cancelled when it closes."""
    tasks = [asyncio.create_task(loop) for loop in loops]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def waited_for(opened: Callable[[], AbstractAsyncContextManager[T]]) -> AsyncIterator[T]:
    """Open something, waiting a bounded time for a server that is still starting."""
    async with AsyncExitStack() as stack:
        async for attempt in tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(Unavailable),
            wait=tenacity.wait_exponential(multiplier=0.1, max=1),
            stop=tenacity.stop_after_delay(_STARTUP_WAIT_S),
            reraise=True,
        ):
            with attempt:
                value = await stack.enter_async_context(opened())
        yield value
