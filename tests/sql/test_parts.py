"""Batches as a whole: all of them or none, and one key that remembers what was answered."""

import asyncio
import json
from typing import Any

import asyncpg
import pytest

from app.kit.ids import EntryPosition, assigned_transaction_id
from app.ledger.store import accepted_ms
from tests.sql.conftest import Part, Sql

ADMITTED, SHORT = "admitted", "insufficient_available"
PART = Part("key:k", b"digest", '[[2, "account_not_found", null]]')
TABLES = ("journal_batches", "journal_entries", "idempotency_keys")


async def written(sql: Sql) -> list[int]:
    return [await sql.count(table) for table in TABLES]


async def remembered(sql: Sql, batch_seq: int) -> tuple[Any, ...]:
    row = await sql.connection.fetchrow(
        "SELECT request_digest, refusals, entry_count FROM journal_batches WHERE batch_seq = $1",
        batch_seq,
    )
    return row["request_digest"], json.loads(row["refusals"]), row["entry_count"]


# What Redis has admitted.


async def test_a_part_is_journaled_with_its_key_and_what_is_remembered_of_it(sql: Sql) -> None:
    account = await sql.open_account("A")
    row = await sql.journal([(account, 5), (account, 6)], part=PART)
    assert (row["outcome"], row["duplicate_items"]) == ("journaled", [])
    refusals = [[2, "account_not_found", None]]
    assert await remembered(sql, row["accepted_seq"]) == (b"digest", refusals, 2)
    keys = await sql.connection.fetch("SELECT * FROM idempotency_keys ORDER BY name")
    assert [(key["name"], key["batch_seq"], key["item_no"]) for key in keys] == [
        (name, row["accepted_seq"], -1) for name in ("key:k", "part:0:key:k")
    ]


async def test_a_repeated_part_writes_nothing_now_or_later(sql: Sql) -> None:
    """Whatever it asks: what it is answered is the business of who compares the digests."""
    account = await sql.open_account("A")
    await sql.journal([(account, 5)], part=PART)
    before = await written(sql)
    for attempt in (70, 70, 71):
        row = await sql.journal([(account, 5)], attempt=attempt, part=PART)
        assert row["outcome"] == "duplicate"
    assert await written(sql) == before


async def test_copies_of_a_part_at_once_are_journaled_once(sql: Sql, database_url: str) -> None:
    account = await sql.open_account("A")

    async def send(attempt: int) -> str:
        connection = await asyncpg.connect(database_url)
        try:
            row = await Sql(connection).journal([(account, 1)] * 3, attempt=attempt, part=PART)
        finally:
            await connection.close()
        return row["outcome"]

    words = await asyncio.gather(*(send(100 + number) for number in range(8)))
    assert sorted(words) == ["duplicate"] * 7 + ["journaled"]
    assert await sql.count("journal_entries") == 3


async def test_a_part_run_again_by_its_attempt_finds_itself(sql: Sql) -> None:
    account = await sql.open_account("A")
    first = await sql.journal([(account, 5)], attempt=70, part=PART)
    before = await written(sql)
    assert tuple(await sql.journal([(account, 5)], attempt=70, part=PART)) == tuple(first)
    assert await written(sql) == before


async def test_a_duplicate_in_a_batch_of_all_or_none_undoes_it_whole(sql: Sql) -> None:
    account = await sql.open_account("A")
    await sql.journal([(account, 1)], keys=[(0, "key:taken")])
    before = await written(sql)
    items, keys = [(account, 5), (account, 6)], [(0, "key:free"), (1, "key:taken")]
    for attempt in (70, 70, 71):
        row = await sql.journal(items, attempt=attempt, keys=keys, extent="all", part=PART)
        assert (row["outcome"], row["duplicate_items"]) == ("duplicate", [1])
    assert await written(sql) == before
    row = await sql.journal([(account, 5)], keys=[(0, "key:free")], extent="all", part=PART)
    assert row["outcome"] == "journaled"


async def test_under_another_ruling_no_part_is_written(sql: Sql) -> None:
    account = await sql.open_account("A")
    await sql.connection.execute("UPDATE ledger_shards SET epoch = 1")
    assert (await sql.journal([(account, 5)], part=PART))["outcome"] == "fenced"
    assert await written(sql) == [0, 0, 0]


@pytest.mark.parametrize("change", ["refusals = '[]'", "request_digest = 'other'"])
async def test_what_is_remembered_of_a_part_never_changes(sql: Sql, change: str) -> None:
    account = await sql.open_account("A")
    await sql.journal([(account, 5)], part=PART)
    with pytest.raises(asyncpg.RestrictViolationError):
        await sql.connection.execute(
            f"UPDATE journal_batches SET {change}, status = 'SETTLED', settlement_id = 1"
        )
    assert (await sql.settle())["entries"] == 1


async def test_the_parts_of_one_request_share_its_key(sql: Sql) -> None:
    account = await sql.open_account("A")
    for number in (1, 0, 2):
        row = await sql.journal([(account, 5)], part=PART._replace(number=number))
        assert row["outcome"] == "journaled"
    again = await sql.journal([(account, 5)], part=PART._replace(number=1))
    assert again["outcome"] == "duplicate"
    assert await sql.count("journal_entries") == await sql.count("journal_batches") == 3


@pytest.mark.parametrize("number", [0, 1])
async def test_a_part_of_another_request_does_not_come_under_a_used_key(
    sql: Sql, number: int
) -> None:
    account = await sql.open_account("A")
    await sql.journal([(account, 5)], part=PART)
    await sql.journal([(account, 5)], keys=[(0, "key:single")])
    before = await written(sql)
    for part in (PART._replace(digest=b"other"), PART._replace(name="key:single")):
        row = await sql.journal([(account, 5)], part=part._replace(number=number))
        assert row["outcome"] == "duplicate"
    assert await written(sql) == before


