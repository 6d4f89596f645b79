"""The decision in PostgreSQL: under row locks, in order, each key once, no late surprise."""

import asyncio
from typing import Any

import asyncpg
import pytest

from tests.conftest import eventually
from tests.sql.conftest import Sql

ADMITTED, SHORT, FULL = "admitted", "insufficient_available", "balance_limit_exceeded"
COMING = "credit_in_flight"


@pytest.mark.parametrize(
    ("opening", "changes", "words"),
    [
        (100, [-100], [ADMITTED]),
        (100, [-101], [SHORT]),
        (100, [-60, -60, -40], [ADMITTED, SHORT, ADMITTED]),
        (0, [50, -50, -51], [ADMITTED, COMING, SHORT]),
        (50, [50, -50, -1], [ADMITTED, ADMITTED, COMING]),
        (100, [900, 1], [ADMITTED, FULL]),
        (100, [-100, 900, 100, 1], [ADMITTED, ADMITTED, ADMITTED, FULL]),
        (100, [901, 900], [FULL, ADMITTED]),
    ],
)
async def test_items_are_decided_in_order(
    fallen_back: Sql, opening: int, changes: list[int], words: list[str]
) -> None:
    account = await fallen_back.open_account("A", opening)
    row = await fallen_back.decide([(account, change) for change in changes], balance_max=1_000)
    assert row["words"] == words
    kept = [
        change if word == ADMITTED else None for change, word in zip(changes, words, strict=True)
    ]
    batch = await fallen_back.connection.fetchrow(
        "SELECT entry_count, changes_minor FROM journal_batches WHERE mode = 'postgres'"
        " AND attempt_id = $1",
        fallen_back.attempt,
    )
    if ADMITTED in words:
        assert tuple(batch) == (words.count(ADMITTED), kept)
    else:
        assert batch is None


async def test_a_refusal_tells_what_was_available(fallen_back: Sql) -> None:
    account = await fallen_back.open_account("A", 100)
    row = await fallen_back.decide([(account, -30), (account, -80)])
    assert row["availables"] == [None, 70]


async def test_pending_and_settled_money_count_alike(fallen_back: Sql) -> None:
    account = await fallen_back.open_account("A", 100)
    await fallen_back.settle()
    await fallen_back.decide([(account, -30)])
    assert (await fallen_back.decide([(account, -71), (account, -70)]))["words"] == [
        SHORT,
        ADMITTED,
    ]


async def test_a_refused_item_leaves_its_key_free(fallen_back: Sql) -> None:
    account = await fallen_back.open_account("A", 100)
    row = await fallen_back.decide(
        [(account, -200), (account, -1)], keys=[(0, "key:a"), (1, "key:b")]
    )
    assert row["words"] == [SHORT, ADMITTED]
    assert await fallen_back.count("idempotency_keys", "name = 'key:a'") == 0
    again = await fallen_back.decide([(account, -2)], keys=[(0, "key:a")])
    assert again["words"] == [ADMITTED]


async def test_a_used_key_is_a_duplicate_whatever_is_available(fallen_back: Sql) -> None:
    account = await fallen_back.open_account("A", 100)
    await fallen_back.decide([(account, -100)], keys=[(0, "key:a")])
    row = await fallen_back.decide([(account, -100), (account, -1)], keys=[(0, "key:a")])
    assert row["words"] == ["duplicate", SHORT]


async def test_a_batch_of_refusals_leaves_nothing(fallen_back: Sql) -> None:
    account = await fallen_back.open_account("A")
    await fallen_back.decide([(account, -1)], keys=[(0, "key:a")])
    assert await fallen_back.count("journal_batches") == 0
    assert await fallen_back.count("idempotency_keys") == 0


@pytest.mark.parametrize(
    "change",
    [
        "epoch = 1",
        "mode = 'redis'",
        "mode = 'closed'",
        "postgres_identity = 'other/1'",
        "redis_token = 'other'",
    ],
)
async def test_under_another_ruling_nothing_is_decided(fallen_back: Sql, change: str) -> None:
    account = await fallen_back.open_account("A", 100)
    batches = await fallen_back.count("journal_batches")
    await fallen_back.connection.execute(f"UPDATE ledger_shards SET {change}")
    row = await fallen_back.decide([(account, -1)], keys=[(0, "key:a")])
    assert row["outcome"] == "fenced"
    assert await fallen_back.count("journal_batches") == batches
    assert await fallen_back.count("idempotency_keys", "name = 'key:a'") == 0


async def test_an_attempt_run_again_finds_what_it_journaled(fallen_back: Sql) -> None:
    account = await fallen_back.open_account("A", 100)
    items = [(account, -60), (account, -60)]
    first = await fallen_back.decide(items, attempt=70)
    again = await fallen_back.decide(items, attempt=70, repeated=True)
    assert again["words"] == [ADMITTED, "undecided"]
    assert (again["accepted_seq"], again["accepted_at"]) == (
        first["accepted_seq"],
        first["accepted_at"],
    )
    assert await fallen_back.count("journal_entries", "change_minor < 0") == 1


