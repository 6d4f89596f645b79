"""The private servers of a run: one PostgreSQL cluster, one Redis, and whoever is driven on them.

All contestants are up at once and driven in turns. Each has a database of its own in the cluster
and a numbered one in Redis, so the servers' settings are the same for all.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from app.infra.redis import open_redis
from tests.cluster import HOST, Cluster, ServerProcess, free_port, is_ready

T = TypeVar("T")
_QUIET = {
    "LOG_LEVEL": "warning",
    "SUBBALANCE_LOG_FOLDER": "none",
    "SUBBALANCE_CONSISTENCY_INTERVAL": "60m",
}
_TIMEOUT_MS = 60_000
_READY_S = 30.0
_POLL_S = 0.05


class Stage:
    """Servers, databases, and an event loop that runs only between samples."""

    def __init__(
        self,
        folder: Path,
        cluster: Cluster,
        runner: asyncio.Runner,
        stack: ExitStack,
        settlement_s: float,
    ) -> None:
        """Stand on servers that run; `stack` ends what is started here."""
        # Settlement happens inside each sample, not after it at the expense of the next.
        self.service_settings = {**_QUIET, "SETTLEMENT_INTERVAL": f"{settlement_s:g}s"}
        self.folder = folder
        self.cluster = cluster
        self.schema_database = urlsplit(cluster.postgres.url).path.lstrip("/")
        self._runner = runner
        self._stack = stack
        self._redis_count = 0

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something of the harness to its end."""
        return self._runner.run(work)

    def opened(self, context: AbstractAsyncContextManager[T]) -> T:
        """Open something until the run ends."""
        value = self.wait(context.__aenter__())
        self._stack.callback(lambda: self.wait(_left(context)))
        return value

    def database_url(self, name: str) -> str:
        """Where a database of the cluster is."""
        return urlunsplit(urlsplit(self.cluster.postgres.url)._replace(path=f"/{name}"))

    def make_database(self, name: str, template: str = "template1") -> str:
        """Make a database like another one, which must have no connections now."""
        statement = f"CREATE DATABASE {name} TEMPLATE {template}"
        self.wait(_execute(self.database_url("postgres"), statement))
        return self.database_url(name)

    def own_redis(self) -> str:
        """A numbered database of the one Redis that nobody has yet."""
        self._redis_count += 1
        return self.cluster.redis.url.removesuffix("/0") + f"/{self._redis_count}"

    def connection(self, url: str) -> Any:
        """Open a connection of the harness to a database."""
        return self.opened(self.connected(url))

    @staticmethod
    @asynccontextmanager
    async def connected(url: str) -> AsyncIterator[Any]:
        """A connection to a database, for a while."""
        connection = await asyncpg.connect(url)
        try:
            yield connection
        finally:
            await connection.close()

    @staticmethod
    def redis_client(url: str) -> AbstractAsyncContextManager[Any]:
        """A client of one connection, for a while."""
        return open_redis(url, _TIMEOUT_MS, 1)

    def process(self, name: str, module: str, environment: Mapping[str, str]) -> ServerProcess:
        """Start a process that ends with the run, or before."""
        inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        port = free_port()
        everything = {**inherited, "HOST": HOST, "PORT": str(port), **environment}
        process = ServerProcess(name, (module,), everything, self.folder, f"http://{HOST}:{port}")
        process.restart()
        self._stack.callback(process.stop)
        return process

    def server(self, name: str, module: str, environment: Mapping[str, str]) -> ServerProcess:
        """Start an HTTP server and wait until it says that it is ready."""
        process = self.process(name, module, environment)
        deadline = time.monotonic() + _READY_S
        while not is_ready(process.url):
            if time.monotonic() > deadline or not process.is_running:
                raise SystemExit(f"{name} does not answer:\n{process.log_tail()}")
            time.sleep(_POLL_S)
        return process


@contextmanager
def open_stage(settlement_s: float) -> Iterator[Stage]:
    """Start durable private servers with the service's schema in place; all is gone afterwards."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sb-bench-")))
        folder.chmod(0o755)
        cluster = stack.enter_context(Cluster(folder / "cluster", durable=True))
        runner = stack.enter_context(asyncio.Runner())
        yield Stage(folder, cluster, runner, stack.enter_context(ExitStack()), settlement_s)


async def _left(context: AbstractAsyncContextManager[Any]) -> None:
    await context.__aexit__(None, None, None)


async def _execute(url: str, statement: str) -> None:
    async with Stage.connected(url) as connection:
        await connection.execute(statement)
