"""`python -m app.run`: the whole service on one machine, stopped by one Ctrl-C.

Starts a private Redis and PostgreSQL for whichever of REDIS_URL and DATABASE_URL is not set,
prepares the database, then runs the API and the worker as processes of their own. `settle`,
`verify`, `operate ...`, `optimize-db`, `monitor-db`, `pending`, `clean-data` and `db-reset` act on
the same private servers. `dev` begins again what a changed file belongs to. It never touches a
server it did not start.
"""

import contextlib
import fcntl
import http.client
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from app.errors import LedgerError
from app.infra.child_process import (
    EmbeddedServerError,
    dies_with_parent,
    end_child,
    log_tail,
    start_child,
)
from app.infra.embedded import EmbeddedPostgres, EmbeddedRedis, start_postgres, start_redis
from app.infra.privileges import refuge_of
from app.infra.source_watch import SourceWatch
from app.settings import Settings, load_settings

DATA_FOLDER = Path(__file__).resolve().parents[1] / ".data"
_PREPARE_TIMEOUT_S = 120
_READY_TIMEOUT_S = 30
_SERVER_STARTS_MAX = 20
_POLL_S = 0.1
_HTTP_OK = 200
_MODULES = {"API": "app.main", "worker": "app.workers"}
SOURCES = tuple(DATA_FOLDER.with_name(name) for name in ("app", "lua", "sql"))
_PORT_MAX = 65_535
Children = dict[str, "subprocess.Popen[bytes]"]


class Problem(Exception):
    """Why the service cannot run, as a sentence for the person who started it."""


class Stopped(Exception):
    """Somebody asked to stop before everything was up."""


class Servers(NamedTuple):
    """An environment that names both servers, and those of them that are private."""

    environment: dict[str, str]
    postgres: EmbeddedPostgres | None
    redis: EmbeddedRedis | None


def say(text: str) -> None:
    """Tell the person at the terminal what is being done."""
    print(f"sub-balance: {text}", flush=True)


def main(arguments: list[str]) -> int:
    """Run a command; 0 when it ended as told."""
    commands: dict[str, Callable[[], int]] = {
        "": run_service,
        "settle": lambda: _on_these_servers("app.workers", "--once"),
        "verify": lambda: _on_these_servers("app.operate", "verify"),
        "operate": lambda: _on_these_servers("app.operate", *arguments[1:]),
        "clean-data": clean_data,
        "db-reset": reset_data,
        "dev": lambda: run_service(SourceWatch(SOURCES)),
        "optimize-db": lambda: _on_these_servers("app.database", "optimize"),
        "monitor-db": lambda: _on_these_servers("app.database", "monitor"),
        "pending": lambda: _on_these_servers("app.database", "pending"),
    }
    name = arguments[0] if arguments else ""
    if name not in commands or (len(arguments) > 1 and name != "operate"):
        print(
            f"usage: python -m app.run [{'|'.join(sorted(filter(None, commands)))}]",
            file=sys.stderr,
        )
        return 2
    try:
        return commands[name]()
    except (Problem, EmbeddedServerError, LedgerError) as problem:
        print(f"sub-balance: error: {problem}", file=sys.stderr)
        return 1


def run_service(sources: SourceWatch | None = None) -> int:
    """Start everything, wait for a signal or a process that dies, stop everything."""
    settings = load_settings(os.environ)
    _require_free_port(settings)
    stopping = _StopSignals()
    with contextlib.suppress(Stopped), ExitStack() as stack:
        servers = stack.enter_context(_servers(stopping))
        _prepare(servers.environment, stopping)
        _choose_metrics_port(servers.environment, settings)
        children = stack.enter_context(_children(servers.environment))
        stopping.children = children
        _wait_ready(settings, children, stopping)
        _print_welcome(settings)
        _watch(servers, children, stopping, sources)
    say("stopped")
    return 0


