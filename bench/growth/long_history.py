"""`python -m bench.growth.long_history`: how long the reads of history take as history grows.

It writes a history by itself, half of it on one account, as posting and settlement would have left
it: a batch each ten seconds, the latest of them pending. Then it reads at random instants, and with
`--plans` it shows what PostgreSQL did for each read.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import asyncpg

from app.infra.embedded import start_postgres
from app.infra.migrations import migrate
from app.infra.queries import load_queries

if TYPE_CHECKING:
    from app.infra.postgres import Connection

BATCH_ENTRIES = 500
SETTLED_TOGETHER = 20
HOT, OTHER = "A0", "A7"
# What one step of writing a history may take; 100 million entries need minutes.
STEP_TIMEOUT_S = 3_600
_READS, _WARM_UPS = 30, 3
QUERIES = {
    name: query.sql for room in ("ledger", "reads") for name, query in load_queries(room).items()
}
_STEPS = {
    "accounts": """
INSERT INTO accounts (account_id, kind, currency, exponent, credit_limit_minor, created_at,
                      updated_at)
SELECT 'A' || n, 'customer', 'USD', 2, 999999999999999999, '2020-01-01Z', '2020-01-01Z'
  FROM generate_series(0, {accounts} - 1) AS n
""",
    "settlements": """
INSERT INTO settlements (settlement_id, batch_count, entry_count, account_count, totals,
                         duration_us, settled_at, complete_to)
OVERRIDING SYSTEM VALUE
SELECT n, {together}, {together} * {entries}, {accounts}, '{{}}', 1, at, at - interval '1 second'
  FROM generate_series(1, ({batches} - 1) / {together}) AS n
 CROSS JOIN LATERAL (
       SELECT now() - ({batches} - n * {together}) * interval '10 seconds' + interval '5 seconds'
           AS at) AS t
""",
    "batches": """
INSERT INTO journal_batches (batch_seq, shard, epoch, mode, attempt_id, status, entry_count,
                             created_at, settled_at, settlement_id)
SELECT n, 0, 1, 'redis', -n, CASE WHEN t.settlement_id IS NULL THEN 'PENDING' ELSE 'SETTLED' END,
       {entries}, now() - ({batches} - n) * interval '10 seconds', t.settled_at, t.settlement_id
  FROM generate_series(1, {batches}) AS n
  LEFT JOIN settlements t ON t.settlement_id = (n - 1) / {together} + 1
""",
    "entries": """
INSERT INTO journal_entries (account_no, batch_seq, created_at, change_minor, item_no, reference,
                             metadata)
SELECT a.first_no + CASE WHEN i % 2 = 0 THEN 0
                         ELSE 1 + (b.batch_seq * 7919 + i * 104729) % ({accounts} - 1) END,
       b.batch_seq, b.created_at, 1 + (b.batch_seq * 31 + i * 17) % 1000, i,
       CASE WHEN i % 100 = 1 THEN 'invoice ' || b.batch_seq % 1000 END,
       CASE WHEN i % 100 = 2 THEN jsonb_build_object('run', (b.batch_seq % 100)::text) END
  FROM (SELECT min(account_no) AS first_no FROM accounts) AS a, journal_batches b,
       generate_series(0, {entries} - 1) AS i
""",
    "lines of settlements": """
INSERT INTO settlement_lines (account_no, version_after, settlement_id, entry_count, debit_minor,
                              credit_minor, settled_after_minor)
SELECT account_no, sum(entry_count) OVER chain, settlement_id, entry_count, 0, credit_minor,
       sum(credit_minor) OVER chain
  FROM (SELECT e.account_no, b.settlement_id, count(*) AS entry_count,
               sum(e.change_minor) AS credit_minor
          FROM journal_entries e JOIN journal_batches b USING (batch_seq)
         WHERE b.settlement_id IS NOT NULL GROUP BY e.account_no, b.settlement_id) AS s
WINDOW chain AS (PARTITION BY account_no ORDER BY settlement_id)
""",
    "balances": """
UPDATE accounts a SET settled_minor = l.settled_minor, version = l.version
  FROM (SELECT account_no, max(version_after) AS version,
               max(settled_after_minor) AS settled_minor
          FROM settlement_lines GROUP BY account_no) AS l
 WHERE l.account_no = a.account_no
