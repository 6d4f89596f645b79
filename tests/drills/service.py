"""The service a drill is held on: a private cluster of its own, and waits for what it should do."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.cluster import HOST, Cluster, ServerProcess
from tests.drills.history import Intention
from tests.drills.load import Load, ask

_POLL_S = 0.02
_REDIS_POLL_S = 0.002
_RECOVERY_TIMEOUT_S = 60.0
_REDIS_ANSWER_TIMEOUT_S = 1.0


class DrillError(Exception):
    """A drill could not be held; the message says what was waited for in vain."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every drill may be told."""

    reports: Path = Path("reports")
    instances: int = 2
    connections: int = 24
    per_second: int = 300
    seed: int = 1
    durable: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def private_cluster(options: Options, environment: Mapping[str, str]) -> Iterator[Cluster]:
    """Start a PostgreSQL and a Redis in a folder of their own, gone afterwards."""
    with TemporaryDirectory(prefix="sb-drill-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        everything = {**environment, **options.environment}
        cluster = Cluster(folder / "cluster", durable=options.durable, environment=everything)
        with cluster:
            yield cluster


async def start_service(
    cluster: Cluster, instances: int, *, prefix: str = "", **environment: str
) -> list[str]:
    """Start some APIs and a worker; returns the APIs' URLs once they decide transactions."""

    def start() -> list[ServerProcess]:
        names = [f"{prefix}api{number}" for number in range(instances)]
        apis = [cluster.start_api(name, **environment) for name in names]
        cluster.start_worker(f"{prefix}worker", **environment)
        return apis

    apis = await cluster.apart(start)
    for api in apis:
        await cluster.apart(cluster.wait_ready, api)
    return [api.url for api in apis]


async def wait_for(condition: Callable[[], Awaitable[bool]], timeout_s: float) -> bool:
    """Wait until something is true, a bounded time; tells whether it became so."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if await condition():
            return True
        await asyncio.sleep(_POLL_S)
    return False


async def redis_rules(url: str) -> bool:
    """Tell whether an instance says that Redis decides."""
    answer = await ask(url, "/health")
    return answer.body.get("mode") == "redis"


async def bring_to_rest(load: Load, urls: Sequence[str]) -> None:
    """End a load, wait a bounded time until Redis decides, and have it load every account."""
    await load.stop()
    for url in urls:
        if not await wait_for(partial(redis_rules, url), _RECOVERY_TIMEOUT_S):
            return
    await load.touch()


async def wait_until_settled(url: str, intention: Intention, timeout_s: float) -> float | None:
    """Wait until an accepted movement is shown as settled; returns when, or None."""
    transaction_id = intention.acceptances[0].transaction_id if intention.acceptances else None
    if transaction_id is None:
        return None

    async def is_settled() -> bool:
        answer = await ask(url, f"/api/v1/transactions/{transaction_id}")
        return answer.body.get("status") == "SETTLED"

    return time.monotonic() if await wait_for(is_settled, timeout_s) else None


async def wait_for_redis(port: int, timeout_s: float) -> float:
    """Wait until a Redis answers at a port; returns when. `DrillError` past the time-out."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if await _redis_answers(port):
            return time.monotonic()
        await asyncio.sleep(_REDIS_POLL_S)
    raise DrillError(f"no Redis answers at port {port} after {timeout_s} s")


async def _redis_answers(port: int) -> bool:
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_REDIS_ANSWER_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(HOST, port)
            try:
                writer.write(b"PING\r\n")
                return (await reader.readline()).startswith(b"+PONG")
            finally:
                writer.close()
    return False
