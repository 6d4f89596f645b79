"""Reads look at what they answer with, and at no whole table, however long history is.

The figures are those of PostgreSQL's own counters inside one SQL transaction, so what functions
read counts as well.
"""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from app.infra.embedded import EmbeddedPostgres
from app.infra.queries import load_queries
from app.kit.ids import EntryPosition, assigned_transaction_id
from app.ledger.store import accepted_ms
from bench.growth.long_history import HOT, OTHER, Filled, fill
from bench.growth.long_history import QUERIES as READ_QUERIES
from tests.conftest import database_url_of

QUERIES = READ_QUERIES | {
    name: query.sql for room in ("web", "events") for name, query in load_queries(room).items()
}
BATCHES, ACCOUNTS, ENTRIES = 2_000, 400, 50
LARGE = ("journal_entries", "journal_batches", "settlement_lines")
COUNTED = """
SELECT coalesce(sum(seq_tup_read) FILTER (WHERE n_live > 0), 0)::bigint AS scanned,
       coalesce(sum(idx_tup_fetch), 0)::bigint AS fetched
  FROM (SELECT relname, seq_tup_read, idx_tup_fetch, pg_stat_get_live_tuples(relid) AS n_live
          FROM pg_stat_xact_user_tables) AS t
 WHERE relname ~ $1
"""
# Half of a batch's entries are the busy account's; 20 batches are pending, and as many in a
# settlement.
PENDING = 20 * ENTRIES // 2
PAGE = 101 * 3 + 100
# What is asked of which account, and how many rows it may fetch.
READS: list[tuple[str, str, int]] = [
    ("balance", "busy", 3 * PENDING),
    ("balance", "quiet", 100),
    ("booked_at", "busy", 2 * PENDING),
    ("booked_at", "quiet", 200),
    ("backdated_since", "busy", 0),
    ("statement_rows", "busy", PAGE),
    ("statement_rows", "quiet", PAGE),
    ("search", "busy", PAGE),
    ("search", "quiet", PAGE),
    ("search none found", "busy", 1_000 * 4 + 100),
    ("search reference", "busy", PAGE),
    ("pending_page", "busy", 6 * PENDING),
    ("pending_page", "quiet", 200),
    ("entry_by_position", "busy", 5),
    ("accounts_to_load", "busy", 3 * PENDING),
    ("accounts_to_load", "quiet", 200),
    ("live_seconds", "busy", 20),
    ("live_pending", "busy", 25),
    ("live_settled", "busy", 0),
    ("live_recent", "busy", 15 * 50 + 15),
    ("live_hot", "busy", 1_000 + 2 * 50 + 100),
]


@pytest.fixture(scope="module")
def history_url(postgres_server: EmbeddedPostgres) -> str:
    return database_url_of(postgres_server, "long_history")


@pytest.fixture(scope="module")
def filled(postgres_server: EmbeddedPostgres, history_url: str) -> Iterator[Filled]:
    """A database with a hundred thousand entries, half of them on one account."""

    async def prepare() -> Filled:
        admin = await asyncpg.connect(postgres_server.url)
        await admin.execute("CREATE DATABASE long_history TEMPLATE template_subbalance")
        await admin.close()
        connection = await asyncpg.connect(history_url)
        written = await fill(connection, BATCHES, ACCOUNTS, ENTRIES)
        await connection.close()
        return written

    async def remove() -> None:
        admin = await asyncpg.connect(postgres_server.url)
        await admin.execute("DROP DATABASE long_history WITH (FORCE)")
        await admin.close()

    yield asyncio.run(prepare())
    asyncio.run(remove())


