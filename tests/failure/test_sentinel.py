"""A Sentinel set of local processes, 1 master, 2 replicas, 3 sentinels, fails over under load."""

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis as redis_sync

from app import errors
from app.bootstrap import open_services, open_worker_services
from app.infra.embedded import find_redis_binaries
from app.infra.redis import REDIS_ERRORS, open_redis
from app.infra.redis_line import RedisLine
from app.ledger.codes import Mode
from app.ledger.model import Acceptance, AccountRequest
from app.settings import Settings
from tests.conftest import eventually
from tests.failure.conftest import pipeline_of
from tests.integration.test_transactions import outcomes, request

NAME = "subbalance"
DOWN_AFTER_MS = 800


class Node:
    """One process of the set."""

    def __init__(self, folder: Path, port: int, lines: list[str], *flags: str) -> None:
        folder.mkdir()
        self.port = port
        configuration = folder / "redis.conf"
        base = [f"port {port}", "bind 127.0.0.1", f"dir {folder}", 'save ""', "appendonly no"]
        configuration.write_text("\n".join([*base, *lines]) + "\n")
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [str(find_redis_binaries()[0]), str(configuration), *flags],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def client(self) -> Any:
        return redis_sync.Redis(port=self.port, decode_responses=True, socket_timeout=2)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class SentinelSet:
    """The set; its URL is that of the sentinels."""

    def __init__(self, folder: Path, ports: list[int]) -> None:
        master, *replicas = ports[:3]
        self.nodes = [Node(folder / "master", master, [])]
        self.nodes += [
            Node(folder / f"replica{port}", port, [f"replicaof 127.0.0.1 {master}"])
            for port in replicas
        ]
        watch = [
            f"sentinel monitor {NAME} 127.0.0.1 {master} 2",
            f"sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {NAME} 5000",
        ]
        self.sentinels = [
            Node(folder / f"sentinel{port}", port, watch, "--sentinel") for port in ports[3:]
        ]
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports[3:])
        self.url = f"redis+sentinel://{hosts}/{NAME}"

    def is_whole(self) -> bool:
        try:
            seen = self.sentinels[0].client().sentinel_master(NAME)
            replicas = self.nodes[0].client().info("replication")["connected_slaves"]
        except redis_sync.RedisError:
            return False
        return (seen["num-slaves"], seen["num-other-sentinels"], replicas) == (2, 2, 2)

    def end(self) -> None:
        for node in [*self.sentinels, *self.nodes]:
            node.kill()


@pytest.fixture
async def sentinel_set(tmp_path: Path, free_ports: Any) -> AsyncIterator[SentinelSet]:
    started = SentinelSet(tmp_path, free_ports(6))
    try:
        await eventually(started.is_whole, 30)
        yield started
    finally:
        started.end()


@pytest.mark.timeout(180)
async def test_a_failover_under_load_loses_and_doubles_nothing(
    settings: Settings, sentinel_set: SentinelSet, database: Any
) -> None:
    there = msgspec.structs.replace(
        settings,
        redis=msgspec.structs.replace(settings.redis, url=sentinel_set.url, timeout_ms=300),
    )
    async with AsyncExitStack() as stack:
        services = await stack.enter_async_context(open_services(there))
        worker = await stack.enter_async_context(open_worker_services(there))
        opening = AccountRequest(account_id="A", currency="USD", exponent=2, opening_minor=100_000)
        await services.ledger.open_account(opening)
        (first,) = await outcomes(services, [request("A", "1")])
        assert first.transaction.mode is Mode.REDIS
        keys = iter(range(10**6))
        accepted: list[Acceptance] = []
        stopping = asyncio.Event()

        async def client() -> None:
            while not stopping.is_set():
                key = f"k{next(keys)}"
                answer: Any = None
                while not isinstance(answer, Acceptance):
                    (answer,) = await outcomes(
                        services, [request("A", "0.01", idempotency_key=key)]
                    )
                    assert isinstance(
                        answer, Acceptance | errors.Unavailable | errors.OutcomeUnknown
                    )
                accepted.append(answer)
                await asyncio.sleep(0.01)

        clients = [asyncio.create_task(client()) for _ in range(8)]
        await eventually(lambda: len(accepted) > 50)
        sentinel_set.nodes[0].kill()
        await eventually(lambda: accepted[-1].transaction.mode is Mode.POSTGRES, 20)

        async def redis_decides_again() -> bool:
            await worker.recovery.step()
            await asyncio.sleep(0.1)
            return accepted[-1].transaction.mode is Mode.REDIS

        await eventually(redis_decides_again, 60)
        stopping.set()
        await asyncio.gather(*clients)
        ids = {acceptance.transaction.transaction_id for acceptance in accepted}
        assert len(ids) == len(accepted)
        rows = "SELECT count(*) FROM sub_balances WHERE type = 'debit'"
        assert await database.fetchval(rows) == len(accepted) + 1
        available = (await services.ledger.balance("A")).available_minor
        assert available == 100_000 - 100 - len(accepted)
        assert pipeline_of(services)._mode.current.mode is Mode.REDIS
        assert (await services.ledger.verify()).is_clean


async def test_a_line_follows_a_failover_to_the_new_master(sentinel_set: SentinelSet) -> None:
    """What was outstanding fails, and nothing is written to a server that is no master."""
    async with open_redis(sentinel_set.url, 300, connections=4) as client:
        line = RedisLine(client)
        assert await line.call("SET", "written", "by") == "OK"
        before = await line.call("CONFIG", "GET", "port")
        outstanding = asyncio.ensure_future(line.call("BLPOP", "never", "0"))
        await asyncio.sleep(0.05)
        sentinel_set.nodes[0].kill()
        with pytest.raises(redis_sync.RedisError):
            await outstanding

        async def is_written() -> bool:
            with contextlib.suppress(*REDIS_ERRORS):
                return await line.call("SET", "written", "again") == "OK"
            return False

        await eventually(is_written, 30)
        assert await line.call("CONFIG", "GET", "port") != before
        assert (await line.call("ROLE"))[0] == "master"
        pool = client.connection_pool
        await eventually(lambda: len(pool._in_use_connections) == 1)
