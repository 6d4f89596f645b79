"""The real service as processes on private servers, to be killed, paused and started again.

It needs no test framework. Every method blocks; a program with an event loop calls them through
`Cluster.apart`, which runs them one after the other in a thread of the cluster's own. Children die
with the process that started them, ports are kept over restarts, and no other process is touched.
"""

import asyncio
import contextlib
import http.client
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit, urlunsplit

from app.infra.child_process import end_child, log_tail, start_child
from app.infra.embedded import EmbeddedPostgres, EmbeddedRedis, start_postgres, start_redis

ROOT = Path(__file__).resolve().parents[1]
HOST = "127.0.0.1"
STOP_TIMEOUT_S = 20.0
READY_TIMEOUT_S = 30.0
_PREPARE_TIMEOUT_S = 120.0
_PROBE_TIMEOUT_S = 2.0
_POLL_S = 0.05
_PORT_MIN, _PORT_MAX = 15_000, 32_000
_PORT_TRIES_MAX = 100
_HTTP_OK = 200
T = TypeVar("T")


class ClusterError(Exception):
    """A process of the cluster is not as it should be; the message holds the end of its log."""


class ServerProcess:
    """One API or worker process: the same command, environment and port in each of its lives."""

    def __init__(
        self,
        name: str,
        module: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        url: str = "",
    ) -> None:
        """Describe a process; `restart` begins its first life."""
        self.name = name
        self.url = url
        self.environment = dict(environment)
        self.lives = 0
        self._module = module
        self._folder = folder
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """What the present life wrote; earlier lives have files of their own."""
        return self._folder / f"{self.name}-{self.lives}.log"

    @property
    def pid(self) -> int:
        """The process id, 0 when it does not run."""
        return self._child.pid if self._child and self._child.poll() is None else 0

    @property
    def is_running(self) -> bool:
        """Tell whether the process is there, paused or not."""
        return bool(self.pid)

    @property
    def status(self) -> int | None:
        """How its last life ended, minus a signal's number; None while it runs."""
        return self._child.poll() if self._child else None

    def kill(self) -> None:
        """End it as a crash would."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()

    def pause(self) -> None:
        """Stop it where it stands; its connections stay open."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused one go on."""
        self._signal(signal.SIGCONT)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Ask it to end, and end it by force past the time-out."""
        self.resume()
        end_child(self._child, signal.SIGTERM, timeout_s)

    def replace(self) -> None:
        """Have instances behind one address replaced; they say in the log when it is done."""
        self._signal(signal.SIGHUP)

    def restart(self) -> None:
        """Begin another life; one that still runs is killed first. Does not wait until ready."""
        self.kill()
        self.lives += 1
        self._child = start_child(
            [sys.executable, "-m", *self._module],
            self.log,
            when_parent_dies=signal.SIGKILL,
            environment=self.environment,
            options={"cwd": ROOT},
        )

    def log_tail(self) -> str:
        """The end of what the present life wrote."""
        return log_tail(self.log)

    def _signal(self, signal_number: signal.Signals) -> None:
        if self._child is not None:
            self._child.send_signal(signal_number)


class Cluster:
    """A private Redis and PostgreSQL with the schema in place, and service processes on them."""

    def __init__(
        self,
        folder: Path,
        *,
        durable: bool,
        environment: Mapping[str, str] | None = None,
        redis: Callable[[Path], EmbeddedRedis] = start_redis,
    ) -> None:
        """Keep everything in a folder; `environment` is for every process of the service.

        `durable=False` is for those who do not pull the plug of the machine: a killed PostgreSQL
        loses nothing either way. `redis` starts another kind of private Redis.
        """
        self.folder = folder.resolve()
        self.postgres: EmbeddedPostgres
        self.redis: EmbeddedRedis
        self._durable = durable
        self._settings = dict(environment or {})
        self._start_redis = redis
        self._processes: dict[str, ServerProcess] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cluster")

    def __enter__(self) -> Self:
        try:
            self._thread.submit(self._open).result()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    @property
    def processes(self) -> list[ServerProcess]:
        """Every API and worker, in the order they were started."""
        return list(self._processes.values())

    @property
    def environment(self) -> dict[str, str]:
        """What every process of the service gets, the servers' own addresses among it."""
        inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        servers = {"DATABASE_URL": self.postgres.url, "REDIS_URL": self.redis.url, "HOST": HOST}
        logs = {"SUBBALANCE_LOG_FOLDER": str(self.folder / "logs")}
        return {**inherited, **servers, **logs, **self._settings}

    def start_api(self, name: str, **environment: str) -> ServerProcess:
        """Start an API on a port of its own; `wait_ready` waits until it decides transactions.

        `DATABASE_URL` and `REDIS_URL` may be given, so that it reaches them through a proxy.
        """
        port = free_port()
        return self._start(name, ("app.main",), {"PORT": str(port), **environment}, port)

    def start_instances(self, name: str, count: int = 2, **environment: str) -> ServerProcess:
        """Start some APIs behind one address; SIGHUP replaces them one after the other."""
        port = free_port()
        module = ("app.instances", "--count", str(count))
        return self._start(name, module, {"PORT": str(port), **environment}, port)

    def start_worker(self, name: str, **environment: str) -> ServerProcess:
        """Start a worker."""
        return self._start(name, ("app.workers",), environment)

    def wait_ready(self, api: ServerProcess, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until an API decides transactions; `ClusterError` when it ends or is too slow."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if is_ready(api.url):
                return
            if not api.is_running:
                raise ClusterError(f"{api.name} ended:\n{api.log_tail()}")
            time.sleep(_POLL_S)
        raise ClusterError(f"{api.name} is not ready after {timeout_s} s:\n{api.log_tail()}")

    async def apart(self, call: Callable[..., T], *arguments: Any) -> T:
        """Run something that blocks, such as a start, in the cluster's thread.

        Servers are started there too: a child would die with a thread that ends earlier.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)

    def _open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.postgres = start_postgres(
            self.folder / "postgres", lambda _text: None, durable=self._durable
        )
        self.redis = self._start_redis(self.folder / "redis")
        done = subprocess.run(
            [sys.executable, "-m", "app.bootstrap"],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=_PREPARE_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            raise ClusterError(f"the schema could not be prepared:\n{done.stderr}{done.stdout}")

    def _close(self) -> None:
        """Kill the service, then end the servers; a paused one goes on first."""
        for process in self.processes:
            process.kill()
        for server in (getattr(self, "redis", None), getattr(self, "postgres", None)):
            if server is not None:
                resume_tree(server.pid)
                server.stop()
        self._thread.shutdown()

    def _start(
        self, name: str, module: Sequence[str], environment: Mapping[str, str], port: int = 0
    ) -> ServerProcess:
        if name in self._processes:
            raise ClusterError(f"there is a process named {name} already")
        url = f"http://{HOST}:{port}" if port else ""
        process = ServerProcess(name, module, {**self.environment, **environment}, self.folder, url)
        self._processes[name] = process
        process.restart()
        return process


def is_ready(url: str) -> bool:
    """Ask an API whether it decides transactions."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(
        address.hostname or HOST, address.port, timeout=_PROBE_TIMEOUT_S
    )
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == _HTTP_OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def at_port(url: str, port: int) -> str:
    """The same URL at another port of this machine, such as a proxy's."""
    parts = urlsplit(url)
    user = f"{parts.username}@" if parts.username else ""
    return urlunsplit(parts._replace(netloc=f"{user}{HOST}:{port}"))


def free_port() -> int:
    """A free port below those the kernel hands to outgoing connections, so that nobody gets it."""
    for _ in range(_PORT_TRIES_MAX):
        port = _PORT_MIN + secrets.randbelow(_PORT_MAX - _PORT_MIN)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((HOST, port))
            return port
    raise ClusterError(f"no free port on {HOST}")


def pause_tree(pid: int) -> None:
    """Stop a process and its children where they stand, as PostgreSQL needs it."""
    _signal(_tree(pid), signal.SIGSTOP)


def resume_tree(pid: int) -> None:
    """Let a paused process and its children go on."""
    _signal(_tree(pid), signal.SIGCONT)


def kill_tree(pid: int) -> None:
    """End a process and its children as a crash of their machine would, paused or not.

    It is paused first, so that it leaves no child behind that nobody saw.
    """
    _signal([pid] if pid else [], signal.SIGSTOP)
    _signal(_tree(pid), signal.SIGKILL)


def _signal(pids: list[int], signal_number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal_number)


def _tree(pid: int) -> list[int]:
    """A process, first, and its children; empty for 0, which is no process."""
    if not pid:
        return []
    children = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            if int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]) == pid:
                children.append(int(entry.name))
    return [pid, *children]
