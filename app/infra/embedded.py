"""Starts private PostgreSQL and Redis servers for those who have none running.

The programs come from installed wheels or from the system. A server listens on loopback only, keeps
its files in one folder, dies with the process that started it, and no other server is touched.
"""

import contextlib
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

from app.infra.child_process import (
    EmbeddedServerError,
    end_child,
    end_left_over,
    start_child,
    wait_until,
)
from app.infra.privileges import give, unprivileged
from app.infra.server_binaries import find_redis_binaries, postgres_binaries, redis_binary

__all__ = [
    "EmbeddedPostgres",
    "EmbeddedRedis",
    "EmbeddedServerError",
    "find_redis_binaries",
    "start_postgres",
    "start_redis",
]

DATABASE = "subbalance"
_START_TIMEOUT_S = 60
_READY_LINE = 7
_REDIS_PROGRAMS = frozenset({"redis-server", "valkey-server"})
_POSTGRES_PROGRAMS = frozenset({"postgres"})
_PORT_MIN = 15_000
_PORT_TRIES_MAX = 100
_EPHEMERAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_EPHEMERAL_PORT_MIN_DEFAULT = 32_768
Say = Callable[[str], None]


class EmbeddedRedis:
    """One private Redis on a port it keeps; it keeps nothing else."""

    def __init__(self, binary: Path, folder: Path) -> None:
        self._binary = binary
        self._folder = folder
        self._child: subprocess.Popen[bytes] | None = None
        self._end_left_over()
        self.log = folder / "redis.log"
        self.port = _kept_port(folder)
        self.url = f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """The server's process id, 0 when it does not run."""
        return _pid(self._child)

    def start(self) -> None:
        """Start on the kept port and wait until it answers."""
        if self.pid:
            return
        options = {
            "--port": str(self.port),
            "--bind": "127.0.0.1",
            "--dir": str(self._folder),
            "--save": "",
            "--appendonly": "no",
            "--maxmemory-policy": "noeviction",
        }
        command = [str(self._binary), *(part for pair in options.items() for part in pair)]
        self._child = start_child(command, self.log, when_parent_dies=signal.SIGTERM)
        wait_until(self._answers, self._child, self.log, "Redis", _START_TIMEOUT_S)

    def stop(self) -> None:
        """End it, by force after a bounded wait."""
        end_child(self._child, signal.SIGTERM)
        self._child = None

    def kill(self) -> None:
        """End it as a crash would."""
        end_child(self._child, signal.SIGKILL)
        self._child = None

    def _answers(self) -> bool:
        address = ("127.0.0.1", self.port)
        with contextlib.suppress(OSError), socket.create_connection(address, 1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
        return False

    def _end_left_over(self) -> None:
        end_left_over(self._folder, _REDIS_PROGRAMS, signal.SIGTERM)


class EmbeddedPostgres:
    """One private PostgreSQL cluster with a database named `subbalance`."""

    def __init__(self, folder: Path, *, durable: bool) -> None:
        way = unprivileged(postgres_binaries(folder / "cluster"), folder)
        self._way = way
        self._cluster = way.folder / "cluster"
        self._durable = durable
        self._child: subprocess.Popen[bytes] | None = None
        self._end_left_over()
        self.log = folder / "postgres.log"
        self.port = _kept_port(folder)
        self.url = f"postgresql://{DATABASE}@127.0.0.1:{self.port}/{DATABASE}?sslmode=disable"

    @property
    def pid(self) -> int:
        """The postmaster's process id, 0 when it does not run."""
        return _pid(self._child)

    def create(self, say: Say) -> None:
        """Make the cluster and its database if they are not there yet.

        They are made under another name and renamed when complete, so that an interrupted attempt
        is never taken for a cluster.
        """
        if self._cluster.exists():
            return
        say("creating a PostgreSQL cluster (once, a few seconds) ...")
        unfinished = self._cluster.with_name("cluster.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        give(unfinished, self._way.owner)
        place = ["-D", str(unfinished)]
        sync = [] if self._durable else ["--no-sync"]
        encoding = ["-E", "UTF8", "--locale=C.UTF-8"]
        self._run("initdb", [*place, "-U", DATABASE, "-A", "trust", *encoding, *sync])
        statement = f"CREATE DATABASE {DATABASE}\n"
        self._run("postgres", ["--single", *place, "postgres"], standard_input=statement)
        unfinished.rename(self._cluster)

    def start(self) -> None:
        """Start on the kept port and wait until it takes connections."""
        if self.pid:
            return
        self._end_left_over()
        give(self._cluster, self._way.owner)
        command = [
            *self._way.prefix,
            str(self._way.binaries / "postgres"),
            "-D",
            str(self._cluster),
        ]
        for name, value in self._configuration().items():
            command += ["-c", f"{name}={value}"]
        self._child = start_child(
            command, self.log, when_parent_dies=signal.SIGINT, options=self._way.options
        )
        wait_until(self._is_ready, self._child, self.log, "PostgreSQL", _START_TIMEOUT_S)

    def stop(self) -> None:
        """End it in order, by force after a bounded wait."""
        end_child(self._child, signal.SIGINT)
        self._child = None

    def kill(self) -> None:
        """End it as a crash would; its sessions notice and end by themselves."""
        end_child(self._child, signal.SIGKILL)
        self._child = None

    def _configuration(self) -> dict[str, str]:
        switch = "on" if self._durable else "off"
        return {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            # Dropping a database goes through all of them, and tests drop one each.
            "shared_buffers": "512MB" if self._durable else "64MB",
            "fsync": switch,
            "full_page_writes": switch,
            "synchronous_commit": "on",
            "wal_compression": "off",
            "max_wal_size": "8GB",
            "checkpoint_timeout": "15min",
            "jit": "off",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_checkpoints": "off",
            "log_lock_waits": "on",
        }

    def _is_ready(self) -> bool:
        """Tell whether this server, not an earlier one, wrote that it takes connections."""
        with contextlib.suppress(OSError, IndexError):
            lines = (self._cluster / "postmaster.pid").read_text().splitlines()
            return lines[0] == str(self.pid) and lines[_READY_LINE].strip() == "ready"
        return False

    def _end_left_over(self) -> None:
        end_left_over(self._cluster, _POSTGRES_PROGRAMS, signal.SIGINT)

    def _run(self, program: str, arguments: list[str], standard_input: str = "") -> None:
        done = subprocess.run(
            [*self._way.prefix, str(self._way.binaries / program), *arguments],
            capture_output=True,
            text=True,
            input=standard_input,
            timeout=_START_TIMEOUT_S,
            check=False,
            start_new_session=True,
            **self._way.options,
        )
        if done.returncode:
            raise EmbeddedServerError(f"{program} failed: {done.stderr.strip()[-500:]}")


def start_postgres(folder: Path, say: Say, *, durable: bool = True) -> EmbeddedPostgres:
    """Start a private PostgreSQL whose files are in a folder and are kept there.

    `durable=False` is for tests that do not pull the plug. Raises `EmbeddedServerError`.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    server = EmbeddedPostgres(folder, durable=durable)
    server.create(say)
    server.start()
    return server


def start_redis(folder: Path, binary: Path | None = None) -> EmbeddedRedis:
    """Start a private Redis; it keeps only its port. Raises `EmbeddedServerError`."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    server = EmbeddedRedis(binary or redis_binary(), folder)
    server.start()
    return server


def _pid(child: "subprocess.Popen[bytes] | None") -> int:
    return child.pid if child is not None and child.poll() is None else 0


def _kept_port(folder: Path) -> int:
    """The port this folder's server had, if it is still free, else a free one, kept from now on.

    It lies below the ports the kernel hands to outgoing connections. Otherwise a client that keeps
    trying a dead server may be handed that server's own port, and then talks to itself.
    """
    note = folder / "port"
    with contextlib.suppress(OSError, ValueError):
        kept = int(note.read_text())
        if _is_free(kept):
            return kept
    above = _EPHEMERAL_PORT_MIN_DEFAULT
    with contextlib.suppress(OSError, ValueError, IndexError):
        above = max(_PORT_MIN + 1_000, int(_EPHEMERAL_PORTS.read_text().split()[0]))
    for _ in range(_PORT_TRIES_MAX):
        port = _PORT_MIN + secrets.randbelow(above - _PORT_MIN)
        if _is_free(port):
            note.write_text(str(port))
            return port
    raise EmbeddedServerError("No free port on 127.0.0.1.")


def _is_free(port: int) -> bool:
    with contextlib.suppress(OSError, OverflowError), socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        probe.listen()
        return True
    return False
