"""Routes, errors, the life of the services and their server; `python -m app.main` serves."""

import gc
import logging
import os
import resource
import socket
import ssl
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack
from functools import partial

import uvicorn
from litestar import Litestar
from litestar.datastructures import State
from litestar.types import ASGIApp, LifeSpanReceive, LifeSpanSend, Receive, Scope, Send

from app import errors, limits
from app.api.connection import LEAVING, BoundedConnection
from app.api.fast_lane import FastLane
from app.api.metrics import counted, metrics_of
from app.api.observer import RequestObserver
from app.api.openapi import openapi_config
from app.api.problem import name_answer, render
from app.api.query import learn_parameters, refuse_unknown_parameters
from app.api.routers import all_routers
from app.api.security import secured
from app.api.starting import Opening, StartingServices
from app.api.traced_request import TracedRequest
from app.bootstrap import Services
from app.infra.lifetimes import running_beside
from app.infra.log import masked
from app.infra.metrics_server import serving_metrics
from app.ledger.instruments import Instruments, observing
from app.security.cors import Cors
from app.security.guard import Guard
from app.security.key_ring import KeyRing
from app.security.rate import RateLimit
from app.settings import Settings, load_settings
from app.web.counts import Counts
from app.web.live import LiveFeed
from app.web.snapshot import Sampler, Sources

VERSION = "0.1.0"
_BACKLOG = 2_048
_KEEP_ALIVE_S = 75
_STOP_S = 8
# Forward secrecy and authenticated encryption, for TLS 1.2; those of 1.3 all have both.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
_COLLECT_AFTER = (50_000, 50, 100)


class ServerConfig(uvicorn.Config):
    """How to serve; `live` has to be ended before a server waits for its connections to end."""

    live: LiveFeed


def server_config(settings: Settings, instruments: Instruments | None = None) -> ServerConfig:
    """Describe the server: the application, and the fast lane beside it.

    The lane writes no access log of uvicorn's and no headers of the server's, so neither may be
    switched on. What is counted, timed and traced goes to `instruments`, if they are given.
    """
    instruments = instruments or Instruments("api", metrics=settings.observation.metrics)
    observer = RequestObserver(instruments, settings.observation)
    router = _router(settings, observer)
    rules = settings.security
    keys = KeyRing() if rules.require_api_key else None
    guard = Guard(keys, _rate_limit(settings))
    cors = Cors(rules.cors_origins) if rules.cors_origins else None
    connections_max = _connections_max(settings)
    lane = FastLane(
        lambda: router.state.ledger,
        guard,
        observer,
        connections_max=connections_max,
        leaves_pages=cors is not None,
    )
    if instruments.tracing is not None:
        lane.request = partial(TracedRequest, instruments.tracing)
    bounded = partial(BoundedConnection, connections_max=connections_max, observer=observer)
    app = observer.observed(secured(router, guard, cors))
    opening = partial(Opening, settings, key_ring=keys, instruments=instruments)
    own = settings.observation
    beside = partial(
        serving_metrics, own.metrics_host, own.metrics_port, lambda: metrics_of(router.state)
    )
    config = ServerConfig(
        _with_life(router, app, opening, beside),
        host=settings.http.host,
        port=settings.http.port,
        loop="uvloop",
        http=lane.connection if settings.http.direct_route else bounded,  # type: ignore[arg-type]
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        log_level=settings.log_level,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_STOP_S,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        ssl_certfile=rules.tls_certificate or None,
        ssl_keyfile=rules.tls_key or None,
        ssl_ciphers=_CIPHERS,
    )
    config.live = router.state.live
    return config


def _rate_limit(settings: Settings) -> RateLimit | None:
    rules = settings.security
    return RateLimit(rules.rate_requests, rules.rate_window_s) if rules.rate_requests else None


