"""The journal: fenced, all or nothing, each key once for ever, and never rewritten."""

import asyncio
from typing import Any

import asyncpg
import pytest

from tests.conftest import eventually
from tests.sql.conftest import Sql


async def test_a_batch_is_journaled_with_its_keys(sql: Sql) -> None:
    account = await sql.open_account("A")
    row = await sql.journal([(account, 500), (account, -200)], keys=[(0, "key:a"), (1, "key:b")])
    assert (row["outcome"], row["duplicate_items"]) == ("journaled", [])
    assert await sql.count("journal_entries") == 2
    assert await sql.count("idempotency_keys") == 2


@pytest.mark.parametrize(
    "change",
    ["epoch = 1", "mode = 'postgres'", "postgres_identity = 'other/1'", "redis_token = 'other'"],
)
async def test_under_another_ruling_nothing_is_written(sql: Sql, change: str) -> None:
    account = await sql.open_account("A")
    await sql.connection.execute(f"UPDATE ledger_shards SET {change}")
    row = await sql.journal([(account, 500)], keys=[(0, "key:a")])
    assert row["outcome"] == "fenced"
    assert await sql.count("journal_batches") + await sql.count("idempotency_keys") == 0


async def test_an_attempt_run_again_returns_what_it_did(sql: Sql) -> None:
    account = await sql.open_account("A")
    await sql.journal([(account, 1)], keys=[(0, "key:old")])
    items = [(account, 500), (account, 7)]
    keys = [(0, "key:a"), (1, "key:old")]
    first = await sql.journal(items, attempt=70, keys=keys)
    again = await sql.journal(items, attempt=70, keys=keys)
    assert tuple(first) == tuple(again)
    assert first["duplicate_items"] == [1]
    assert await sql.count("journal_entries") == 2


async def test_an_attempt_journaled_before_a_switch_is_found_again_after_it(sql: Sql) -> None:
    account = await sql.open_account("A")
    first = await sql.journal([(account, 5)], attempt=70)
    await sql.connection.fetchval(
        "SELECT open_epoch_v1(0::smallint, 0, 'redis', 'r', 'x', 't', 1, 'test')"
    )
    assert tuple(await sql.journal([(account, 5)], attempt=70)) == tuple(first)
    assert (await sql.journal([(account, 5)], attempt=71))["outcome"] == "fenced"


async def test_a_tombstone_stops_an_attempt_and_leaves_its_key_free(sql: Sql) -> None:
    account = await sql.open_account("A")
    await sql.connection.execute(
        "INSERT INTO journal_batches (batch_seq, shard, epoch, mode, attempt_id, status,"
        " entry_count, created_at)"
        " VALUES (nextval('journal_batch_seq'), 0, 0, 'redis', 70, 'VOID', 0, now())"
    )
    assert (await sql.journal([(account, 5)], attempt=70, keys=[(0, "key:a")]))["outcome"] == "void"
    assert (await sql.journal([(account, 5)], attempt=71, keys=[(0, "key:a")]))[
        "duplicate_items"
    ] == []


async def test_an_item_needs_all_its_keys_or_takes_none(sql: Sql) -> None:
    account = await sql.open_account("A")
    await sql.journal([(account, 1)], keys=[(0, "key:taken")])
    row = await sql.journal(
        [(account, 5), (account, 6)], keys=[(0, "key:free"), (0, "key:taken"), (1, "key:mine")]
    )
    assert row["duplicate_items"] == [0]
    assert await sql.count("idempotency_keys", "name = 'key:free'") == 0
    assert await sql.count("journal_entries", "change_minor = 6") == 1
    entries = await sql.connection.fetchval(
        "SELECT entry_count FROM journal_batches WHERE batch_seq = $1", row["accepted_seq"]
    )
    assert entries == 1


async def test_a_key_moves_money_once_even_between_concurrent_batches(
    sql: Sql, database_url: str
) -> None:
    account = await sql.open_account("A")
    names = [f"key:{number}" for number in range(20)]

    async def send(attempt: int, order: list[str]) -> int:
        connection = await asyncpg.connect(database_url)
        try:
            row = await Sql(connection).journal(
                [(account, 1)] * len(order), attempt=attempt, keys=list(enumerate(order))
            )
        finally:
            await connection.close()
        return len(order) - len(row["duplicate_items"])

    accepted = await asyncio.gather(
        *(send(100 + n, names if n % 2 else names[::-1]) for n in range(8))
    )
    assert sum(accepted) == len(names) == await sql.count("journal_entries")


async def test_a_journal_waiting_for_a_switch_sees_the_new_epoch(
    sql: Sql, database_url: str
) -> None:
    """The lock and the read are two statements: one would see the epoch of before the wait."""
    account = await sql.open_account("A")
    switching = await asyncpg.connect(database_url)
    switch = switching.transaction()
    await switch.start()
    opened = await switching.fetchval(
        "SELECT open_epoch_v1(0::smallint, 0, 'redis', 'r', 'x', 't', 1, 'test')"
    )
    assert opened == 1
    waiting = asyncio.create_task(sql.journal([(account, 5)]))
    await eventually(lambda: _waits_for_fence(switching))
    await switch.commit()
    assert (await waiting)["outcome"] == "fenced"
    await switching.close()


