"""Makes a settled history of any size in the real tables, consistent to the cent.

Each million rows is one settlement of batches of a hundred. Entries go into months before the
current one, each a table that is filled without indexes, indexed and then attached.
"""

import shutil

from bench.growth.stand import Options, Stand

PART_ROWS = 10_000_000
CHUNK_ROWS = 1_000_000
BATCH_ROWS = 100
BYTES_PER_ROW = 400
_PART = """
SELECT to_char(m, '"journal_entries_y"YYYY"m"MM') AS name,
       m AS starts, m + interval '1 month' AS ends
  FROM (SELECT timestamptz '2015-01-01 00:00:00Z' + make_interval(months => $1) AS m) AS months
"""
_BATCHES = """
WITH settled AS (
    INSERT INTO settlements (batch_count, entry_count, account_count, totals, duration_us,
                             settled_at)
    VALUES ($3::bigint / 100, $3::bigint, $4::bigint, jsonb_build_object(
                'USD', jsonb_build_object('debit_minor', $3::bigint, 'credit_minor', 0)),
            0, $2::timestamptz)
    RETURNING settlement_id
), numbered AS (
    SELECT nextval('journal_batch_seq') AS batch_seq, n
      FROM generate_series(1, $3::bigint / 100) AS n
)
INSERT INTO journal_batches (batch_seq, shard, epoch, mode, attempt_id, status, entry_count,
                             changes_minor, created_at, settled_at, settlement_id)
SELECT b.batch_seq, 0, 0, 'redis', -b.batch_seq, 'SETTLED', 100,
       array_fill(-1::bigint, ARRAY[100]),
       $1::timestamptz + make_interval(secs => b.n / 100.0), $2::timestamptz, s.settlement_id
  FROM numbered b, settled s
"""
_RANGE = "SELECT max(batch_seq), max(settlement_id) FROM journal_batches"
_ENTRIES = """
INSERT INTO {table} (account_no, batch_seq, created_at, change_minor, item_no)
SELECT $2::bigint + (b.batch_seq * 100 + i) * 7919 % $3::bigint, b.batch_seq, b.created_at, -1, i
  FROM journal_batches b, generate_series(0, 99) AS i
 WHERE b.batch_seq > $1
"""
_KEYS = """
INSERT INTO idempotency_keys (scope, name, account_no, batch_seq, item_no)
SELECT 0, {name}, e.account_no, e.batch_seq, e.item_no FROM {table} e WHERE e.batch_seq > $1
"""
TIME_NAME = "lpad(to_hex(e.batch_seq * 100 + e.item_no), 12, '0') || '-7000-8000-000000000000'"
RANDOM_NAME = "md5((e.batch_seq * 100 + e.item_no)::text)::uuid::text"
_LINES = """
WITH sums AS (
    SELECT account_no, count(*) AS n FROM {table} WHERE batch_seq > $1 GROUP BY account_no
), sides AS (
    SELECT account_no, n, n AS debit, 0::numeric AS credit FROM sums
    UNION ALL
    SELECT x.account_no, t.n, 0, t.n FROM (SELECT sum(n)::bigint AS n FROM sums) AS t, accounts x
     WHERE x.kind = 'external'
), settled AS (
    UPDATE accounts a SET settled_minor = a.settled_minor + b.credit - b.debit,
           version = a.version + b.n, last_settlement_at = now(), updated_at = now()
      FROM sides b WHERE b.account_no = a.account_no
    RETURNING a.account_no, a.version, b.n, b.debit, b.credit, a.settled_minor
)
INSERT INTO settlement_lines (account_no, version_after, settlement_id, entry_count,
                              debit_minor, credit_minor, settled_after_minor)
SELECT account_no, version, $2::bigint, n, debit, credit, settled_minor FROM settled
"""
_DROP_KEYS_INDEX = "ALTER TABLE idempotency_keys DROP CONSTRAINT IF EXISTS idempotency_keys_pkey"
_HAS_KEYS_INDEX = """
SELECT count(*) FROM pg_constraint
 WHERE conrelid = 'idempotency_keys'::regclass AND contype = 'p'
"""
_ADD_KEYS_INDEX = "ALTER TABLE idempotency_keys ADD PRIMARY KEY (scope, name)"


