"""Serves a rival's application on the HTTP server the service runs on, set up by the service."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple

import uvicorn
import uvloop

from app.main import server_config
from app.settings import Http, Settings

_COLLECT_AFTER = (50_000, 50, 100)
Application = Callable[[Any, Any, Any], Awaitable[None]]


class Served(NamedTuple):
    """An application, and what speaks HTTP on a connection if not uvicorn's own parser."""

    application: Application
    connection: Any = "httptools"


async def ready(scope: Any, _receive: Any, send: Any) -> None:
    """Answer whatever is no transaction: the server is there."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def serve(port: int, opened: Callable[[], AbstractAsyncContextManager[Served]]) -> None:
    """Serve on loopback until a signal what is opened inside the loop."""

    async def run() -> None:
        async with opened() as served:
            config = server_config(Settings(http=Http(port=port), log_level="warning"))
            config.app, config.http, config.lifespan = served.application, served.connection, "off"
            gc.collect()
            gc.freeze()
            gc.set_threshold(*_COLLECT_AFTER)
            await uvicorn.Server(config).serve()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
