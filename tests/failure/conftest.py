"""What tests of faults share: processes to be killed, proxies in between, a look into Redis."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest

from app.bootstrap import Services, WorkerServices, open_services
from app.kit.money import currency_exponent
from app.ledger.flights import Flight, FlightRecord, read_record
from app.ledger.model import AccountRequest
from app.ledger.pipeline import Pipeline
from app.ledger.reaper import ReapedCount
from app.settings import Settings
from tests.conftest import eventually
from tests.failure.proxy import FaultyProxy, proxied
from tests.integration.test_transactions import request

ROOT = Path(__file__).resolve().parents[2]


class ServiceProcess:
    """An API or worker process of the test's own."""

    def __init__(self, module: str, environment: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=output,
            )

    def kill(self) -> None:
        """End it as a crash would."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class Processes:
    """Starts processes on the test's servers and ends those that are left."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._started: list[ServiceProcess] = []
        self._folder = folder
        self._environment = {
            "PATH": os.environ["PATH"],
            "DATABASE_URL": settings.postgres.url,
            "REDIS_URL": settings.redis.url,
            "SETTLEMENT_INTERVAL": "100ms",
            "SUBBALANCE_POSTGRES_TIMEOUT_MS": "60000",
            "SUBBALANCE_LOG_FOLDER": str(folder / "logs"),
        }

    def start(self, module: str, **more: str) -> ServiceProcess:
        """Start `python -m module`."""
        log = self._folder / f"{module}-{len(self._started)}.log"
        started = ServiceProcess(module, {**self._environment, **more}, log)
        self._started.append(started)
        return started

    @contextlib.asynccontextmanager
    async def api(self, **more: str) -> "AsyncIterator[tuple[ServiceProcess, httpx.AsyncClient]]":
        """Start an API and yield it with a client once it is ready."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        started = self.start("app.main", PORT=str(port), **more)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:

            async def is_ready() -> bool:
                assert started.process.poll() is None, started.log.read_text()
                try:
                    return (await client.get("/health/ready")).status_code == 200
                except httpx.TransportError:
                    return False

            await eventually(is_ready, 20)
            yield started, client
        started.kill()

    def end(self) -> None:
        """Kill what is left."""
        for started in self._started:
            started.kill()


@pytest.fixture
def processes(settings: Settings, tmp_path: Path) -> Iterator[Processes]:
    """Starts the service's processes on the test's servers."""
    processes = Processes(settings, tmp_path)
    yield processes
    processes.end()


@pytest.fixture
async def other(settings: Settings) -> AsyncIterator[Services]:
    """A second instance."""
    async with open_services(settings) as services:
        yield services


# A reservation may be in flight for so long.
AGE_S = 10.0


class Clock:
    """A clock turned by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(worker: WorkerServices) -> Clock:
    """The reaper's clock."""
    clock = Clock()
    worker.reaper._clock = clock
    return clock


async def reaped_later(worker: WorkerServices, clock: Clock) -> ReapedCount:
    """What the reaper ends that it sees now and, when it may be in flight no more, again."""
    await worker.reaper.step()
    clock.now += AGE_S
    return await worker.reaper.step()


@contextlib.asynccontextmanager
async def behind_proxies(
    settings: Settings, deadline_ms: int
) -> AsyncIterator[tuple[Settings, FaultyProxy, FaultyProxy]]:
    """Settings of a service behind two proxies, and the proxies to Redis and to PostgreSQL."""
    async with (
        proxied(settings.redis.url) as (redis_url, redis),
        proxied(settings.postgres.url) as (postgres_url, postgres),
    ):
        there = msgspec.structs.replace(
            settings,
            redis=msgspec.structs.replace(settings.redis, url=redis_url, timeout_ms=300),
            postgres=msgspec.structs.replace(settings.postgres, url=postgres_url, timeout_ms=1_000),
            ledger=msgspec.structs.replace(settings.ledger, deadline_ms=deadline_ms),
        )
        yield there, redis, postgres


class Behind(NamedTuple):
    """The ledger behind two proxies."""

    services: Services
    redis: FaultyProxy
    postgres: FaultyProxy


@pytest.fixture
async def behind(settings: Settings) -> AsyncIterator[Behind]:
    async with (
        behind_proxies(settings, deadline_ms=3_000) as (there, redis, postgres),
        open_services(there) as services,
    ):
        opening = AccountRequest(
            account_id="A",
            currency="USD",
            exponent=currency_exponent("USD"),
            opening_minor=1_000,
        )
        await services.ledger.open_account(opening)
        await services.ledger.post_transaction(request("A", "0.50"))
        await services.ledger.post_transaction(request("A", "0.50", "credit"))
        yield Behind(services, redis, postgres)
        redis.resume()
        postgres.resume()


def pipeline_of(services: Services) -> Pipeline:
    """The part that carries batches, to break its parts one at a time."""
    pipeline = services.ledger._batcher._carry.__self__  # type: ignore[attr-defined]
    assert isinstance(pipeline, Pipeline)
    return pipeline


def is_settled_down(services: Services) -> bool:
    """Tell whether no request is being decided any more.

    A debit is answered before its batch is over, and until then a repetition of it is answered
    from what was decided, and neither looked up nor reserved.
    """
    return not services.ledger._batcher._claims


def records(redis_client: Any) -> list[FlightRecord]:
    """The attempts in flight in any epoch."""
    return [
        read_record(int(attempt_id), text)
        for key in redis_client.keys("subbalance:*:flight")
        for attempt_id, text in redis_client.hgetall(key).items()
    ]


def reservations(redis_client: Any) -> list[Flight]:
    """What is in flight on any account of any epoch."""
    return [flight for record in records(redis_client) for flight in record.flights]


def account_key(redis_client: Any, account_id: str = "A") -> str:
    """Where Redis holds an account, in the one epoch that has it."""
    (key,) = redis_client.keys(f"subbalance:*:account:{account_id}")
    return key


def account_fields(redis_client: Any, account_id: str = "A") -> dict[str, str]:
    """What Redis holds of an account."""
    return redis_client.hgetall(account_key(redis_client, account_id))


def put_in_flight(
    redis_client: Any, key: str, attempt_id: int, change_minor: int, name: str = "-"
) -> None:
    """Reserve an amount on an account as an attempt does whose process is not of this test."""
    flight = f"{key.partition('account:')[0]}flight"
    record = "\n".join(("[{},{},{}]", key, f"1 {change_minor}", name))
    redis_client.hset(flight, str(attempt_id), record)
    redis_client.hincrby(key, "entries", 1)
    if change_minor > 0:
        redis_client.hincrby(key, "incoming", change_minor)
    else:
        redis_client.hincrby(key, "available", change_minor)
        redis_client.hincrby(key, "pending_debit", -change_minor)


@pytest.fixture
def free_ports() -> Callable[[int], list[int]]:
    """Ports nobody listens on, below those the kernel gives to outgoing connections."""

    def found(count: int) -> list[int]:
        ports: list[int] = []
        while len(ports) < count:
            port = 16_000 + secrets.randbelow(14_000)
            with contextlib.suppress(OSError), socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
                ports += [port] * (port not in ports)
        return ports

    return found