async def test_a_switch_waits_for_a_journal_under_way(sql: Sql, database_url: str) -> None:
    account = await sql.open_account("A")
    journaling = sql.connection.transaction()
    await journaling.start()
    assert (await sql.journal([(account, 5)]))["outcome"] == "journaled"
    switching = await asyncpg.connect(database_url)
    opening = asyncio.create_task(
        switching.fetchval(
            "SELECT open_epoch_v1(0::smallint, 0, 'redis', 'r', 'x', 't', 1, 'test')"
        )
    )
    watching = await asyncpg.connect(database_url)
    await eventually(lambda: _waits_for_fence(watching))
    await journaling.commit()
    assert await opening == 1
    assert await sql.count("journal_entries") == 1
    await switching.close()
    await watching.close()


async def _waits_for_fence(connection: Any) -> bool:
    return await connection.fetchval(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))"
    )


async def test_only_one_of_two_switches_from_the_same_epoch_wins(sql: Sql) -> None:
    call = "SELECT open_epoch_v1(0::smallint, 0, 'redis', 'r', 'x', 't', 1, 'test')"
    assert await sql.connection.fetchval(call) == 1
    assert await sql.connection.fetchval(call) is None


async def test_the_fence_refuses_another_isolation_level(sql: Sql) -> None:
    account = await sql.open_account("A")
    with pytest.raises(asyncpg.RaiseError, match="READ COMMITTED"):
        async with sql.connection.transaction(isolation="repeatable_read"):
            await sql.journal([(account, 5)])


HISTORY = [
    "UPDATE journal_entries SET change_minor = 6",
    "DELETE FROM journal_entries",
    "TRUNCATE journal_entries",
    "DELETE FROM idempotency_keys",
    "UPDATE idempotency_keys SET name = 'key:other'",
    "DELETE FROM journal_batches",
    "UPDATE journal_batches SET entry_count = 9",
    "UPDATE journal_batches SET status = 'SETTLED'",
    "DELETE FROM accounts",
    "UPDATE settlement_lines SET debit_minor = 1",
    "DELETE FROM settlements",
]


@pytest.mark.parametrize("statement", HISTORY)
async def test_history_cannot_be_changed(sql: Sql, statement: str) -> None:
    account = await sql.open_account("A", 100)
    await sql.settle()
    await sql.journal([(account, 5)], keys=[(0, "key:a")])
    with pytest.raises(asyncpg.RestrictViolationError):
        await sql.connection.execute(statement)


async def test_an_assigned_id_has_the_same_bits_in_sql_and_python(sql: Sql) -> None:
    from app.kit.ids import EntryPosition, assigned_transaction_id
    from app.ledger.store import accepted_ms

    account = await sql.open_account("A")
    await sql.journal([(account, 5)] * 3)
    rows = await sql.connection.fetch("SELECT id, batch_seq, item_no, created_at FROM sub_balances")
    assert len(rows) == 3
    for row in rows:
        position = EntryPosition(row["batch_seq"], row["item_no"])
        assert row["id"] == assigned_transaction_id(accepted_ms(row["created_at"]), position)


async def test_an_account_id_opens_once(sql: Sql) -> None:
    assert await sql.open_account("A", 100) is not None
    assert await sql.open_account("A", 100) is None
    assert await sql.count("journal_entries") == 1


async def test_process_numbers_do_not_come_again_after_postgres_lost_history(sql: Sql) -> None:
    """The sequence and the note of whom it counts for are restored; living processes are not."""
    draw = "SELECT process_number_v1(0::smallint)"
    await sql.connection.execute("SELECT setseed(0.1)")
    restore = (
        "SELECT setseed(0.2), setval('process_numbers', 100);"
        " UPDATE ledger_shards SET numbers_identity = 'before the restore'"
    )
    living = [await sql.connection.fetchval(draw) for _ in range(3)]
    assert living == list(range(living[0], living[0] + 3))
    await sql.connection.execute(restore)
    later = [await sql.connection.fetchval(draw) for _ in range(3)]
    assert not set(living) & set(later)
    assert later[0] > 100 + 4_096


async def test_an_attempt_of_another_epoch_is_not_taken_for_this_one(sql: Sql) -> None:
    account = await sql.open_account("A")
    await sql.journal([(account, 5)], attempt=70)
    await sql.connection.execute("UPDATE ledger_shards SET epoch = 1")
    assert (await sql.journal([(account, 9)], attempt=70, epoch=1))["outcome"] == "fenced"
    assert await sql.count("journal_entries") == 1


async def test_a_postgres_that_has_changed_leaves_a_gap_of_epochs(sql: Sql) -> None:
    opened = "SELECT open_epoch_v1(0::smallint, $1, 'redis', 'r', 'x', 't', 2, 'test')"
    assert await sql.connection.fetchval(opened, 0) == 1
    await sql.connection.execute("UPDATE ledger_shards SET postgres_identity = 'another'")
    assert await sql.connection.fetchval(opened, 1) == 1_001


async def test_nobody_but_an_operator_opens_a_closed_ledger(sql: Sql) -> None:
    control = "SELECT control_ledger_v1(0::smallint, $1, 'tester', 'test')"
    opened = "SELECT open_epoch_v1(0::smallint, $1, $2, 'r', 'x', 't', 2, 'test')"
    closed = await sql.connection.fetchval(control, "read_only")
    for mode in ("redis", "postgres"):
        assert await sql.connection.fetchval(opened, closed, mode) is None
    assert await sql.connection.fetchval(control, "resume") == closed + 1
