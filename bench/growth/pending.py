"""Puts pending movements into the journal in bulk, as a worker that stands would leave them."""

import time

from bench.growth.stand import Options, Stand

_CHUNK_ROWS = 250_000
_BATCHES = """
INSERT INTO journal_batches (batch_seq, shard, epoch, mode, attempt_id, status, entry_count,
                             changes_minor, created_at)
SELECT nextval('journal_batch_seq'), 0, s.epoch, 'redis', -($1::bigint * 1000000 + n), 'PENDING',
       $2::integer, array_fill(-1::bigint, ARRAY[$2::integer]), clock_timestamp()
  FROM generate_series(1, $3::bigint) AS n, ledger_shards AS s
"""
_ENTRIES = """
INSERT INTO journal_entries (account_no, batch_seq, created_at, change_minor, item_no)
SELECT a.first + (b.batch_seq * $2::bigint + i) * 7919 % $3::bigint, b.batch_seq,
       b.created_at, -1, i
  FROM journal_batches b, generate_series(0, $2::integer - 1) AS i,
       (SELECT min(account_no) AS first FROM accounts WHERE kind = 'customer') AS a
 WHERE b.batch_seq > $1
"""


def add_pending(
    stand: Stand, options: Options, rows: int, accounts: int, batch_rows: int = 80
) -> None:
    """Add at least so many pending rows over the first accounts, in turns.

    Only while no API runs or nobody reads balances meanwhile: Redis is not told.
    """
    left = rows
    while left > 0:
        batches = -(-min(left, _CHUNK_ROWS) // batch_rows)
        with options.turns:
            last = stand.ask("SELECT coalesce(max(batch_seq), 0) FROM journal_batches")
            stand.rows(_BATCHES, time.time_ns() // 1_000_000, batch_rows, batches)
            stand.rows(_ENTRIES, last, batch_rows, accounts)
        left -= batches * batch_rows
    stand.execute("VACUUM ANALYZE journal_batches")
    stand.execute("ANALYZE journal_entries")


def first_account_no(stand: Stand) -> int:
    """The number of the first account that was opened."""
    number: int = stand.ask("SELECT min(account_no) FROM accounts WHERE kind = 'customer'")
    return number
