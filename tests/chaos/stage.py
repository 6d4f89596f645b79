"""Everything a fault may act on: the processes, the servers, and each process's own proxies.

It starts what must run, keeps a service process running that ended by itself, and heals.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import NamedTuple

import asyncpg
import redis as redis_sync

from app.infra.child_process import EmbeddedServerError
from tests.chaos.proxy import Proxy, proxied
from tests.chaos.redis_fleet import Fleet
from tests.chaos.wire import PostgresConversation, RedisConversation
from tests.cluster import ROOT, Cluster, ServerProcess, at_port, kill_tree, pause_tree, resume_tree

START_TRIES_MAX = 3
WATCH_S = 0.2
LOCK_WAIT_S = 5.0
RESTARTS_MAX = 200
QUERY_TIMEOUT_S = 5.0
OPERATE_TIMEOUT_S = 20.0
SERVER_ERRORS: tuple[type[Exception], ...] = (
    redis_sync.RedisError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    EmbeddedServerError,
    TimeoutError,
    OSError,
)


class Ways(NamedTuple):
    """One process's ways to its servers."""

    redis: Proxy
    postgres: Proxy

    def to(self, server: str) -> Proxy:
        """The way to the server of that name."""
        return self.redis if server == "redis" else self.postgres


class Ended(NamedTuple):
    """A process that ended although nobody had killed it."""

    name: str
    at_s: float
    status: int | None
    log_tail: str


class Busy(Exception):
    """Another fault has had the same thing in hand for too long."""


class Stage:
    """The running service and what it stands on."""

    def __init__(self, cluster: Cluster, fleet: Fleet) -> None:
        """Nothing runs but the servers; `open_stage` starts the service."""
        self.cluster = cluster
        self.fleet = fleet
        self.ways: dict[str, Ways] = {}
        self.processes: dict[str, ServerProcess] = {}
        self.ended: list[Ended] = []
        self.began = time.monotonic()
        self._down: Counter[str] = Counter()
        self._locks: dict[str, asyncio.Lock] = {}

    @property
    def now_s(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.began

    @asynccontextmanager
    async def alone(self, name: str) -> AsyncIterator[None]:
        """Have a server or process to oneself; `Busy` when that takes too long."""
        lock = self._locks.setdefault(name, asyncio.Lock())
        try:
            async with asyncio.timeout(LOCK_WAIT_S):
                await lock.acquire()
        except TimeoutError as exc:
            raise Busy(name) from exc
        try:
            yield
        finally:
            lock.release()

    def strike(self, victim: str, signal_number: signal.Signals) -> None:
        """Kill or pause a server or a process at this very instant; what it leaves is `mend`ed."""
        if victim == "postgres":
            self._strike_postgres(signal_number)
            return
        pid = self.fleet.ruling.pid if victim == "redis" else self.processes[victim].pid
        if victim in self.processes:
            self._down[victim] += 1
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal_number)

    def _strike_postgres(self, signal_number: signal.Signals) -> None:
        if signal_number is signal.SIGKILL:
            kill_tree(self.cluster.postgres.pid)
        else:
            pause_tree(self.cluster.postgres.pid)

    async def mend(self, victim: str) -> None:
        """Let what was struck go on, or begin its next life."""
        if victim == "redis":
            await self.mend_redis()
        elif victim == "postgres":
            resume_tree(self.cluster.postgres.pid)
            await self._start(self.cluster.postgres)
        else:
            process = self.processes[victim]
            process.resume()
            if not process.is_running:
                await self.cluster.apart(process.restart)
            self._down[victim] -= 1

    async def mend_redis(self) -> None:
        """Have the ruling Redis run."""
        resume_tree(self.fleet.ruling.pid)
        await self._start(self.fleet.ruling)

    async def _start(self, server: object) -> None:
        for tries in range(START_TRIES_MAX):
            try:
                await self.cluster.apart(server.start)  # type: ignore[attr-defined]
                return
            except EmbeddedServerError:
                # Another fault may have killed it while it was starting.
                if tries == START_TRIES_MAX - 1:
                    raise

    async def redis(self, *words: str) -> object:
        """Send a command to the ruling Redis directly."""
        return await asyncio.to_thread(self.fleet.ruling.command, *words)

    async def query(self, statement: str) -> list[asyncpg.Record]:
        """Run a statement in PostgreSQL directly."""
        connection = await asyncpg.connect(self.cluster.postgres.url, timeout=QUERY_TIMEOUT_S)
        try:
            return list(await connection.fetch(statement, timeout=QUERY_TIMEOUT_S))
        finally:
            await connection.close(timeout=QUERY_TIMEOUT_S)

    async def operate(self, action: str) -> bool:
        """Do what an operator may do; True when it was done."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "app.operate", action, "--by", "chaos", "--reason", "a fault"),
            cwd=ROOT,
            env=self.cluster.environment,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(OPERATE_TIMEOUT_S):
                return await process.wait() == 0
        except TimeoutError:
            process.kill()
            await process.wait()
            return False

    async def watch(self) -> None:
        """Start processes again that ended by themselves, as a supervisor would."""
        for _ in range(RESTARTS_MAX):
            await self._until_one_ended()
        raise RuntimeError(f"processes keep ending by themselves: {self.ended[-3:]}")

    async def _until_one_ended(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            for name, process in self.processes.items():
                if self._down[name] <= 0 and not process.is_running:
                    self.ended.append(Ended(name, self.now_s, process.status, process.log_tail()))
                    await self.cluster.apart(process.restart)
                    return

    async def heal(self) -> None:
        """Undo every fault that is still there."""
        for ways in self.ways.values():
            ways.redis.heal()
            ways.postgres.heal()
        await self.mend("postgres")
        await self.mend_redis()
        await self.redis("REPLICAOF", "NO", "ONE")
        await self.redis("CONFIG", "SET", "maxmemory", "0")
        await self.cluster.apart(self.fleet.spare.kill)
        for action in ("automatic", "resume"):
            await self.operate(action)
        for name in self.processes:
            await self.mend(name)
        self._down.clear()


@asynccontextmanager
async def open_stage(
    cluster: Cluster, fleet: Fleet, apis: tuple[str, ...], workers: tuple[str, ...]
) -> AsyncIterator[Stage]:
    """Start the service, every process behind proxies of its own, and keep it running."""
    stage = Stage(cluster, fleet)
    names_by_digest: dict[bytes, str] = {}
    async with AsyncExitStack() as stack:
        for name in (*apis, *workers):
            to_redis = proxied(fleet.ruling.port, lambda: RedisConversation(names_by_digest))
            to_postgres = proxied(cluster.postgres.port, PostgresConversation)
            ways = Ways(
                await stack.enter_async_context(to_redis),
                await stack.enter_async_context(to_postgres),
            )
            stage.ways[name] = ways
            start = cluster.start_api if name in apis else cluster.start_worker
            environment = {
                "REDIS_URL": at_port(cluster.redis.url, ways.redis.port),
                "DATABASE_URL": at_port(cluster.postgres.url, ways.postgres.port),
            }
            stage.processes[name] = await cluster.apart(partial(start, name, **environment))
        for name in apis:
            await asyncio.to_thread(cluster.wait_ready, stage.processes[name])
        watching = asyncio.create_task(stage.watch())
        try:
            yield stage
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