def _connections_max(settings: Settings) -> int:
    """Allow as many connections as are set and as there are descriptors for."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return settings.security.connections_max
    room = max(1, descriptors - limits.DESCRIPTORS_RESERVED)
    return min(settings.security.connections_max, room)


def _router(settings: Settings, observer: RequestObserver) -> Litestar:
    state = State({"observer": observer, "default_currency": settings.ledger.default_currency})
    _set_services(state, StartingServices())
    state.counts = Counts(partial(counted, observer) if observer.counts else None)
    sampler = Sampler(lambda: Sources(state.ledger, state.dashboard), state.counts)
    state.live = LiveFeed(sampler.take)
    router = Litestar(
        route_handlers=all_routers(settings),
        before_request=refuse_unknown_parameters,
        exception_handlers={Exception: render},
        before_send=[name_answer],
        openapi_config=openapi_config(VERSION, needs_key=settings.security.require_api_key),
        request_max_body_size=limits.BODY_BYTES_MAX,
        state=state,
        debug=False,
        logging_config=None,
    )
    learn_parameters(router)
    return router


def _set_services(state: State, services: Services | StartingServices) -> None:
    state.update(ledger=services.ledger, events=services.events, dashboard=services.dashboard)


def _with_life(
    router: Litestar,
    app: ASGIApp,
    opening: Callable[..., Opening],
    beside: Callable[[], AbstractAsyncContextManager[None]],
) -> ASGIApp:
    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":  # type: ignore[comparison-overlap]
            await _live(router, opening, beside, receive, send)  # type: ignore[arg-type]
        else:
            await app(scope, receive, send)

    return serve


class Server(uvicorn.Server):
    """A server that tells those who would stay that it goes."""

    config: ServerConfig

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Say so to every connection, those included that are being accepted now, and end what has
        no end of its own.
        """
        self.lifespan.state[LEAVING] = True
        self.config.live.end()
        await super().shutdown(sockets)


class _LastingServer(Server):
    """A server whose garbage collector leaves alone what will live as long as the process, and
    that says when it serves.
    """

    notify_socket = ""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open everything, set the collector, then tell whoever waits for it."""
        await super().startup(sockets)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_COLLECT_AFTER)
        if self.started and self.notify_socket:
            _notify(self.notify_socket)


def _notify(address: str) -> None:
    """Tell the process that started this one, as systemd wants it, that requests are served."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as teller:
        try:
            teller.sendto(b"READY=1", "\0" + address[1:] if address[0] == "@" else address)
        except OSError as error:
            logging.getLogger(__name__).warning("nobody could be told of the start: %s", error)


def _inherited(settings: Settings) -> list[socket.socket] | None:
    """The listening socket that this process was given, if it was."""
    if not settings.http.listen_fd:
        return None
    try:
        listener = socket.socket(fileno=settings.http.listen_fd)
        if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise OSError("it does not listen")
    except OSError as error:
        raise errors.InvalidSettings(f"SUBBALANCE_LISTEN_FD: {error}") from error
    return [listener]


async def _live(
    app: Litestar,
    open_all: Callable[..., Opening],
    beside: Callable[[], AbstractAsyncContextManager[None]],
    receive: LifeSpanReceive,
    send: LifeSpanSend,
) -> None:
    """Open the services as soon as PostgreSQL is there and close them when the server stops.

    Meanwhile requests are answered that they should come again. What no waiting would mend ends
    the start with a sentence instead of the framework's traceback.
    """
    await receive()
    async with AsyncExitStack() as stack:
        opening = open_all(partial(_set_services, app.state))
        stack.push_async_callback(opening.close)
        try:
            await opening.first_attempt()
        except errors.LedgerError as error:
            await send({"type": "lifespan.startup.failed", "message": error.detail})
            return
        await stack.enter_async_context(app.lifespan())
        await stack.enter_async_context(beside())
        await stack.enter_async_context(running_beside(app.state.counts.note_minutes()))
        await send({"type": "lifespan.startup.complete"})
        await receive()
    await send({"type": "lifespan.shutdown.complete"})


def main() -> int:
    """Serve until SIGTERM or SIGINT; 0 when it ended as told."""
    try:
        settings = load_settings(os.environ)
        sockets = _inherited(settings)
    except errors.LedgerError as error:
        print(f"error: {masked(error.detail)}", file=sys.stderr)
        return 2
    with ExitStack() as stack:
        try:
            instruments = stack.enter_context(observing("api", "app", settings))
        except errors.LedgerError as error:
            print(f"error: {masked(error.detail)}", file=sys.stderr)
            return 2
        config = server_config(settings, instruments)
        try:
            config.load()
        except (OSError, ssl.SSLError) as error:
            print(f"error: TLS certificate or key: {error.strerror or error}", file=sys.stderr)
            return 2
        server = _LastingServer(config)
        server.notify_socket = settings.http.notify_socket
        try:
            server.run(sockets)
        except KeyboardInterrupt:
            return 0
        except SystemExit:
            return 1
        return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())
