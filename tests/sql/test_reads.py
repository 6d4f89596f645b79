"""The SQL of history: how far settlements say they are complete, lines by halving, and balances
where that was not recorded.
"""

import shutil
from datetime import timedelta
from pathlib import Path
from random import Random

import asyncpg
import pytest

from app.infra.embedded import EmbeddedPostgres
from app.infra.migrations import MIGRATIONS_FOLDER, migrate
from tests.conftest import database_url_of
from tests.sql.conftest import Sql

MICROSECOND = timedelta(microseconds=1)
COMPLETE = "SELECT complete_to FROM settlements ORDER BY settlement_id DESC LIMIT 1"
# All that an account has that was booked before an instant, read in full.
PLAIN = """
SELECT coalesce(sum(change_minor), 0)::bigint FROM journal_entries
 WHERE account_no = $1 AND created_at < $2
"""


async def check_balances(sql: Sql, account: int) -> int:
    """Compare balances before and after every instant of an account with what it has in full."""
    rows = await sql.connection.fetch(
        "SELECT DISTINCT created_at FROM journal_entries UNION SELECT settled_at FROM settlements"
    )
    steps = (-MICROSECOND, timedelta(), MICROSECOND)
    instants = [row[0] + step for row in rows for step in steps]
    for before in instants:
        found = await sql.connection.fetchval("SELECT booked_before_v1($1, $2)", account, before)
        assert found == await sql.connection.fetchval(PLAIN, account, before), before
    return len(instants)


async def program(sql: Sql, accounts: list[int], seed: int, steps: int = 40) -> None:
    random = Random(seed)
    for _ in range(steps):
        chosen = random.choices(accounts, k=random.randint(1, 4))
        await sql.journal([(account, random.randint(1, 99)) for account in chosen])
        if random.random() < 0.5:
            await sql.settle(random.choice([1, 2, 50]))


@pytest.mark.parametrize("seed", range(3))
async def test_balances_are_those_of_all_entries_before(sql: Sql, seed: int) -> None:
    accounts = [await sql.open_account(f"A{n}", 100 * n) for n in range(3)]
    await program(sql, accounts, seed)
    for account in accounts:
        assert await check_balances(sql, account) > 100


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("known", ["none", "some", "those after"])
async def test_they_are_where_settlements_do_not_say_how_far_they_are_complete(
    sql: Sql, seed: int, known: str
) -> None:
    """As a ledger from before they did leaves it."""
    account = await sql.open_account("A")
    await program(sql, [account], seed, 20)
    where = {"none": "true", "some": "settlement_id % 3 = 0", "those after": "true"}[known]
    await sql.connection.execute("ALTER TABLE settlements DISABLE TRIGGER append_only")
    await sql.connection.execute(f"UPDATE settlements SET complete_to = NULL WHERE {where}")
    if known == "those after":
        await program(sql, [account], -seed, 20)
    await check_balances(sql, account)


@pytest.mark.parametrize("line_count", [0, 1, 2, 3, 7, 40])
async def test_the_line_of_a_settlement_is_found_among_any_number(
    sql: Sql, line_count: int
) -> None:
    random = Random(line_count)
    account, version = 7, 0
    settlements = sorted(random.sample(range(2, 200), line_count))
    for settlement in settlements:
        version += random.choice([1, 2, 1_000, 10**12])
        await sql.connection.execute(
            "INSERT INTO settlement_lines VALUES ($1, $2, $3, 1, 0, 0, $4)",
            account,
            version,
            settlement,
            settlement * 10,
        )
    for asked in range(202):
        expected = max((each * 10 for each in settlements if each <= asked), default=0)
        found = await sql.connection.fetchval("SELECT settled_by_v1($1, $2)", account, asked)
        assert found == expected, (settlements, asked)


async def test_a_settlement_is_complete_to_what_it_left(sql: Sql) -> None:
    account = await sql.open_account("A")
    left = [await sql.journal([(account, 1)]) for _ in range(3)]
    await sql.settle(2)
    assert await sql.connection.fetchval(COMPLETE) == left[2]["accepted_at"]
    await sql.settle()
    assert await sql.connection.fetchval(COMPLETE) > left[2]["accepted_at"]


