"""Routes, errors, the life of the services and their server; `python -m app.main` serves."""

import gc
import logging
import os
import socket
import sys
from contextlib import AsyncExitStack

import uvicorn
from litestar import Litestar
from litestar.datastructures import State
from litestar.types import ASGIApp, LifeSpanReceive, LifeSpanSend, Receive, Scope, Send

from app import errors, limits
from app.api.fast_lane import FastLane
from app.api.openapi import openapi_config
from app.api.problem import name_answer, render
from app.api.routers import all_routers
from app.api.starting import Opening, StartingLedger
from app.settings import Settings, load_settings

VERSION = "0.1.0"
_BACKLOG = 2_048
_KEEP_ALIVE_S = 75
_STOP_S = 8
_COLLECT_AFTER = (50_000, 50, 100)


def server_config(settings: Settings) -> uvicorn.Config:
    """Describe the server: the application, and the fast lane beside it.

    The lane writes no access log and no headers of the server's, so neither may be switched on.
    """
    router = _router(settings)
    lane = FastLane(lambda: router.state.ledger)
    return uvicorn.Config(
        _with_life(router, settings),
        host=settings.http.host,
        port=settings.http.port,
        loop="uvloop",
        http=lane.connection if settings.http.direct_route else "httptools",  # type: ignore[arg-type]
        ws="none",
        lifespan="on",
        access_log=False,
        log_level=settings.log_level,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_STOP_S,
        proxy_headers=False,
        server_header=False,
        date_header=False,
    )


def _router(settings: Settings) -> Litestar:
    return Litestar(
        route_handlers=all_routers(settings),
        exception_handlers={Exception: render},
        before_send=[name_answer],
        openapi_config=openapi_config(VERSION),
        request_max_body_size=limits.BODY_BYTES_MAX,
        state=State(
            {
                "ledger": StartingLedger(),
                "events": StartingLedger(),
                "default_currency": settings.ledger.default_currency,
            }
        ),
        debug=False,
        logging_config=None,
    )


def _with_life(router: Litestar, settings: Settings) -> ASGIApp:
    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":  # type: ignore[comparison-overlap]
            await _live(router, settings, receive, send)  # type: ignore[arg-type]
        else:
            await router(scope, receive, send)

    return serve


class _Server(uvicorn.Server):
    """A server whose garbage collector leaves alone what will live as long as the process."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open everything, then set the collector."""
        await super().startup(sockets)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_COLLECT_AFTER)


async def _live(
    app: Litestar, settings: Settings, receive: LifeSpanReceive, send: LifeSpanSend
) -> None:
    """Open the services as soon as PostgreSQL is there and close them when the server stops.

    Meanwhile requests are answered that they should come again. What no waiting would mend ends
    the start with a sentence instead of the framework's traceback.
    """
    await receive()
    async with AsyncExitStack() as stack:
        opening = Opening(
            settings, lambda ledger, events: app.state.update(ledger=ledger, events=events)
        )
        stack.push_async_callback(opening.close)
        try:
            await opening.first_attempt()
        except errors.LedgerError as error:
            await send({"type": "lifespan.startup.failed", "message": error.detail})
            return
        await stack.enter_async_context(app.lifespan())
        await send({"type": "lifespan.startup.complete"})
        await receive()
    await send({"type": "lifespan.shutdown.complete"})


def main() -> int:
    """Serve until SIGTERM or SIGINT; 0 when it ended as told."""
    try:
        settings = load_settings(os.environ)
    except errors.LedgerError as error:
        print(f"error: {error.detail}", file=sys.stderr)
        return 2
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    server = _Server(server_config(settings))
    try:
        server.run()
    except KeyboardInterrupt:
        return 0
    except SystemExit:
        return 1
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())
