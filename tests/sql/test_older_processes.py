"""What processes call that are not replaced yet, `journal_batch_v2`, `decide_batch_v1` and v2, and
the database that they leave.
"""

import shutil
from pathlib import Path

import asyncpg
import pytest

from app.infra.embedded import EmbeddedPostgres
from app.infra.migrations import MIGRATIONS_FOLDER, migrate
from tests.conftest import database_url_of
from tests.sql.conftest import Part, Sql


async def test_both_journal_into_one_history(sql: Sql) -> None:
    account = await sql.open_account("A")
    old = await sql.journal_v2([(account, 5), (account, 7)], keys=[(0, "key:a")])
    new = await sql.journal([(account, 5), (account, 9)], keys=[(0, "key:a"), (1, "key:b")])
    late = await sql.journal_v2([(account, 9), (account, 1)], keys=[(0, "key:b")])
    assert [row["duplicate_items"] for row in (old, new, late)] == [[], [0], [0]]
    assert await sql.connection.fetchval("SELECT sum(change_minor) FROM journal_entries") == 22
    assert (await sql.settle())["entries"] == 4


async def test_an_old_attempt_is_found_again_by_either(sql: Sql) -> None:
    account = await sql.open_account("A")
    first = await sql.journal_v2([(account, 5)], attempt=70)
    assert tuple(await sql.journal([(account, 5)], attempt=70)) == tuple(first)
    second = await sql.journal([(account, 5)], attempt=71)
    assert tuple(await sql.journal_v2([(account, 5)], attempt=71)) == tuple(second)
    assert await sql.count("journal_entries") == 2


async def test_a_part_s_name_is_taken_for_older_processes_too(sql: Sql) -> None:
    account = await sql.open_account("A")
    await sql.journal([(account, 5)], part=Part("key:k"))
    row = await sql.journal_v2([(account, 5)], keys=[(0, "key:k")])
    assert row["duplicate_items"] == [0]
    assert await sql.count("journal_entries") == 1


@pytest.mark.parametrize("change", ["epoch = 1", "mode = 'postgres'", "redis_token = 'other'"])
async def test_they_are_fenced_as_well(sql: Sql, change: str) -> None:
    account = await sql.open_account("A")
    await sql.connection.execute(f"UPDATE ledger_shards SET {change}")
    assert (await sql.journal_v2([(account, 5)]))["outcome"] == "fenced"
    assert await sql.count("journal_batches") == 0


async def test_both_decide_over_one_balance(fallen_back: Sql) -> None:
    account = await fallen_back.open_account("A", 110)
    before = await fallen_back.decide([(account, -10), (account, -101)], version=2)
    assert before["words"] == ["admitted", "insufficient_available"]
    old = await fallen_back.decide_v1([(account, -60)], keys=[(0, "key:a")])
    new = await fallen_back.decide([(account, -60), (account, -30)], keys=[(1, "key:a")])
    late = await fallen_back.decide_v1([(account, -40), (account, -1)])
    assert [row["words"] for row in (old, new, late)] == [
        ["admitted"],
        ["insufficient_available", "duplicate"],
        ["admitted", "insufficient_available"],
    ]


async def test_a_late_copy_of_an_old_refusal_admits_nothing(fallen_back: Sql) -> None:
    account = await fallen_back.open_account("A")
    await fallen_back.decide_v1([(account, -5)], attempt=70, repeated=True)
    await fallen_back.decide([(account, 50)])
    assert (await fallen_back.decide_v1([(account, -5)], attempt=70))["outcome"] == "void"
    assert await fallen_back.count("journal_entries", "change_minor < 0") == 0


async def test_accounts_from_before_changes_can_be_changed(
    postgres_server: EmbeddedPostgres, tmp_path: Path
) -> None:
    """The last released schema with an account in it is brought up to date."""
    for path in sorted(MIGRATIONS_FOLDER.glob("000[123]_*.sql")):
        shutil.copy(path, tmp_path)
    admin = await asyncpg.connect(postgres_server.url)
    await admin.execute("CREATE DATABASE before_changes")
    connection = await asyncpg.connect(database_url_of(postgres_server, "before_changes"))
    await migrate(connection, tmp_path)
    sql = Sql(connection)
    account = await sql.open_account("A", 100)
    await migrate(connection)
    await connection.execute(
        "UPDATE ledger_shards SET postgres_identity = postgres_identity_v1(), redis_token = 'word',"
        " protocol_version = 4"
    )
    assert (await sql.change(frozen="debit"))["outcome"] == "changed"
    assert (await sql.account())["frozen"] == "debit"
    await sql.journal([(account, -101)])
    with pytest.raises(asyncpg.CheckViolationError):
        await sql.settle()
    await connection.close()
    await admin.execute("DROP DATABASE before_changes WITH (FORCE)")
    await admin.close()
