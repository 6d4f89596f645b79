"""The private servers of an experiment, the service on them, and what their processes cost.

The servers' files may be kept, so that a history that took long to make can be measured again.
"""

import asyncio
import fcntl
import os
import shutil
import time
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import asyncpg
import redis

from app.bootstrap import OperatorServices, open_operator_services, open_worker_services
from app.ledger.codes import Mode
from app.settings import Settings, load_settings
from tests.cluster import Cluster, ServerProcess

T = TypeVar("T")
_QUIET = {
    "LOG_LEVEL": "warning",
    "SUBBALANCE_CONSISTENCY_INTERVAL": "60m",
    # Redis is restarted on purpose, and may decide again at once.
    "SUBBALANCE_STABLE_AFTER": "10ms",
    "SUBBALANCE_PROBES": "1",
}
_STATEMENT_TIMEOUT_S = 3_600
_TICKS = os.sysconf("SC_CLK_TCK")
_REST_S = 300.0
_TURN_S, _PAUSE_S = 100.0, 2.0
_STEPS_MAX, _STEP_S = 300, 0.05


class Turns:
    """Turns on the machine, taken with whoever locks the same file.

    `with turns:` waits for the turn if it is not ours. A turn that lasted long enough is given up
    at the end of such a block, so that others get theirs.
    """

    def __init__(self, path: Path | None) -> None:
        """Without a file there is nobody to wait for."""
        self._path = path
        self._file: IO[str] | None = None
        self._since = 0.0

    def __enter__(self) -> None:
        if self._path is not None and self._file is None:
            self._file = self._path.open("a")
            fcntl.flock(self._file, fcntl.LOCK_EX)
            self._since = time.monotonic()

    def __exit__(self, *_: object) -> None:
        if time.monotonic() - self._since >= _TURN_S:
            self.end()

    def end(self) -> None:
        """Give the turn up."""
        if self._file is not None:
            self._file.close()
            self._file = None
            # Whoever waits is woken by this; taking the turn again at once would come before them.
            time.sleep(_PAUSE_S)


class Options(NamedTuple):
    """What is wanted of a run: where files are, how long, how often, and how large."""

    folder: Path
    results: Path
    turns: "Turns"
    keep: bool
    reuse: bool
    seconds: float
    rounds: int
    largest: int


class Stand:
    """A cluster, a connection to it, and the service's processes one set after the other."""

    def __init__(self, cluster: Cluster, runner: asyncio.Runner, stack: ExitStack) -> None:
        """Stand on servers that run; `stack` ends what is opened here."""
        self.cluster = cluster
        self.folder = cluster.folder
        self._runner = runner
        self._stack = stack
        self._starts = 0
        self._apis: list[ServerProcess] = []
        self._worker: ServerProcess | None = None
        self._services: OperatorServices | None = None
        self._services_stack = AsyncExitStack()
        stack.callback(self._leave_services)
        self._database = self.wait(_connected(cluster.postgres.url))
        self.redis = redis.Redis.from_url(cluster.redis.url, decode_responses=True)
        stack.callback(self.redis.close)

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something of the harness to its end."""
        return self._runner.run(work)

    def execute(self, statement: str) -> None:
        """Run a statement."""
        self.wait(_execute(self._database, statement))

    def ask(self, statement: str, *arguments: Any) -> Any:
        """The first figure of a statement."""
        return self.wait(_fetch(self._database, statement, arguments))[0][0]

    def rows(self, statement: str, *arguments: Any) -> list[Any]:
        """All rows of a statement."""
        return self.wait(_fetch(self._database, statement, arguments))

    def leave_database(self) -> str:
        """Close the connection, so that the database can be copied; returns where it is."""
        self.wait(_closed(self._database))
        return self.cluster.postgres.url

    def services(self) -> OperatorServices:
        """What an operator's command works with, open until the run ends."""
        if self._services is not None:
            return self._services
        opened = open_operator_services(self._settings())
        self._services = self.wait(self._services_stack.enter_async_context(opened))
        return self._services

    def _settings(self) -> Settings:
        return load_settings({**self.cluster.environment, **_QUIET})

    def restart_redis(self) -> None:
        """Begin with an empty Redis, and so with a new epoch as soon as the service starts.

        Needed wherever rows were put into PostgreSQL in bulk, of which Redis knows nothing.
        """
        self._leave_services()
        self.cluster.redis.stop()
        self.cluster.redis.start()

    def _leave_services(self) -> None:
        if self._services is not None:
            self._services = None
            self.wait(self._services_stack.aclose())

    @contextmanager
    def serving(
        self, apis: int = 1, *, worker: bool = True, settings: Mapping[str, str] | None = None
    ) -> Iterator[list[ServerProcess]]:
        """The service, ready: so many API processes, with or without a worker."""
        self._starts += 1
        environment = {**_QUIET, **(settings or {})}
        try:
            if worker:
                name = f"worker-{self._starts}"
                self._worker = self.cluster.start_worker(name, **environment)
            for number in range(apis):
                name = f"api-{self._starts}-{number}"
                self._apis.append(self.cluster.start_api(name, **environment))
            for api in self._apis:
                self.cluster.wait_ready(api)
            if self._apis:
                self.wait(_until_redis_decides(self._settings()))
            yield list(self._apis)
        finally:
            for process in [*self._apis, *([self._worker] if self._worker else [])]:
                process.stop()
            self._apis, self._worker = [], None

    def cpu_s(self) -> dict[str, float]:
        """Seconds of CPU used so far by each part."""
        return {
            "api": sum(_cpu_s(api.pid) for api in self._apis),
            "worker": _cpu_s(self._worker.pid) if self._worker else 0.0,
            "redis": _cpu_s(self.cluster.redis.pid),
            "postgres": _postgres_cpu_s(self.cluster.postgres.pid),
        }

    def rest(self) -> None:
        """Wait until nothing is pending and nothing in flight; the worker must run."""
        deadline = time.monotonic() + _REST_S
        while time.monotonic() < deadline:
            if not self.pending_batches():
                return
            time.sleep(0.1)
        raise SystemExit("the settler does not catch up")

    def pending_batches(self) -> int:
        """How many batches wait for settlement."""
        waiting: int = self.ask("SELECT count(*) FROM journal_batches WHERE status = 'PENDING'")
        return waiting

    def wal_position(self) -> int:
        """How many bytes of WAL were written so far."""
        position: int = self.ask(
            "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint"
        )
        return position

    def used_redis_bytes(self) -> int:
        """What Redis says that it uses."""
        return int(self.redis.info("memory")["used_memory"])


