"""`python -m app.instances`: some API processes behind one address, replaced without a pause.

It opens the address once and gives it to each of them, so a connection that is made while one of
them ends is served by another. SIGHUP replaces them one after the other: a new one serves before
an old one is told to end. A process that dies is started again. SIGTERM ends them all.

Which of them answers `/metrics` at the shared address is chance, so each has a port of its own for
that: SUBBALANCE_METRICS_PORT and those after it.
"""

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from app.errors import LedgerError
from app.infra.child_process import dies_with_parent, end_child
from app.settings import Settings, load_settings

_BACKLOG = 2_048
_COUNT_MAX = 32
_START_S = 30.0
_STARTS_MAX = 20
_POLL_S = 0.05


class Problem(Exception):
    """Why the processes cannot go on, as a sentence."""


class Instances:
    """The processes, all of which accept from one listening socket."""

    def __init__(self, listener: socket.socket, folder: Path, metrics_port: int = 0) -> None:
        """Keep a socket on which each tells that it serves in a folder of this process's own; the
        first shows its metrics on `metrics_port`, 0 is none.
        """
        self._listener = listener
        self._metrics_port = metrics_port
        self._address = folder / "ready"
        self._ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ready.bind(str(self._address))
        self._children: list[subprocess.Popen[bytes]] = []
        self._starts_left = _STARTS_MAX
        self.asked = {signal.SIGTERM: False, signal.SIGINT: False, signal.SIGHUP: False}
        for signal_number in self.asked:
            signal.signal(signal_number, self._note)

    def run(self, count: int) -> None:
        """Keep so many processes until told to end."""
        try:
            while len(self._children) < count and not self._is_ending():
                self._children.append(self._start(len(self._children)))
            say(f"{count} processes serve")
            while not self._is_ending():
                if self.asked[signal.SIGHUP]:
                    self.asked[signal.SIGHUP] = False
                    self._replace_all()
                self._revive()
                time.sleep(_POLL_S)
        finally:
            # All are told before any is waited for.
            for child in self._children:
                child.terminate()
            for child in self._children:
                end_child(child, signal.SIGTERM)

    def _replace_all(self) -> None:
        """Put a new process in the place of each; what is new and does not serve is given up."""
        for place, old in enumerate(self._children):
            if self._is_ending():
                return
            try:
                self._children[place] = self._start(place)
            except Problem as problem:
                say(f"not replaced: {problem}")
                return
            end_child(old, signal.SIGTERM)
        self._starts_left = _STARTS_MAX
        say(f"{len(self._children)} processes were replaced")

    def _revive(self) -> None:
        """Start again what died, a bounded number of times; those that live serve on."""
        for place, child in enumerate(self._children):
            if child.poll() is None or not self._starts_left:
                continue
            self._starts_left -= 1
            say(f"a process ended with {child.returncode}; starting another")
            try:
                self._children[place] = self._start(place)
            except Problem as problem:
                say(str(problem))
        if not self._starts_left and all(child.poll() is not None for child in self._children):
            raise Problem("the processes keep ending")

    def _start(self, place: int) -> "subprocess.Popen[bytes]":
        """Start one and wait until it serves. Its predecessor in that place, if there is one, has
        the port for metrics until it ends.
        """
        listener = self._listener.fileno()
        metrics_port = self._metrics_port + place if self._metrics_port else 0
        child = subprocess.Popen(
            [sys.executable, "-m", "app.main"],
            env={
                **os.environ,
                "SUBBALANCE_LISTEN_FD": str(listener),
                "SUBBALANCE_METRICS_PORT": str(metrics_port),
                "NOTIFY_SOCKET": str(self._address),
            },
            pass_fds=(listener,),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=dies_with_parent(signal.SIGTERM),  # noqa: PLW1509  no threads here
        )
        deadline = time.monotonic() + _START_S
        self._ready.settimeout(_POLL_S)
        while time.monotonic() < deadline and child.poll() is None and not self._is_ending():
            with contextlib.suppress(TimeoutError):
                self._ready.recv(64)
                return child
        end_child(child, signal.SIGTERM)
        if self._is_ending():
            return child
        raise Problem(f"a new process does not serve; it ended with {child.returncode}")

    def _is_ending(self) -> bool:
        return self.asked[signal.SIGTERM] or self.asked[signal.SIGINT]

    def _note(self, signal_number: int, _frame: object) -> None:
        self.asked[signal.Signals(signal_number)] = True


def say(text: str) -> None:
    """Tell whoever reads the log."""
    print(f"sub-balance instances: {text}", flush=True)


@contextlib.contextmanager
def open_listener(settings: Settings) -> Iterator[socket.socket]:
    """Listen at the address of the settings; `Problem` where that is not possible."""
    address = (settings.http.host, settings.http.port)
    family = socket.AF_INET6 if ":" in settings.http.host else socket.AF_INET
    try:
        listener = socket.create_server(address, family=family, backlog=_BACKLOG)
    except OSError as error:
        raise Problem(
            f"cannot listen on {address[0]} port {address[1]}: {error.strerror}"
        ) from error
    with listener:
        yield listener


def main(arguments: list[str]) -> int:
    """Run the processes until told to end; 0 when it ended as told."""
    parser = argparse.ArgumentParser(prog="python -m app.instances", description=__doc__)
    parser.add_argument("--count", type=int, default=2, choices=range(1, _COUNT_MAX + 1))
    count = parser.parse_args(arguments).count
    try:
        settings = load_settings(os.environ)
        with (
            open_listener(settings) as listener,
            TemporaryDirectory(prefix="sb-instances-") as folder,
        ):
            metrics_port = settings.observation.metrics_port
            Instances(listener, Path(folder), metrics_port).run(count)
    except (Problem, LedgerError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
