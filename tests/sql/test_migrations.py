"""Migrations are applied once, in order, and never edited afterwards."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from app.errors import UnusableDatabase
from app.infra.migrations import MIGRATIONS_FOLDER, check_schema, migrate

RELEASED = Path(__file__).with_name("released.sha256")
_SUMS_OF = "SELECT prosrc FROM pg_proc WHERE proname = 'pending_sums_of_v2'"


def copied(folder: Path) -> Path:
    """A folder with the same files."""
    for path in MIGRATIONS_FOLDER.glob("*.sql"):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_what_was_released_is_as_it_was() -> None:
    released = dict(reversed(line.split()) for line in RELEASED.read_text().splitlines())
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in MIGRATIONS_FOLDER.glob("*.sql")
    }
    assert found == released


async def test_they_are_applied_once(database: Any) -> None:
    assert await migrate(database) == []
    await check_schema(database)


async def test_what_is_missing_is_applied_and_refused_before(database: Any, tmp_path: Path) -> None:
    (copied(tmp_path) / "9999_later.sql").write_text("CREATE TABLE later ();")
    with pytest.raises(UnusableDatabase, match="9999_later"):
        await check_schema(database, tmp_path)
    assert await migrate(database, tmp_path) == ["9999_later.sql"]
    await check_schema(database, tmp_path)


async def test_an_edited_one_is_refused(database: Any, tmp_path: Path) -> None:
    (copied(tmp_path) / "0011_pending.sql").write_text("SELECT 1;")
    for use in (migrate, check_schema):
        with pytest.raises(UnusableDatabase, match=r"0011_pending\.sql was edited"):
            await use(database, tmp_path)


async def test_one_of_a_newer_service_is_refused(database: Any, tmp_path: Path) -> None:
    (copied(tmp_path) / "0014_pending_sums.sql").unlink()
    for use in (migrate, check_schema):
        with pytest.raises(UnusableDatabase, match=r"0014_pending_sums\.sql was applied"):
            await use(database, tmp_path)


async def test_the_longer_form_of_0011_leaves_the_same_schema(database: Any) -> None:
    longer = "2c6f6ac7ff4ff78c13738a42194021e454f659f292e813dba46220918c49b29b"
    before = await database.fetchval(_SUMS_OF)
    await database.execute("DELETE FROM schema_migrations WHERE name = '0014_pending_sums.sql'")
    await database.execute(
        "UPDATE schema_migrations SET checksum = $1 WHERE name = '0011_pending.sql'", longer
    )
    assert await migrate(database) == ["0014_pending_sums.sql"]
    await check_schema(database)
    assert await database.fetchval(_SUMS_OF) == before
