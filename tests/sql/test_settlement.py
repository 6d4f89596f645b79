"""Settlement folds every pending batch once, keeps money conserved, and is done or not done."""

import asyncio
from typing import Any

import asyncpg

from tests.sql.conftest import Sql

CONSERVED = (
    "SELECT coalesce(sum(settled_balance), 0) + coalesce(sum(pending_credit - pending_debit), 0)"
    " FROM account_balances"
)


async def balances(sql: Sql, account: str) -> tuple[Any, ...]:
    row = await sql.connection.fetchrow(
        "SELECT settled_balance, pending_debit, pending_credit, available_balance, version"
        " FROM account_balances WHERE id = $1",
        account,
    )
    return tuple(float(figure) for figure in row)


async def test_folding_moves_amounts_from_pending_to_settled(sql: Sql) -> None:
    account = await sql.open_account("A", 10_000)
    await sql.journal([(account, -2_500), (account, 100)])
    assert await balances(sql, "A") == (0, 25, 101, 76, 3)
    assert (await sql.settle())["outcome"] == "settled"
    assert await balances(sql, "A") == (76, 0, 0, 76, 3)
    assert await balances(sql, "external:USD") == (-76, 0, 0, -76, 3)
    assert await sql.count("sub_balances", "status = 'SETTLED'") == 3
    assert (await sql.settle())["outcome"] == "empty"


async def test_money_is_conserved_pending_and_settled_alike(sql: Sql) -> None:
    accounts = [await sql.open_account(f"A{n}", 1_000 * n) for n in range(1, 5)]
    assert await sql.connection.fetchval(CONSERVED) == 0
    await sql.journal([(account, -7) for account in accounts])
    await sql.settle(2)
    assert await sql.connection.fetchval(CONSERVED) == 0
    await sql.settle()
    assert await sql.connection.fetchval(CONSERVED) == 0


async def test_a_batch_that_commits_late_is_not_missed(sql: Sql, database_url: str) -> None:
    account = await sql.open_account("A")
    late = await asyncpg.connect(database_url)
    transaction = late.transaction()
    await transaction.start()
    await Sql(late).journal([(account, 5)], attempt=900)
    await sql.journal([(account, 7)])
    assert (await sql.settle())["entries"] == 1
    await transaction.commit()
    assert (await sql.settle())["entries"] == 1
    assert (await balances(sql, "A"))[0] == 0.12
    await late.close()


async def test_two_settlers_never_fold_the_same_batch(sql: Sql, database_url: str) -> None:
    account = await sql.open_account("A")
    for _ in range(30):
        await sql.journal([(account, 1)])
    connections = [await asyncpg.connect(database_url) for _ in range(4)]

    async def settle_all(connection: Any) -> int:
        entries = 0
        while True:
            row = await Sql(connection).settle(3)
            if row["outcome"] == "empty":
                return entries
            entries += row["entries"] or 0

    folded = await asyncio.gather(*(settle_all(connection) for connection in connections))
    assert sum(folded) == 30
    assert (await balances(sql, "A"))[0] == 0.30
    for connection in connections:
        await connection.close()


async def test_a_chunk_that_is_rolled_back_left_nothing(sql: Sql) -> None:
    account = await sql.open_account("A", 100)
    await sql.journal([(account, 5)])
    before = await balances(sql, "A")
    transaction = sql.connection.transaction()
    await transaction.start()
    await sql.settle()
    await transaction.rollback()
    assert await balances(sql, "A") == before
    assert await sql.count("settlements") == 0
    assert (await sql.settle())["entries"] == 2


async def test_each_account_has_a_gapless_chain_of_settlement_lines(sql: Sql) -> None:
    account = await sql.open_account("A", 1_000)
    for change in (5, -3, 8):
        await sql.journal([(account, change), (account, change)])
        await sql.settle(1)
    while (await sql.settle(1))["outcome"] == "settled":
        pass
    broken = await sql.connection.fetchval(
        "SELECT count(*) FROM (SELECT *,"
        " lag(version_after, 1, 0::bigint) OVER chain AS version_before,"
        " lag(settled_after_minor, 1, 0::numeric) OVER chain AS settled_before"
        " FROM settlement_lines"
        " WINDOW chain AS (PARTITION BY account_no ORDER BY version_after)) AS l"
        " WHERE version_after <> version_before + entry_count"
        " OR settled_after_minor <> settled_before + credit_minor - debit_minor"
    )
    assert broken == 0
    assert await sql.count("settlement_lines", f"account_no = {account}") == 4


async def test_sums_beyond_int64_settle(sql: Sql) -> None:
    """One account's traffic and the external account may pass int64; no balance does."""
    largest = 10**18 - 1
    accounts = [await sql.open_account(f"A{n}", largest) for n in range(12)]
    await sql.journal([(accounts[0], sign * largest) for _ in range(15) for sign in (-1, 1)])
    assert (await sql.settle())["outcome"] == "settled"
    assert (await balances(sql, "A0"))[0] == float(largest / 100)
    assert await sql.connection.fetchval(CONSERVED) == 0


async def test_the_monitoring_statements_of_the_specification_run(sql: Sql) -> None:
    account = await sql.open_account("A", 100)
    await sql.settle()
    await sql.journal([(account, -5), (account, -6)])
    pending = await sql.connection.fetchrow(
        "SELECT account_id, COUNT(*) AS n, SUM(amount) AS total FROM sub_balances"
        " WHERE status = 'PENDING' GROUP BY account_id"
    )
    assert (pending["account_id"], pending["n"], float(pending["total"])) == ("A", 2, 0.11)
    settled = await sql.connection.fetchrow(
        "SELECT account_id, COUNT(*) AS n FROM sub_balances WHERE status = 'SETTLED'"
        " AND updated_at > NOW() - INTERVAL '1 hour' GROUP BY account_id"
    )
    assert (settled["account_id"], settled["n"]) == ("A", 1)
    assert len(await sql.connection.fetch("SELECT * FROM account_balances")) == 2