""",
    "statistics": "ANALYZE",
}
_SHOW_PLANS = """
LOAD 'auto_explain';
SET auto_explain.log_min_duration = 0;
SET auto_explain.log_analyze = on;
SET auto_explain.log_buffers = off;
SET auto_explain.log_timing = off;
SET auto_explain.log_nested_statements = on;
SET client_min_messages = log
"""


class Filled(NamedTuple):
    """A history that was written."""

    batches: int
    hot_no: int
    last_at: Any


async def fill(connection: "Connection", batches: int, accounts: int, entries: int) -> Filled:
    """Write a history into an empty, migrated database."""
    sizes = {"batches": batches, "accounts": accounts, "entries": entries}
    # One transaction, so every step has the same now().
    async with connection.transaction():
        for step in _STEPS.values():
            sql = step.format(together=SETTLED_TOGETHER, **sizes)
            await connection.execute(sql, timeout=STEP_TIMEOUT_S)
    hot_no = await connection.fetchval("SELECT account_no FROM accounts WHERE account_id = $1", HOT)
    last_at = await connection.fetchval("SELECT max(created_at) FROM journal_batches")
    return Filled(batches, hot_no, last_at)


def reads_of(filled: Filled, random: Random, account_no: int) -> dict[str, tuple[str, list[Any]]]:
    """The reads that are measured, each with parameters at a random instant."""
    at = filled.last_at - timedelta(seconds=random.randint(0, filled.batches * 10))
    place, first = (at, -1, -1), filled.last_at - timedelta(days=9_000)
    anything, limit = (None, None, None, None, None), (101, 10_000)
    debits = (None, "debit", None, None, None)
    return {
        "balance now": ("balance", [HOT if account_no == filled.hot_no else OTHER]),
        "watermark": ("watermark", [0]),
        "balance as of": ("booked_at", [account_no, *place]),
        "backdated since": ("backdated_since", [account_no, at]),
        "statement, 100 rows": ("statement_rows", [account_no, *place, filled.last_at, 101]),
        "statement, 500 rows": ("statement_rows", [account_no, *place, filled.last_at, 500]),
        "search, 100 newest": ("search", [account_no, None, first, *place, *anything, *limit]),
        "search, 10,000 looked at, none found": (
            "search",
            [account_no, None, first, *place, *debits, *limit],
        ),
        "search by reference": ("search", [None, "invoice 7", first, *place, *anything, *limit]),
    }


async def _measure(url: str, rows: int, accounts: int, *, plans: bool) -> None:
    connection = await asyncpg.connect(url)
    await migrate(connection)
    started = time.perf_counter()
    filled = await fill(connection, rows // BATCH_ENTRIES, accounts, BATCH_ENTRIES)
    print(
        f"{rows:,} entries, {accounts:,} accounts, written in {time.perf_counter() - started:.0f} s"
    )
    random = Random(1)
    sides = (("half of them", filled.hot_no), ("few", filled.hot_no + 7))
    for title, account_no in sides:
        print(f"\non an account with {title}\n")
        print("| read | median ms | slowest of 30 ms | median of the same again ms |")
        print("|---|---|---|---|")
        for name in reads_of(filled, random, account_no):
            print(f"| {name} | {await _figures(connection, filled, random, account_no, name)} |")
    if plans:
        await connection.execute(_SHOW_PLANS)
        connection.add_log_listener(lambda _, notice: print(notice.message))
        for title, account_no in sides:
            for name in reads_of(filled, random, account_no):
                print(f"\n## {name}, on an account with {title}\n")
                await _timed(connection, reads_of(filled, random, account_no)[name])
                # What a server says reaches a listener at the next turn of the loop.
                await asyncio.sleep(0)
    await connection.close()


async def _figures(
    connection: "Connection", filled: Filled, random: Random, account_no: int, name: str
) -> str:
    """How long a read takes at 30 instants that nobody asked for yet, and once more at each: the
    first time its pages may have to come from the disk.
    """
    reads = [reads_of(filled, random, account_no)[name] for _ in range(_WARM_UPS + _READS)]
    first = [await _timed(connection, read) for read in reads][_WARM_UPS:]
    again = [await _timed(connection, read) for read in reads][_WARM_UPS:]
    return f"{statistics.median(first):.2f} | {max(first):.2f} | {statistics.median(again):.2f}"


async def _timed(connection: "Connection", read: tuple[str, list[Any]]) -> float:
    query, arguments = read
    started = time.perf_counter()
    await connection.fetch(QUERIES[query], *arguments)
    return (time.perf_counter() - started) * 1_000


def main() -> None:
    """Measure one size on a private server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--accounts", type=int, default=10_000)
    parser.add_argument("--plans", action="store_true", help="show the plan of each read")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="history-") as folder:
        Path(folder).chmod(0o755)
        server = start_postgres(Path(folder) / "postgres", print, durable=False)
        try:
            asyncio.run(_measure(server.url, asked.rows, asked.accounts, plans=asked.plans))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