@contextmanager
def open_stand(options: Options) -> Iterator[Stand]:
    """Start durable private servers in a folder; it is emptied before and after unless kept."""
    if not options.reuse:
        shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True, exist_ok=True)
    options.folder.chmod(0o755)
    with ExitStack() as stack:
        stack.callback(options.turns.end)
        if not options.keep:
            stack.callback(shutil.rmtree, options.folder, ignore_errors=True)
        cluster = stack.enter_context(Cluster(options.folder, durable=True))
        runner = stack.enter_context(asyncio.Runner())
        yield Stand(cluster, runner, stack.enter_context(ExitStack()))


async def _until_redis_decides(settings: Settings) -> None:
    """Do what a worker does to give the decision back to Redis, and nothing else of its work."""
    async with open_worker_services(settings) as services:
        for _ in range(_STEPS_MAX):
            await services.recovery.step()
            ruling = await services.settler._mode.read_ruling()
            if ruling.mode is Mode.REDIS:
                return
            await asyncio.sleep(_STEP_S)
    raise SystemExit("Redis does not decide")


async def _connected(url: str) -> Any:
    connection = await asyncpg.connect(url, command_timeout=_STATEMENT_TIMEOUT_S)
    await connection.execute("SET jit = off")
    return connection


async def _closed(connection: Any) -> None:
    await connection.close()


async def _execute(connection: Any, statement: str) -> None:
    await connection.execute(statement)


async def _fetch(connection: Any, statement: str, arguments: tuple[Any, ...]) -> list[Any]:
    rows: list[Any] = await connection.fetch(statement, *arguments)
    return rows


def _cpu_s(pid: int) -> float:
    used, _, _ = _times(pid)
    return used


def _postgres_cpu_s(postmaster: int) -> float:
    """The postmaster's own time, that of its children, and that of children which have ended."""
    used, ended, _ = _times(postmaster)
    total = used + ended
    for entry in Path("/proc").glob("[0-9]*"):
        used, _, parent = _times(int(entry.name))
        total += used if parent == postmaster else 0.0
    return total


def _times(pid: int) -> tuple[float, float, int]:
    """CPU seconds of a process, of its children that ended, and its parent."""
    with suppress(OSError, IndexError, ValueError):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        own = (int(fields[11]) + int(fields[12])) / _TICKS
        return own, (int(fields[13]) + int(fields[14])) / _TICKS, int(fields[1])
    return 0.0, 0.0, 0