def _watch(
    servers: Servers,
    children: Children,
    stopping: "_StopSignals",
    sources: SourceWatch | None = None,
) -> None:
    """Return when asked to stop; `Problem` when a process this one started keeps ending.

    The servers may die, for the service survives that: they are started again, Redis empty. With
    sources to watch a process that ends is a mistake in them, and waits for the next change.
    """
    starts = {"Redis": 0, "PostgreSQL": 0}
    while not stopping.count:
        if sources is not None and (changed := sources.changed()):
            say(f"{changed} changed; starting again ...")
            _begin_again(servers.environment, children, stopping)
        for name, child in children.items():
            if child.poll() is not None and sources is None:
                raise Problem(f"the {name} ended unexpectedly:\n{log_tail(_log(name))}")
        for name, server in (("Redis", servers.redis), ("PostgreSQL", servers.postgres)):
            if server is None or server.pid:
                continue
            starts[name] += 1
            if starts[name] > _SERVER_STARTS_MAX:
                raise Problem(f"the private {name} keeps ending:\n{log_tail(server.log)}")
            say(f"the private {name} ended; starting it again ...")
            server.start()
        time.sleep(_POLL_S)
    say("stopping ...")


def _begin_again(
    environment: Mapping[str, str], children: Children, stopping: "_StopSignals"
) -> None:
    """Bring the database up to date and put new processes in the place of those that run."""
    for child in children.values():
        end_child(child, signal.SIGTERM)
    try:
        _prepare(environment, stopping)
    except Problem as problem:
        say(f"{problem}; waiting for the next change")
        return
    children.update((name, _start(name, environment)) for name in children)


def _on_these_servers(module: str, *arguments: str) -> int:
    """Run a command on this checkout's servers, or on those the environment names."""
    environment = dict(os.environ)
    note = DATA_FOLDER / "servers"
    if "DATABASE_URL" not in environment or "REDIS_URL" not in environment:
        if not note.exists():
            raise Problem("nothing runs here; set DATABASE_URL and REDIS_URL, or `make run` first")
        database_url, redis_url = note.read_text().splitlines()
        environment.setdefault("DATABASE_URL", database_url)
        environment.setdefault("REDIS_URL", redis_url)
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, env=environment, check=False).returncode


def reset_data() -> int:
    """Remove the private servers' data when that was meant; the next `make run` begins anew."""
    if os.environ.get("CONFIRM") != "yes":
        raise Problem(
            f"this removes every balance in {DATA_FOLDER}, and nothing else;"
            " if you mean it: make db-reset CONFIRM=yes"
        )
    return clean_data()


def clean_data() -> int:
    """Remove the private servers' data, unless they run."""
    if DATA_FOLDER.exists():
        with _only_one():
            refuge = refuge_of(DATA_FOLDER / "postgres")
            if refuge is not None:
                shutil.rmtree(refuge)
            shutil.rmtree(DATA_FOLDER)
    say(f"{DATA_FOLDER.name} is gone")
    return 0


class _StopSignals:
    """Counts the wishes to stop; the third ends this process, and the kernel its children.

    `make` passes a SIGTERM on, so one wish may arrive twice.
    """

    def __init__(self) -> None:
        self.count = 0
        self.children: Children = {}
        for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signal_number, self._note)

    def _note(self, _signal_number: int, _frame: object) -> None:
        self.count += 1
        if self.count > 2:  # noqa: PLR2004  the third time they mean it
            for child in self.children.values():
                child.kill()
            os._exit(1)


