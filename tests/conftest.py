"""Private servers for the test session, a fresh database for each test, and the real service.

Nothing here touches a server it did not start. Durability is off where a test does not kill
PostgreSQL; everything else is as in production.
"""

import asyncio
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest
import redis as redis_sync
import uvicorn

from app.bootstrap import Services, WorkerServices, open_services, open_worker_services
from app.infra.embedded import EmbeddedPostgres, EmbeddedRedis, start_postgres, start_redis
from app.infra.migrations import migrate
from app.kit.money import currency_exponent, minor_units, parse_amount
from app.ledger.model import AccountRequest
from app.main import Server, ServerConfig, server_config
from app.settings import Http, Ledger, Postgres, Redis, Reliability, Settings

_MEMORY_BYTES_MIN = 4 * 1024**3
_TEMPLATE = "template_subbalance"
_database_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def servers_folder() -> Iterator[Path]:
    """A short path, because a unix socket's path may not be long; in memory where there is room,
    for each test has a database of its own, and most of its time would go into files.
    """
    memory = Path("/dev/shm")
    has_room = memory.is_dir() and shutil.disk_usage(memory).free > _MEMORY_BYTES_MIN
    with tempfile.TemporaryDirectory(prefix="sb-", dir=memory if has_room else None) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="session")
def postgres_server(servers_folder: Path) -> Iterator[EmbeddedPostgres]:
    """A private PostgreSQL with a migrated template database."""
    server = start_postgres(servers_folder / "postgres", print, durable=False)

    async def prepare() -> None:
        connection = await asyncpg.connect(server.url)
        await connection.execute(f"CREATE DATABASE {_TEMPLATE}")
        await connection.close()
        connection = await asyncpg.connect(database_url_of(server, _TEMPLATE))
        await migrate(connection)
        await connection.close()

    asyncio.run(prepare())
    yield server
    server.stop()


@pytest.fixture(scope="session")
def redis_server(servers_folder: Path) -> Iterator[EmbeddedRedis]:
    """A private Redis."""
    server = start_redis(servers_folder / "redis")
    yield server
    server.stop()


def database_url_of(server: EmbeddedPostgres, database: str) -> str:
    """The URL of another database of the same server."""
    base, _, options = server.url.partition("?")
    url = base.rsplit("/", 1)[0] + f"/{database}"
    return f"{url}?{options}" if options else url


@pytest.fixture
async def database_url(postgres_server: EmbeddedPostgres) -> AsyncIterator[str]:
    """A fresh, migrated database, dropped afterwards."""
    name = f"test_{os.getpid()}_{next(_database_numbers)}"
    admin = await asyncpg.connect(postgres_server.url)
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
    yield database_url_of(postgres_server, name)
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis) -> str:
    """An empty Redis."""
    with redis_sync.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture
def settings(database_url: str, redis_url: str, request: pytest.FixtureRequest) -> Settings:
    """Settings of a service on the private servers, test routes on.

    `@pytest.mark.reliability(...)` changes what happens when a part fails.
    """
    marker = request.node.get_closest_marker("reliability")
    return Settings(
        http=Http(port=0, enable_test_mode=True),
        redis=Redis(url=redis_url),
        postgres=Postgres(url=database_url),
        ledger=Ledger(settlement_interval_ms=100),
        reliability=Reliability(**(marker.kwargs if marker else {})),
        log_level="warning",
    )


@pytest.fixture
async def services(settings: Settings) -> AsyncIterator[Services]:
    """The ledger in this process, without HTTP."""
    async with open_services(settings) as services:
        yield services


@pytest.fixture
async def worker(settings: Settings) -> AsyncIterator[WorkerServices]:
    """The worker's services; a test settles when it wants to."""
    async with open_worker_services(settings) as worker:
        yield worker


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Any]:
    """A connection to the test's database, for looking and for faults."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[Any]:
    """A client of the test's Redis, for looking and for faults."""
    with redis_sync.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


OpenAccount = Callable[..., Awaitable[None]]


@pytest.fixture
def open_account(services: Services) -> OpenAccount:
    """Open accounts in a line: name, opening balance, currency."""

    async def opened(
        account_id: str, opening: str = "0", currency: str = "USD", **more: Any
    ) -> None:
        exponent = currency_exponent(currency)
        opening_minor = 0 if opening == "0" else minor_units(parse_amount(opening), exponent)
        await services.ledger.open_account(
            AccountRequest(
                account_id=account_id,
                currency=currency,
                exponent=exponent,
                opening_minor=opening_minor,
                **more,
            )
        )

    return opened


@asynccontextmanager
async def listening(config: uvicorn.Config) -> AsyncIterator[uvicorn.Server]:
    """Run a server in this loop."""
    server = Server(config) if isinstance(config, ServerConfig) else uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    await eventually(lambda: server.started or task.done())
    if task.done():
        await task
    try:
        yield server
    finally:
        server.should_exit = True
        await task


def port_of(server: uvicorn.Server) -> int:
    """The port a server listens on."""
    port: int = server.servers[0].sockets[0].getsockname()[1]
    return port


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """Serve the API on a free port in this loop and yield a client of it."""
    async with listening(server_config(settings)) as server:
        url = f"http://127.0.0.1:{port_of(server)}"
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            yield client


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the real service."""
    async with serving(settings) as client:
        yield client


@pytest.fixture(params=[True, False], ids=["lane", "router"])
async def api_both(
    settings: Settings, request: pytest.FixtureRequest
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the real service, once with the fast lane and once without."""
    http = msgspec.structs.replace(settings.http, direct_route=request.param)
    async with serving(msgspec.structs.replace(settings, http=http)) as client:
        yield client


async def eventually(condition: Callable[[], Any], timeout_s: float = 10.0) -> Any:
    """Wait until a condition, plain or awaitable, is true; fails past the time-out."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while loop.time() < deadline:
        result = condition()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return result
        await asyncio.sleep(0.01)
    raise AssertionError(f"still not true after {timeout_s} s: {condition}")
