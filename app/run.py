"""`python -m app.run`: the whole service on one machine, stopped by one Ctrl-C.

Starts a private Redis and PostgreSQL for whichever of REDIS_URL and DATABASE_URL is not set,
prepares the database, then runs the API and the worker as processes of their own. `settle` and
`clean-data` act on the same private servers. It never touches a server it did not start.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from app.errors import LedgerError
from app.infra.embedded import start_postgres, start_redis
from app.infra.privileges import EmbeddedServerError, dies_with_parent
from app.settings import Settings, load_settings

DATA_FOLDER = Path(__file__).resolve().parents[1] / ".data"
_READY_TIMEOUT_S = 30
_STOP_TIMEOUT_S = 20
_POLL_S = 0.1
_LOG_TAIL = 1_500


class Problem(Exception):
    """Why the service cannot run, as a sentence for the person who started it."""


def say(text: str) -> None:
    """Tell the person at the terminal what is being done."""
    print(f"sub-balance: {text}", flush=True)


def main(arguments: list[str]) -> int:
    """Run a command; 0 when it ended as told."""
    commands = {"": run_service, "settle": settle, "clean-data": clean_data}
    name = arguments[0] if arguments else ""
    if name not in commands or len(arguments) > 1:
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


def run_service() -> int:
    """Start everything, wait for a signal or a process that dies, stop everything."""
    settings = load_settings(os.environ)
    _require_free_port(settings)
    stopping = _StopSignals()
    with ExitStack() as stack:
        environment = stack.enter_context(_servers(stopping))
        _prepare(environment)
        children = stack.enter_context(_children(environment))
        _wait_ready(settings, children, stopping)
        _print_welcome(settings)
        while not stopping.count:
            for name, child in children.items():
                if child.poll() is not None:
                    raise Problem(f"the {name} ended unexpectedly:\n{_tail(name)}")
            time.sleep(_POLL_S)
        say("stopping ...")
    say("stopped")
    return 0


def settle() -> int:
    """Settle what is pending now, in this checkout's service or the one the environment names."""
    environment = dict(os.environ)
    note = DATA_FOLDER / "servers"
    if "DATABASE_URL" not in environment or "REDIS_URL" not in environment:
        if not note.exists():
            raise Problem("nothing runs here; set DATABASE_URL and REDIS_URL, or `make run` first")
        database_url, redis_url = note.read_text().splitlines()
        environment.setdefault("DATABASE_URL", database_url)
        environment.setdefault("REDIS_URL", redis_url)
    return subprocess.run(
        [sys.executable, "-m", "app.workers", "--once"], env=environment, check=False
    ).returncode


def clean_data() -> int:
    """Remove the private servers' data, unless they run."""
    if DATA_FOLDER.exists():
        with _only_one():
            shutil.rmtree(DATA_FOLDER)
    say(f"{DATA_FOLDER.name} is gone")
    return 0


class _StopSignals:
    """Counts the wishes to stop; the third ends this process, and the kernel its children."""

    def __init__(self) -> None:
        self.count = 0
        for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signal_number, self._note)

    def _note(self, _signal_number: int, _frame: object) -> None:
        self.count += 1
        if self.count > 2:  # noqa: PLR2004  the third time they mean it
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
def _servers(stopping: _StopSignals) -> Iterator[dict[str, str]]:
    """Start the servers the environment does not name; yields an environment that names both."""
    environment = dict(os.environ)
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
        note.write_text(f"{environment['DATABASE_URL']}\n{environment['REDIS_URL']}\n")
        note.chmod(0o600)
        stack.callback(note.unlink)
        if stopping.count:
            raise Problem("stopped while starting")
        yield environment


def _prepare(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "app.bootstrap", "--demo"],
        env=environment,
        check=False,
        start_new_session=True,
    )
    if done.returncode:
        raise Problem("the database could not be prepared")


@contextlib.contextmanager
def _children(environment: dict[str, str]) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Run the API and the worker; ends them in that order."""
    children: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, module in (("API", "app.main"), ("worker", "app.workers")):
            with _log(name).open("wb") as log:
                children[name] = subprocess.Popen(
                    [sys.executable, "-m", module],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=dies_with_parent(signal.SIGTERM),  # noqa: PLW1509  no threads here
                )
        yield children
    finally:
        for child in children.values():
            _end(child)


def _end(child: "subprocess.Popen[bytes]") -> None:
    child.terminate()
    try:
        child.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _wait_ready(
    settings: Settings, children: dict[str, "subprocess.Popen[bytes]"], stopping: _StopSignals
) -> None:
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while time.monotonic() < deadline and not stopping.count:
        for name, child in children.items():
            if child.poll() is not None:
                raise Problem(f"the {name} did not start:\n{_tail(name)}")
        with contextlib.suppress(urllib.error.URLError, OSError):
            url = f"http://127.0.0.1:{settings.http.port}/health/ready"
            with urllib.request.urlopen(url, timeout=2):
                return
        time.sleep(_POLL_S)
    if not stopping.count:
        raise Problem(f"the API is not ready after {_READY_TIMEOUT_S} s:\n{_tail('API')}")


def _print_welcome(settings: Settings) -> None:
    url = f"http://localhost:{settings.http.port}"
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
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.http.host, settings.http.port))
        except OSError as exc:
            raise Problem(f"port {settings.http.port} is in use; choose another: PORT=...") from exc


def _log(name: str) -> Path:
    return DATA_FOLDER / f"{name.lower()}.log"


def _tail(name: str) -> str:
    return _log(name).read_text(errors="replace")[-_LOG_TAIL:]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