@contextlib.contextmanager
def _only_one() -> Iterator[None]:
    """Hold this checkout's data folder; `Problem` when another process does."""
    DATA_FOLDER.mkdir(mode=0o755, exist_ok=True)
    with (DATA_FOLDER / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise Problem("`make run` is already up in this checkout") from exc
        yield


@contextlib.contextmanager
def _servers(stopping: _StopSignals) -> Iterator[Servers]:
    """Start the servers the environment does not name."""
    environment = dict(os.environ)
    postgres = redis = None
    with ExitStack() as stack:
        stack.enter_context(_only_one())
        if not environment.get("DATABASE_URL"):
            postgres = start_postgres(DATA_FOLDER / "postgres", say)
            stack.callback(postgres.stop)
            environment["DATABASE_URL"] = postgres.url
            say(f"private PostgreSQL on port {postgres.port}")
        if not environment.get("REDIS_URL"):
            redis = start_redis(DATA_FOLDER / "redis")
            stack.callback(redis.stop)
            environment["REDIS_URL"] = redis.url
            say(f"private Redis on port {redis.port}")
        note = DATA_FOLDER / "servers"
        note.touch(mode=0o600)
        note.write_text(f"{environment['DATABASE_URL']}\n{environment['REDIS_URL']}\n")
        stack.callback(note.unlink)
        if stopping.count:
            raise Stopped
        yield Servers(environment, postgres, redis)


def _prepare(environment: Mapping[str, str], stopping: _StopSignals) -> None:
    """Bring the database up to date; what that prints is for the person at the terminal."""
    bootstrap = subprocess.Popen(
        [sys.executable, "-m", "app.bootstrap", "--demo"],
        env=environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=dies_with_parent(signal.SIGTERM),  # noqa: PLW1509  no threads here
    )
    deadline = time.monotonic() + _PREPARE_TIMEOUT_S
    try:
        while bootstrap.poll() is None and time.monotonic() < deadline:
            if stopping.count:
                raise Stopped
            time.sleep(_POLL_S)
    finally:
        end_child(bootstrap, signal.SIGTERM)
    if bootstrap.returncode:
        raise Problem("the database could not be prepared")


@contextlib.contextmanager
def _children(environment: Mapping[str, str]) -> Iterator[Children]:
    """Run the API and the worker; ends them in that order."""
    children: Children = {}
    try:
        for name in _MODULES:
            children[name] = _start(name, environment)
        yield children
    finally:
        for child in children.values():
            end_child(child, signal.SIGTERM)


def _start(name: str, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    return start_child(
        [sys.executable, "-m", _MODULES[name]],
        _log(name),
        when_parent_dies=signal.SIGTERM,
        environment=environment,
    )


def _wait_ready(settings: Settings, children: Children, stopping: _StopSignals) -> None:
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while time.monotonic() < deadline:
        if stopping.count:
            raise Stopped
        for name, child in children.items():
            if child.poll() is not None:
                raise Problem(f"the {name} did not start:\n{log_tail(_log(name))}")
        if _is_ready(settings):
            return
        time.sleep(_POLL_S)
    log = log_tail(_log("API"))
    raise Problem(f"the API is not ready after {_READY_TIMEOUT_S} s:\n{log}")


def _is_ready(settings: Settings) -> bool:
    """Ask the API itself; a proxy that the environment names has no part in this."""
    # A wildcard is where to listen, not whom to ask.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.http.host, settings.http.host)  # noqa: S104
    connection = _connection(settings, host)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == _HTTP_OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _connection(settings: Settings, host: str) -> http.client.HTTPConnection:
    """Connect as the API is served; its certificate need not be for a name this machine has."""
    port = settings.http.port
    if not settings.security.tls_certificate:
        return http.client.HTTPConnection(host, port, timeout=2)
    context = ssl._create_unverified_context()  # noqa: S323  asks itself whether it is up
    return http.client.HTTPSConnection(host, port, timeout=2, context=context)


def _print_welcome(settings: Settings) -> None:
    scheme = "https" if settings.security.tls_certificate else "http"
    url = f"{scheme}://localhost:{settings.http.port}"
    body = '{"account_id": "ACC001", "amount": "1000", "type": "credit"}'
    print(
        f"\n  Sub-Balance is ready: {url}\n"
        f"  API page and document: {url}/schema and {url}/schema/openapi.json\n\n"
        f"  curl -s -X POST {url}/api/v1/transaction"
        f" -H 'Content-Type: application/json' -d '{body}'\n\n"
        "  Ctrl-C stops everything; balances are kept.\n",
        flush=True,
    )


def _require_free_port(settings: Settings) -> None:
    address = (settings.http.host, settings.http.port)
    if not settings.http.port:
        raise Problem("PORT must not be 0 here: nobody would know where the API listens")
    family = socket.AF_INET6 if ":" in settings.http.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen()
        except OSError as exc:
            reason = exc.strerror or exc
            raise Problem(
                f"cannot listen on {address[0]} port {address[1]}: {reason}. "
                "Stop what uses it, or choose another: PORT=... make run"
            ) from exc


def _choose_metrics_port(environment: dict[str, str], settings: Settings) -> None:
    """Let the worker show its metrics beside the API's, unless that port is in use."""
    host, port = settings.observation.metrics_host, settings.http.port + 1
    if environment.get("SUBBALANCE_WORKER_METRICS_PORT") or port > _PORT_MAX:
        return
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            probe.bind((host, port))
            environment["SUBBALANCE_WORKER_METRICS_PORT"] = str(port)


def _log(name: str) -> Path:
    return DATA_FOLDER / f"{name.lower()}.log"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