async def test_a_single_transaction_does_not_take_a_request_s_key(sql: Sql) -> None:
    account = await sql.open_account("A")
    await sql.journal([(account, 5)], part=PART)
    row = await sql.journal([(account, 5), (account, 6)], keys=[(0, PART.name), (1, "key:b")])
    assert (row["outcome"], row["duplicate_items"]) == ("journaled", [0])
    assert await sql.count("journal_entries") == 2


# What PostgreSQL decides.


@pytest.mark.parametrize("part", [None, PART])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([-60, -41], [ADMITTED, SHORT]),
        ([-101, -1], [SHORT, ADMITTED]),
        ([-101, -102], [SHORT, SHORT]),
    ],
)
async def test_one_refusal_refuses_all_and_leaves_nothing(
    fallen_back: Sql, part: Part | None, changes: list[int], words: list[str]
) -> None:
    account = await fallen_back.open_account("A", 100)
    before = await written(fallen_back)
    items, keys = [(account, change) for change in changes], [(0, "key:a"), (1, "key:b")]
    row = await fallen_back.decide(items, keys=keys, extent="all", part=part)
    assert (row["outcome"], row["words"]) == ("refused", words)
    assert await written(fallen_back) == before
    again = await fallen_back.decide([(account, -100)], keys=keys[:1], extent="all", part=part)
    assert (again["outcome"], again["words"]) == ("journaled", [ADMITTED])


async def test_a_used_key_refuses_all(fallen_back: Sql) -> None:
    account = await fallen_back.open_account("A", 100)
    await fallen_back.decide([(account, -1)], keys=[(0, "key:a")])
    before = await written(fallen_back)
    items = [(account, -2), (account, -1)]
    row = await fallen_back.decide(items, keys=[(1, "key:a")], extent="all")
    assert (row["outcome"], row["words"]) == ("refused", [ADMITTED, "duplicate"])
    assert await written(fallen_back) == before


@pytest.mark.parametrize(("extent", "word"), [("all", "refused"), ("each", "journaled")])
async def test_a_late_copy_of_a_repeated_part_that_was_refused_admits_nothing(
    fallen_back: Sql, extent: str, word: str
) -> None:
    """The first sending is delayed, the second refuses, money comes in, the first arrives."""
    account = await fallen_back.open_account("A")
    items = [(account, -5), (account, -6)]
    refused = await fallen_back.decide(items, attempt=70, repeated=True, extent=extent, part=PART)
    assert (refused["outcome"], refused["words"]) == (word, [SHORT, SHORT])
    await fallen_back.decide([(account, 50)])
    late = await fallen_back.decide(items, attempt=70, extent=extent, part=PART)
    assert late["outcome"] == "void"
    assert await fallen_back.count("journal_entries", "change_minor < 0") == 0
    anew = await fallen_back.decide(items, attempt=71, extent=extent, part=PART)
    assert (anew["outcome"], anew["words"]) == ("journaled", [ADMITTED, ADMITTED])


async def test_a_part_remembers_whom_it_refused_by_position(fallen_back: Sql) -> None:
    account = await fallen_back.open_account("A", 100)
    part = PART._replace(positions=[4, 0, 3])
    row = await fallen_back.decide([(account, -60), (account, -41), (account, -7)], part=part)
    assert (row["outcome"], row["words"]) == ("journaled", [ADMITTED, SHORT, ADMITTED])
    refusals = [[2, "account_not_found", None], [0, SHORT, "40"]]
    assert await remembered(fallen_back, row["accepted_seq"]) == (b"digest", refusals, 2)


async def test_a_repeated_part_is_not_decided_again(fallen_back: Sql) -> None:
    account = await fallen_back.open_account("A", 100)
    await fallen_back.decide([(account, -5)], part=PART)
    before = await written(fallen_back)
    for attempt in (70, 70, 71):
        row = await fallen_back.decide([(account, -5)], attempt=attempt, part=PART)
        assert (row["outcome"], row["words"]) == ("duplicate", None)
    assert await written(fallen_back) == before


async def test_copies_of_a_part_at_once_are_decided_once(
    fallen_back: Sql, database_url: str
) -> None:
    """On accounts of their own, so that no row lock puts them in a line."""
    accounts = [await fallen_back.open_account(f"A{number}", 100) for number in range(8)]

    async def send(number: int) -> str:
        connection = await asyncpg.connect(database_url)
        items = [(accounts[number], -1)]
        try:
            row = await Sql(connection).decide(items, attempt=100 + number, part=PART)
        finally:
            await connection.close()
        return row["outcome"]

    words = await asyncio.gather(*map(send, range(8)))
    assert sorted(words) == ["duplicate"] * 7 + ["journaled"]
    assert await fallen_back.count("journal_entries", "change_minor < 0") == 1


@pytest.mark.parametrize("item_no", [0, 1, 4_095, 4_096, 8_191, 32_767])
async def test_item_numbers_beyond_twelve_bits_make_the_same_id_in_sql_and_python(
    sql: Sql, item_no: int
) -> None:
    for batch_seq in (1, 2**59 - 1):
        row = await sql.connection.fetchrow(
            "SELECT at, assigned_transaction_id_v1(at, $1, $2) AS id FROM now() AS at",
            batch_seq,
            item_no,
        )
        position = EntryPosition(batch_seq, item_no)
        assert row["id"] == assigned_transaction_id(accepted_ms(row["at"]), position)
