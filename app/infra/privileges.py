"""Runs a program that refuses to be root, without creating users or opening folders to others.

Root steps down to `nobody` where `nobody` can reach the program and its folder, and otherwise into
a user namespace in which it is not root but the files stay its own.
"""

import ctypes
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

_PR_SET_PDEATHSIG = 1
_PROBE_TIMEOUT_S = 10
_UNPRIVILEGED_USER = "nobody"
_libc = ctypes.CDLL(None)


class EmbeddedServerError(Exception):
    """A private server could not be started; the message says what to do."""


class Unprivileged(NamedTuple):
    """How to start a program as somebody who is not root."""

    prefix: tuple[str, ...]
    options: dict[str, Any]
    owner: tuple[int, int] | None


def unprivileged(program: Path, folder: Path) -> Unprivileged:
    """Find a way to run a program on a folder as non-root; raises `EmbeddedServerError`."""
    if os.geteuid() != 0:
        return Unprivileged((), {}, None)
    user = pwd.getpwnam(_UNPRIVILEGED_USER)
    options = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "cwd": "/"}
    if _reaches(program, folder, options):
        return Unprivileged((), options, (user.pw_uid, user.pw_gid))
    unshare = shutil.which("unshare")
    ids = (f"--map-user={user.pw_uid}", f"--map-group={user.pw_gid}")
    if unshare is not None:
        prefix = (unshare, "--user", *ids, "--fork", "--kill-child=SIGINT")
        if _runs([*prefix, str(program), "--version"], {}):
            return Unprivileged(prefix, {}, None)
    raise EmbeddedServerError(
        f"PostgreSQL refuses to run as root, and {folder} is closed to other users. "
        "Run this as an ordinary user, or set DATABASE_URL."
    )


def _reaches(program: Path, folder: Path, options: dict[str, Any]) -> bool:
    """Tell whether a user may enter the folder's parent and run the program."""
    script = 'cd "$1" && exec "$2" --version'
    return _runs(["/bin/sh", "-c", script, "sh", str(folder.parent), str(program)], options)


def _runs(command: list[str], options: dict[str, Any]) -> bool:
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=_PROBE_TIMEOUT_S, check=False, **options
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


def dies_with_parent(signal_number: signal.Signals) -> Callable[[], None]:
    """Return a `preexec_fn` that has the kernel signal the child when its parent dies."""

    def ask_kernel() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, int(signal_number))

    return ask_kernel
