"""Starts programs that must not outlive this process, and ends them in bounded time.

Output goes to a log file, never to this process's own: a pipe held open by a child would keep
whoever reads it waiting. Call from the main thread: the kernel ties a child to the thread that
started it.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_POLL_S = 0.02
_STOP_TIMEOUT_S = 20
_LOG_TAIL_CHARACTERS = 1_500
_libc = ctypes.CDLL(None)


class EmbeddedServerError(Exception):
    """A private server could not be started; the message says what to do."""


def dies_with_parent(signal_number: signal.Signals) -> Callable[[], None]:
    """Return a `preexec_fn` that has the kernel signal the child when its parent dies."""
    parent = os.getpid()

    def ask_kernel() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(signal_number))
        # The parent may have died before the request above; nobody would signal the child then.
        if os.getppid() != parent:
            os._exit(1)

    return ask_kernel


def start_child(
    command: Sequence[str],
    log: Path,
    *,
    when_parent_dies: signal.Signals,
    environment: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> "subprocess.Popen[bytes]":
    """Start a program in a session of its own, so that a Ctrl-C reaches only its parent.

    The log of the previous life is kept beside the new one as `.previous`.
    """
    if log.exists():
        log.replace(log.with_name(f"{log.name}.previous"))
    with log.open("wb") as output:
        return subprocess.Popen(
            list(command),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=dies_with_parent(when_parent_dies),  # noqa: PLW1509  no threads here
            **(options or {}),
        )


def end_child(
    child: "subprocess.Popen[bytes] | None",
    signal_number: signal.Signals,
    timeout_s: float = _STOP_TIMEOUT_S,
) -> None:
    """Signal a child and wait; one that ignores the signal is killed after a bounded wait."""
    if child is None:
        return
    child.send_signal(signal_number)
    try:
        child.wait(timeout_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def wait_until(
    ready: Callable[[], bool],
    child: "subprocess.Popen[bytes]",
    log: Path,
    name: str,
    timeout_s: float,
) -> None:
    """Wait until a child is ready; `EmbeddedServerError` when it ends or takes too long."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and child.poll() is None:
        if ready():
            return
        time.sleep(_POLL_S)
    how = "took too long to start" if child.poll() is None else "did not start"
    child.kill()
    child.wait()
    raise EmbeddedServerError(f"{name} {how}. The end of {log}:\n{log_tail(log)}")


def log_tail(log: Path) -> str:
    """The end of a log, empty when there is none."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - _LOG_TAIL_CHARACTERS))
        return file.read().decode(errors="replace").strip()
    return ""


def end_left_over(folder: Path, programs: frozenset[str], signal_number: signal.Signals) -> None:
    """End a server that outlived the process which had started it; it touches no others.

    A process is taken for it only if it is called like one and works in the folder. One that
    ignores the signal is killed after a bounded wait.
    """
    for stronger in (signal_number, signal.SIGKILL):
        for pid in _left_over(folder, programs):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, stronger)
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        while _left_over(folder, programs):
            if time.monotonic() > deadline:
                break
            time.sleep(_POLL_S)
        else:
            return
    raise EmbeddedServerError(f"A server of an earlier run still works in {folder}.")


def _left_over(folder: Path, programs: frozenset[str]) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name = (entry / "comm").read_text().strip()
            is_running = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
            if name in programs and is_running and (entry / "cwd").readlink() == folder:
                found.append(int(entry.name))
    return found