async def test_a_late_copy_of_a_repeated_refusal_admits_nothing(fallen_back: Sql) -> None:
    """The first sending is delayed, the second refuses, money comes in, the first arrives."""
    account = await fallen_back.open_account("A")
    refused = await fallen_back.decide([(account, -5)], attempt=70, repeated=True)
    assert (refused["outcome"], refused["words"]) == ("journaled", [SHORT])
    await fallen_back.decide([(account, 50)])
    late = await fallen_back.decide([(account, -5)], attempt=70)
    assert late["outcome"] == "void"
    assert await fallen_back.count("journal_entries", "change_minor < 0") == 0


async def test_two_batches_on_one_account_never_spend_the_same_money(
    fallen_back: Sql, database_url: str
) -> None:
    account = await fallen_back.open_account("A", 100)
    other = await asyncpg.connect(database_url)
    second = Sql(other)
    transaction = fallen_back.connection.transaction()
    await transaction.start()
    await fallen_back.decide([(account, -70)])
    waiting = asyncio.create_task(second.decide([(account, -70)], attempt=900))
    await eventually(lambda: waits(other, database_url))
    await transaction.commit()
    assert (await waiting)["words"] == [SHORT]
    await other.close()


async def test_batches_in_any_order_of_accounts_and_keys_do_not_deadlock(
    fallen_back: Sql, database_url: str
) -> None:
    accounts = [await fallen_back.open_account(f"A{number}", 10_000) for number in range(20)]
    connections = [Sql(await asyncpg.connect(database_url)) for _ in range(4)]

    async def run(number: int, sql: Sql) -> None:
        for turn in range(10):
            order = accounts if (number + turn) % 2 else accounts[::-1]
            keys = [(item, f"key:{item}.{turn}") for item in range(len(order))]
            keys = keys if number % 2 else keys[::-1]
            items = [(account, -1) for account in order]
            await sql.decide(items, attempt=1_000 * (number + 1) + turn, keys=keys)

    await asyncio.gather(*(run(number, sql) for number, sql in enumerate(connections)))
    assert await fallen_back.count("journal_entries", "change_minor < 0") == 200
    for sql in connections:
        await sql.connection.close()


async def test_while_a_settler_folds_the_account_the_decision_waits_for_it(
    fallen_back: Sql, database_url: str
) -> None:
    account = await fallen_back.open_account("A", 100)
    other = await asyncpg.connect(database_url)
    transaction = fallen_back.connection.transaction()
    await transaction.start()
    await fallen_back.settle()
    waiting = asyncio.create_task(Sql(other).decide([(account, -70), (account, -70)], attempt=900))
    await eventually(lambda: waits(other, database_url))
    await transaction.commit()
    assert (await waiting)["words"] == [ADMITTED, SHORT]
    await other.close()


async def test_a_void_attempt_stays_void_and_a_journaled_one_is_not_voided(sql: Sql) -> None:
    account = await sql.open_account("A")
    void = "SELECT void_attempt_v1(0::smallint, $1)"
    assert await sql.connection.fetchval(void, 70)
    assert await sql.connection.fetchval(void, 70)
    assert (await sql.journal([(account, 5)], attempt=70))["outcome"] == "void"
    await sql.journal([(account, 5)], attempt=71)
    assert not await sql.connection.fetchval(void, 71)


async def waits(connection: Any, database_url: str) -> bool:
    """Tell whether another connection waits for a lock."""
    looking = await asyncpg.connect(database_url)
    try:
        return await looking.fetchval(
            "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $1",
            connection.get_server_pid(),
        )
    finally:
        await looking.close()


async def test_a_decision_stands_in_the_journal_after_everything_it_saw(
    fallen_back: Sql, database_url: str
) -> None:
    """A debit that waits for a credit's lock spends the credit, so it must come after it."""
    account = await fallen_back.open_account("A")
    other = await asyncpg.connect(database_url)
    transaction = fallen_back.connection.transaction()
    await transaction.start()
    await fallen_back.connection.execute(
        "SELECT FROM accounts WHERE account_no = $1 FOR NO KEY UPDATE", account
    )
    waiting = asyncio.create_task(Sql(other).decide([(account, -50)], attempt=900))
    await eventually(lambda: waits(other, database_url))
    credit = await fallen_back.decide([(account, 50)])
    await transaction.commit()
    debit = await waiting
    assert debit["words"] == [ADMITTED]
    assert debit["accepted_seq"] > credit["accepted_seq"]
    assert debit["accepted_at"] > credit["accepted_at"]
    await other.close()
