"""The real service and its worker, once for many tests: in a thread of its own, on a Redis and a
database of its own. Tests keep apart by the names they use.
"""

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import msgspec
import pytest

from app.bootstrap import open_worker_services
from app.infra.embedded import EmbeddedPostgres, start_redis
from app.main import server_config
from app.settings import Http, Ledger, Postgres, Redis, Settings
from app.workers.loops import work_always
from tests.conftest import _TEMPLATE, database_url_of, listening, port_of

_numbers = itertools.count(1)  # each folder of tests has its own
_START_S = 30


class Service(msgspec.Struct):
    """Where it listens, and where its database is, for looking."""

    url: str
    database_url: str


async def _create_database(server: EmbeddedPostgres, name: str) -> str:
    connection = await asyncpg.connect(server.url)
    await connection.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
    await connection.close()
    return database_url_of(server, name)


async def _drop_database(server: EmbeddedPostgres, name: str) -> None:
    connection = await asyncpg.connect(server.url)
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()


@contextlib.contextmanager
def running(settings: Settings) -> Iterator[str]:
    """Run the API and the worker in a thread; yields where the API listens."""
    started = threading.Event()
    urls: list[str] = []
    controls: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        stopping = asyncio.Event()
        controls.append((asyncio.get_running_loop(), stopping))
        async with (
            listening(server_config(settings)) as server,
            open_worker_services(settings) as services,
        ):
            work = asyncio.create_task(work_always(services))
            urls.append(f"http://127.0.0.1:{port_of(server)}")
            started.set()
            await stopping.wait()
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert started.wait(_START_S), "the service did not start"
    try:
        yield urls[0]
    finally:
        loop, stopping = controls[0]
        loop.call_soon_threadsafe(stopping.set)
        thread.join(_START_S)


@pytest.fixture(scope="session")
def service(postgres_server: EmbeddedPostgres, servers_folder: Path) -> Iterator[Service]:
    """The service that the clients' tests share."""
    name = f"test_clients_{next(_numbers)}"
    redis = start_redis(servers_folder / name)
    database_url = asyncio.run(_create_database(postgres_server, name))
    settings = Settings(
        http=Http(port=0),
        redis=Redis(url=redis.url),
        postgres=Postgres(url=database_url),
        ledger=Ledger(settlement_interval_ms=100),
        log_level="warning",
    )
    try:
        with running(settings) as url:
            yield Service(url, database_url)
    finally:
        asyncio.run(_drop_database(postgres_server, name))
        redis.stop()