def arguments_of(name: str, whose: str, filled: Filled) -> tuple[str, list[Any]]:
    at = filled.last_at - timedelta(seconds=BATCHES * 5)
    account_no = filled.hot_no + (0 if whose == "busy" else 7)
    place, first = [at, -1, -1], at - timedelta(days=9_000)
    anything, limits = [None] * 5, [101, 1_000]
    asked: dict[str, tuple[str, list[Any]]] = {
        "live_seconds": ("live_seconds", [filled.last_at - timedelta(seconds=60), 1_000]),
        "live_pending": ("live_pending", [1_000]),
        "live_settled": ("live_settled", [first, 0, 1_000]),
        "live_recent": ("live_recent", [15]),
        "live_hot": ("live_hot", [first, 100, 1_000, 8]),
        "balance": ("balance", [HOT if whose == "busy" else OTHER]),
        "booked_at": ("booked_at", [account_no, *place]),
        "backdated_since": ("backdated_since", [account_no, at]),
        "statement_rows": ("statement_rows", [account_no, *place, filled.last_at, 101]),
        "search": ("search", [account_no, None, first, *place, *anything, *limits]),
        "search none found": (
            "search",
            [account_no, None, first, *place, None, "debit", None, None, None, *limits],
        ),
        "search reference": ("search", [None, "invoice 7", first, *place, *anything, *limits]),
        "pending_page": ("pending_page", [account_no, 0, -1, 101]),
        "entry_by_position": ("entry_by_position", [BATCHES // 2, 4]),
        "accounts_to_load": ("accounts_to_load", [[account_no]]),
    }
    return asked[name]


@pytest.mark.parametrize(("name", "whose", "most"), READS)
async def test_a_read_looks_at_little(
    filled: Filled, history_url: str, name: str, whose: str, most: int
) -> None:
    query, arguments = arguments_of(name, whose, filled)
    connection = await asyncpg.connect(history_url)
    tables = f"^({'|'.join(LARGE)})"
    statement = await connection.prepare(QUERIES[query])
    for _ in range(7):  # from the sixth on the plan may be one for any parameters
        async with connection.transaction():
            before = await connection.fetchrow(COUNTED, tables)
            rows = await statement.fetch(*arguments)
            after = await connection.fetchrow(COUNTED, tables)
        assert rows
        assert after["scanned"] == before["scanned"], "a table is read from end to end"
        assert after["fetched"] - before["fetched"] <= most
    await connection.close()


async def test_the_indexes_are_those_that_reads_rely_on(filled: Filled, history_url: str) -> None:
    connection = await asyncpg.connect(history_url)
    rows = await connection.fetch(
        "SELECT indexname FROM pg_indexes WHERE tablename = 'journal_entries' ORDER BY 1"
    )
    await connection.close()
    assert [row["indexname"] for row in rows] == [
        "journal_entries_account_at",
        "journal_entries_effective",
        "journal_entries_pkey",
        "journal_entries_reference",
    ]


# Many that were captured on one account, and every hundredth held still.
HOLDS = """
INSERT INTO holds (hold_id, account_no, amount_minor, captured_minor, status, version, created_at,
                   updated_at)
SELECT gen_random_uuid(), $1, 5, captured, CASE captured WHEN 0 THEN 'HELD' ELSE 'CAPTURED' END,
       CASE captured WHEN 0 THEN 1 ELSE 2 END, now(), now()
  FROM generate_series(1, 40000) AS n
 CROSS JOIN LATERAL (SELECT CASE WHEN n % 100 = 0 THEN 0 ELSE 5 END AS captured) AS c
"""
ACTS = """
INSERT INTO hold_acts (hold_id, version, kind, captured_minor, released_minor, asked, batch_seq,
                       item_no)
SELECT hold_id, v, CASE v WHEN 1 THEN 'place' ELSE 'capture' END, 0, 0, '', 1 + place % 1000,
       place / 1000
  FROM (SELECT h.hold_id, v, row_number() OVER (ORDER BY h.hold_no, v) AS place
          FROM holds h CROSS JOIN generate_series(1, h.version) AS v) AS acts
"""
LOOKED_AT = """
SELECT coalesce(sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)), 0)::bigint
  FROM pg_stat_xact_user_tables WHERE relname IN ('holds', 'hold_acts')
"""


async def test_holds_are_listed_without_a_look_at_others(filled: Filled, history_url: str) -> None:
    connection = await asyncpg.connect(history_url)
    await connection.execute(HOLDS.replace("$1", str(filled.hot_no)))
    await connection.execute(ACTS)
    await connection.execute("ANALYZE holds, hold_acts")  # as it is done in time by itself
    asked: list[tuple[str, list[Any], int]] = [
        ("holds_by_status", [filled.hot_no, "HELD", 0, 21], 21),
        ("holds_by_status", [filled.hot_no, "HELD", 39_000, 21], 10),
        ("holds_by_status", [filled.hot_no, "CAPTURED", 0, 21], 21),
        ("holds_by_status", [filled.hot_no, "EXPIRED", 0, 21], 0),
        ("holds_of_account", [filled.hot_no, 0, 21], 21),
        ("holds_of_account", [filled.hot_no, 0, 1_000], 1_000),
        ("hold_acts_at", [list(range(1, 1_001)), [3] * 1_000], 1_000),
    ]
    tables = f"^({'|'.join(LARGE)})"
    for query, arguments, count in asked:
        statement = await connection.prepare(QUERIES[query])
        for _ in range(7):  # from the sixth on the plan may be one for any parameters
            async with connection.transaction():
                before = await connection.fetchval(LOOKED_AT)
                scanned = (await connection.fetchrow(COUNTED, tables))["scanned"]
                rows = await statement.fetch(*arguments)
                looked_at = await connection.fetchval(LOOKED_AT) - before
                scanned = (await connection.fetchrow(COUNTED, tables))["scanned"] - scanned
            assert len(rows) == count
            assert looked_at <= 10 * max(count, 21), (query, count)
            assert scanned == 0, (query, count)
    await connection.close()


# The first batches as transfers, the first entry with the last and so on, each odd one the debit;
# every tenth was given its id.
TRANSFERS = """
SET LOCAL session_replication_role = replica;
UPDATE journal_batches
   SET transfer_nos = ARRAY(SELECT least(i, entry_count - 1 - i)
                              FROM generate_series(0, entry_count - 1) AS i)
 WHERE batch_seq <= 20;
UPDATE journal_entries
   SET change_minor = -change_minor,
       transaction_id = CASE WHEN item_no % 10 = 1
                             THEN lpad(item_no::text, 32, '0')::uuid END
 WHERE batch_seq <= 20 AND item_no % 2 = 1
"""


async def test_the_other_halves_of_transfers_are_found_without_a_look_at_others(
    filled: Filled, history_url: str
) -> None:
    connection = await asyncpg.connect(history_url)
    begun = filled.last_at - timedelta(seconds=(BATCHES - 1) * 10)
    before = begun + timedelta(seconds=95)
    page = [before, 100, 5_000]
    hot_no = filled.hot_no
    # What is asked, how many answer, and how many rows that may take.
    asked: list[tuple[str, list[Any], int, int]] = [
        ("event_page", [begun, 0, 1, 0, *page, None], 10 * ENTRIES, 11 * ENTRIES + 50),
        ("event_page", [begun, 0, 1, 4 * 30, *page, None], 10 * ENTRIES - 30, 11 * ENTRIES + 50),
        ("statement_rows", [hot_no, begun, 0, -1, before, 500], 5 * ENTRIES, 1_700),
        ("search", [hot_no, None, begun, before, -1, -1, *[None] * 5, 101, 1_000], 101, 900),
        ("entry_by_position", [20, ENTRIES - 1], 1, 10),
    ]
    tables = f"^({'|'.join(LARGE)})"
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(TRANSFERS)
    for query, arguments, count, most in asked:
        statement = await connection.prepare(QUERIES[query])
        for _ in range(7):  # from the sixth on the plan may be one for any parameters
            earlier = await connection.fetchrow(COUNTED, tables)
            rows = await statement.fetch(*arguments)
            later = await connection.fetchrow(COUNTED, tables)
            assert len(rows) == count
            assert later["scanned"] == earlier["scanned"], "a table is read from end to end"
            assert later["fetched"] - earlier["fetched"] <= most, query
        for row in rows:
            debit_no = row["item_no"] if row["item_no"] % 2 else ENTRIES - 1 - row["item_no"]
            place = EntryPosition(row["batch_seq"], debit_no)
            debit_id = assigned_transaction_id(accepted_ms(row["created_at"]), place)
            if debit_no % 10 == 1:
                debit_id = UUID(f"{debit_no:032}")
            assert row["transfer_id"] == debit_id
            assert (row["other_account_id"] == HOT) == bool(row["item_no"] % 2)
    await transaction.rollback()
    await connection.close()