def require_room(options: Options, rows: int) -> None:
    """Refuse to begin what would not fit on the disk."""
    free, needed = shutil.disk_usage(options.folder).free, rows * BYTES_PER_ROW
    if free < needed:
        raise SystemExit(f"{needed / 1e9:.0f} GB are needed, {free / 1e9:.0f} GB are free")


def grow(stand: Stand, options: Options, rows: int, accounts: int, *, random: bool) -> None:
    """Add settled rows up to so many; neither an API nor a worker may run."""
    have = generated(stand)
    if have >= rows:
        _index_keys(stand, options)
        return
    require_room(options, rows - have)
    stand.execute("SET synchronous_commit = off; SET wal_compression = off")
    stand.execute("SET maintenance_work_mem = '1GB'")
    with options.turns:
        stand.execute(_DROP_KEYS_INDEX)
    while have < rows:
        wanted = -(-min(PART_ROWS, rows - have) // BATCH_ROWS) * BATCH_ROWS
        have += _month(stand, options, wanted, accounts, random=random)
        print(f"{have:,} rows", flush=True)
    _index_keys(stand, options)
    with options.turns:
        stand.execute("VACUUM ANALYZE accounts")
        stand.execute("ANALYZE")
        stand.execute("CHECKPOINT")
    stand.execute("RESET ALL; SET jit = off")


def _index_keys(stand: Stand, options: Options) -> None:
    """Index the keys again unless they are; a run that was ended may have left them without."""
    if not stand.ask(_HAS_KEYS_INDEX):
        with options.turns:
            stand.execute(_ADD_KEYS_INDEX)


def generated(stand: Stand) -> int:
    """How many rows of history there are."""
    rows: int = stand.ask("SELECT coalesce(sum(entry_count), 0)::bigint FROM settlements")
    return rows


def _month(stand: Stand, options: Options, rows: int, accounts: int, *, random: bool) -> int:
    """Fill one month and attach it; returns how many rows it got."""
    months = stand.ask(
        "SELECT count(*) FROM pg_inherits WHERE inhparent = 'journal_entries'::regclass"
    )
    part = stand.rows(_PART, months)[0]
    table = part["name"]
    like = f"CREATE TABLE {table} (LIKE journal_entries INCLUDING DEFAULTS INCLUDING CONSTRAINTS)"
    stand.execute(like)
    done = 0
    while done < rows:
        chunk = min(CHUNK_ROWS, rows - done)
        with options.turns:
            _chunk(stand, table, part["starts"], chunk, accounts, random=random)
        done += chunk
    with options.turns:
        stand.execute(f"ALTER TABLE {table} ADD PRIMARY KEY (batch_seq, item_no, created_at)")
    with options.turns:
        stand.execute(f"CREATE INDEX ON {table} (account_no, batch_seq)")
        bounds = f"FROM ('{part['starts'].isoformat()}') TO ('{part['ends'].isoformat()}')"
        stand.execute(f"ALTER TABLE journal_entries ATTACH PARTITION {table} FOR VALUES {bounds}")
    with options.turns:
        stand.execute(f"VACUUM (FREEZE, ANALYZE) {table}")
    return done


def _chunk(
    stand: Stand, table: str, starts: object, rows: int, accounts: int, *, random: bool
) -> None:
    first = stand.ask("SELECT min(account_no) FROM accounts WHERE kind = 'customer'")
    after = stand.rows(_RANGE)[0][0] or 0
    name = RANDOM_NAME if random else TIME_NAME
    stand.rows(_BATCHES, starts, starts, rows, min(rows, accounts))
    settlement_id = stand.rows(_RANGE)[0][1]
    stand.rows(_ENTRIES.format(table=table), after, first, accounts)
    stand.rows(_KEYS.format(table=table, name=name), after)
    stand.rows(_LINES.format(table=table), after, settlement_id)
