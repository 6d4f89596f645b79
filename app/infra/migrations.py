"""Applies `sql/migrations/` in order, each once, under an advisory lock, with its checksum kept."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from app.errors import UnusableDatabase
from app.infra.files import shipped

if TYPE_CHECKING:
    from app.infra.postgres import Connection

MIGRATIONS_FOLDER = shipped("sql") / "migrations"
_LOCK_KEY = 7_300_000_001
# A form of a file that was applied elsewhere, and leaves the same schema once the others are there:
# this one ended with what is `0014_pending_sums.sql` now.
_OTHER_FORMS = {
    "0011_pending.sql": "2c6f6ac7ff4ff78c13738a42194021e454f659f292e813dba46220918c49b29b",
}
_TABLE = """
    CREATE TABLE IF NOT EXISTS schema_migrations (
        name text PRIMARY KEY, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now()
    )
"""


async def migrate(connection: "Connection", folder: Path = MIGRATIONS_FOLDER) -> list[str]:
    """Bring the schema up to date and return the names applied.

    Raises `UnusableDatabase` when an applied file was edited or is not here (a newer service's).
    """
    await connection.execute("SELECT pg_advisory_lock($1)", _LOCK_KEY)
    try:
        await connection.execute(_TABLE)
        applied = await _applied(connection)
        files = _read_files(folder)
        _compare(applied, files)
        names = sorted(files.keys() - applied.keys())
        for name in names:
            async with connection.transaction():
                await connection.execute(files[name])
                await connection.execute(
                    "INSERT INTO schema_migrations (name, checksum) VALUES ($1, $2)",
                    name,
                    _checksum(files[name]),
                )
        return names
    finally:
        await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK_KEY)


async def check_schema(connection: "Connection", folder: Path = MIGRATIONS_FOLDER) -> None:
    """Raise `UnusableDatabase` unless exactly the migrations of this version were applied."""
    if await connection.fetchval("SELECT to_regclass('schema_migrations')") is None:
        raise UnusableDatabase("The database has no schema yet; run `python -m app.bootstrap`.")
    applied = await _applied(connection)
    files = _read_files(folder)
    _compare(applied, files)
    missing = sorted(files.keys() - applied.keys())
    if missing:
        raise UnusableDatabase(f"Migrations are missing: {', '.join(missing)}.")


def _read_files(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.sql")}


async def _applied(connection: "Connection") -> dict[str, str]:
    rows = await connection.fetch("SELECT name, checksum FROM schema_migrations")
    return {row["name"]: row["checksum"] for row in rows}


def _compare(applied: dict[str, str], files: dict[str, str]) -> None:
    for name, checksum in sorted(applied.items()):
        if name not in files:
            raise UnusableDatabase(f"{name} was applied by another version of the service.")
        if checksum not in (_checksum(files[name]), _OTHER_FORMS.get(name)):
            raise UnusableDatabase(f"{name} was edited after it was applied.")


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