async def test_a_settlement_is_not_complete_beyond_a_batch_on_its_way(
    sql: Sql, database_url: str
) -> None:
    account = await sql.open_account("A")
    late = await asyncpg.connect(database_url)
    transaction = late.transaction()
    await transaction.start()
    hidden = await Sql(late).journal([(account, 5)], attempt=900)
    seen = await sql.journal([(account, 7)])
    assert (await sql.settle())["entries"] == 1
    assert await sql.connection.fetchval(COMPLETE) <= hidden["accepted_at"] < seen["accepted_at"]
    await transaction.commit()
    await check_balances(sql, account)
    await sql.settle()
    await check_balances(sql, account)
    await late.close()


async def test_where_the_clock_went_back_a_settlement_says_what_is_true_now(sql: Sql) -> None:
    """Its time does not go back; how far it is complete does, for what comes now is earlier."""
    account = await sql.open_account("A")
    await sql.journal([(account, 1)])
    await sql.settle()
    await sql.connection.execute("ALTER TABLE settlements DISABLE TRIGGER append_only")
    await sql.connection.execute(
        "UPDATE settlements SET settled_at = settled_at + interval '1 hour',"
        " complete_to = complete_to + interval '1 hour'"
    )
    await sql.journal([(account, 1)])
    await sql.settle()
    rows = await sql.connection.fetch(
        "SELECT settled_at, complete_to FROM settlements ORDER BY settlement_id"
    )
    assert rows[1]["settled_at"] == rows[0]["settled_at"]
    assert rows[1]["complete_to"] < rows[0]["complete_to"]
    await sql.journal([(account, 5)])
    after = await sql.connection.fetchval("SELECT clock_timestamp()")
    await sql.settle()
    assert await sql.connection.fetchval("SELECT booked_before_v1($1, $2)", account, after) == 7


async def test_a_role_that_may_not_see_who_journals_settles_all_the_same(
    sql: Sql, database_url: str
) -> None:
    account = await sql.open_account("A")
    journaling = await asyncpg.connect(database_url)
    transaction = journaling.transaction()
    await transaction.start()
    await Sql(journaling).journal([(account, 5)], attempt=900)
    await sql.journal([(account, 7)])
    await sql.connection.execute(
        "CREATE ROLE settles_only; GRANT ALL ON ALL TABLES IN SCHEMA public TO settles_only;"
        "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO settles_only; SET ROLE settles_only"
    )
    try:
        assert (await sql.settle())["entries"] == 1
        assert await sql.connection.fetchval(COMPLETE) is None
    finally:
        await sql.connection.execute("RESET ROLE; DROP OWNED BY settles_only")
        await sql.connection.execute("DROP ROLE settles_only")
        await transaction.commit()
        await journaling.close()
    await check_balances(sql, account)


async def test_an_index_that_was_built_before_is_taken(
    postgres_server: EmbeddedPostgres, tmp_path: Path
) -> None:
    """Where building it would take too long with everything locked."""
    for path in sorted(MIGRATIONS_FOLDER.glob("000[1-7]_*.sql")):
        shutil.copy(path, tmp_path)
    admin = await asyncpg.connect(postgres_server.url)
    await admin.execute("CREATE DATABASE before_reads")
    connection = await asyncpg.connect(database_url_of(postgres_server, "before_reads"))
    await migrate(connection, tmp_path)
    month = await connection.fetchval(
        "SELECT to_char(now() AT TIME ZONE 'UTC', '\"journal_entries_y\"YYYY\"m\"MM')"
    )
    await connection.execute(
        f"CREATE INDEX CONCURRENTLY built_before ON {month} (account_no, created_at)"
    )
    await migrate(connection)
    parent = await connection.fetchval(
        "SELECT inhparent::regclass::text FROM pg_inherits"
        " WHERE inhrelid = 'built_before'::regclass"
    )
    assert parent == "journal_entries_account_at"
    await connection.close()
    await admin.execute("DROP DATABASE before_reads WITH (FORCE)")
    await admin.close()
