"""A private Redis that can come back old or as somebody's replica, and a pair of them to fail over.

Whoever uses them reaches the ruling one through proxies, which are retargeted when it changes.
"""

import contextlib
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import redis as redis_sync

from app.infra.child_process import start_child, wait_until
from app.infra.embedded import EmbeddedRedis
from app.infra.server_binaries import redis_binary
from tests.cluster import resume_tree

START_TIMEOUT_S = 20
COMMAND_TIMEOUT_S = 2.0
SYNC_TIMEOUT_S = 3.0
_POLL_S = 0.05
_DUMP = "dump.rdb"
_SNAPSHOT = "snapshot.rdb"


class RestorableRedis(EmbeddedRedis):
    """A private Redis that keeps nothing unless it is told to come back from a snapshot."""

    def __init__(self, binary: Path, folder: Path) -> None:
        """Nothing runs before `start`."""
        super().__init__(binary, folder)
        self._binary = binary
        self._folder = folder

    def start(self) -> None:
        """Start empty on the kept port and wait until it answers."""
        self._begin_life({})

    def start_old(self) -> None:
        """Start with the content of the last snapshot, empty when there is none."""
        with contextlib.suppress(FileNotFoundError):
            shutil.copy(self._folder / _SNAPSHOT, self._folder / _DUMP)
        self._begin_life({})

    def start_as_replica(self, port: int) -> None:
        """Start empty and follow the server at a port of this machine."""
        self._begin_life({"--replicaof": f"127.0.0.1 {port}"})

    def kill(self) -> None:
        """End it as a crash would, paused or not."""
        resume_tree(self.pid)
        super().kill()

    def snapshot(self) -> None:
        """Write down what it has now, for a later `start_old`."""
        self.command("SAVE")
        (self._folder / _DUMP).replace(self._folder / _SNAPSHOT)

    def command(self, *words: str) -> Any:
        """Send one command directly; raises what the client raises, in bounded time."""
        with redis_sync.Redis.from_url(
            self.url,
            decode_responses=True,
            socket_timeout=COMMAND_TIMEOUT_S,
            socket_connect_timeout=COMMAND_TIMEOUT_S,
        ) as client:
            return client.execute_command(*words)

    def is_synced(self) -> bool:
        """Tell whether this replica's link to its master is up."""
        with contextlib.suppress(redis_sync.RedisError, OSError):
            return self.command("INFO", "replication").get("master_link_status") == "up"
        return False

    def wait_synced(self) -> bool:
        """Wait until this replica has the master's data; False when it takes too long."""
        deadline = time.monotonic() + SYNC_TIMEOUT_S
        while time.monotonic() < deadline:
            if self.is_synced():
                return True
            time.sleep(_POLL_S)
        return False

    def _begin_life(self, more: dict[str, str]) -> None:
        if self.pid:
            return
        options = {
            "--port": str(self.port),
            "--bind": "127.0.0.1",
            "--dir": str(self._folder),
            "--dbfilename": _DUMP,
            "--save": "",
            "--appendonly": "no",
            "--maxmemory-policy": "noeviction",
            "--repl-diskless-sync-delay": "0",
            **more,
        }
        command = [str(self._binary)]
        for name, value in options.items():
            command += [name, *(value.split() if value else [""])]
        # A paused one would keep a gentler signal for later.
        self._child = start_child(command, self.log, when_parent_dies=signal.SIGKILL)
        wait_until(self._answers, self._child, self.log, "Redis", START_TIMEOUT_S)
        (self._folder / _DUMP).unlink(missing_ok=True)


def start_restorable(folder: Path) -> RestorableRedis:
    """Start a private Redis, empty."""
    server = describe_restorable(folder)
    server.start()
    return server


def describe_restorable(folder: Path) -> RestorableRedis:
    """A private Redis that does not run yet."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _DUMP).unlink(missing_ok=True)
    return RestorableRedis(redis_binary(), folder)


class Fleet:
    """Two servers, one of which the service is sent to."""

    def __init__(self, ruling: RestorableRedis, spare: RestorableRedis) -> None:
        """`spare` need not run."""
        self.ruling = ruling
        self.spare = spare

    def swap(self) -> None:
        """Send the service to the other one from now on."""
        self.ruling, self.spare = self.spare, self.ruling

    def stop(self) -> None:
        """End both."""
        for server in (self.ruling, self.spare):
            resume_tree(server.pid)
            server.stop()
