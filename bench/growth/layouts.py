"""What a journaled row costs PostgreSQL in each layout that a forward migration could make.

Two connections call `journal_batch_v2`, without the service. Each candidate has a database of its
own, copied from one with history; every sample begins after a checkpoint.
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from bench.growth.candidates import ENTRIES, KEYS, Candidate
from bench.growth.curve import Point, Report
from bench.growth.pending import add_pending
from bench.growth.stand import Options, Stand, open_stand
from bench.growth.traffic import open_accounts

BATCHES = (80, 1_000)
COMPRESSIONS = ("on", "off")
ACCOUNTS = 100_000
HISTORY_ROWS = 3_000_000
_CONNECTIONS = 2
_WARM_S = 0.7
_HISTORY_KEYS = """
INSERT INTO idempotency_keys
SELECT 0, gen_random_uuid()::text, 1, -n, 0 FROM generate_series(1, $1::bigint) AS n
"""
_RULES = """
UPDATE ledger_shards SET epoch = 1, mode = 'redis', redis_token = 'growth',
       postgres_identity = postgres_identity_v1()
"""
_LAST = "SELECT max(batch_seq) FROM journal_batches"
_WAL = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint"
_BOOKS = """
SELECT count(*) FROM journal_batches b
 WHERE b.changes_minor IS NOT NULL AND b.batch_seq > $1 AND b.entry_count <> (
       SELECT count(*) FROM journal_entries e
        WHERE e.batch_seq = b.batch_seq AND e.created_at = b.created_at)
"""


class _Trial(NamedTuple):
    candidate: Candidate
    keys: str
    database: str
    compression: str


def layouts(options: Options) -> Report:
    """Compare the candidates in turns, round by round."""
    rows = min(HISTORY_ROWS, options.largest)
    points: list[Point] = []
    with open_stand(options) as stand:
        open_accounts(stand, ACCOUNTS)
        add_pending(stand, options, rows, ACCOUNTS, 1_000)
        with options.turns:
            stand.rows(_HISTORY_KEYS, rows)
            stand.execute("ALTER SYSTEM SET autovacuum = off")
            stand.execute("SELECT pg_reload_conf()")
        template = stand.leave_database()
        trials = [trial for group in (ENTRIES, KEYS) for trial in _trials(options, template, group)]
        for number in range(options.rounds):
            for trial in trials:
                with options.turns:
                    points += _measured(stand, options, trial, number)
                print(points[-1], flush=True)
    return Report(
        "layouts",
        "What a journaled row costs PostgreSQL",
        {
            "load": f"journal_batch_v2 on {_CONNECTIONS} connections, {ACCOUNTS:,} random accounts",
            "history": f"{rows:,} rows in the same month and as many keys",
            "autovacuum": "off, so that it does not fall into one candidate's sample",
        },
        points,
        ("PostgreSQL CPU us/row",),
    )


def _trials(options: Options, template: str, group: Sequence[Candidate]) -> Iterator[_Trial]:
    for number, candidate in enumerate(group):
        for keys in candidate.keys:
            for compression in COMPRESSIONS:
                name = f"c{len(group)}{number}_{keys}_{compression}"
                with options.turns:
                    asyncio.run(_prepare(template, name, candidate.sql, compression))
                yield _Trial(candidate, keys, at_database(template, name), compression)


def _measured(stand: Stand, options: Options, trial: _Trial, number: int) -> Iterator[Point]:
    for batch in BATCHES:
        _journal(trial, batch, _WARM_S)
        asyncio.run(_ask(trial.database, "CHECKPOINT"))
        last = asyncio.run(_ask(trial.database, _LAST))
        before, wal = stand.cpu_s()["postgres"], asyncio.run(_ask(trial.database, _WAL))
        done = _journal(trial, batch, options.seconds)
        used = stand.cpu_s()["postgres"] - before
        rows = sum(batches for batches, _ in done) * batch
        wal_after = asyncio.run(_ask(trial.database, _WAL))
        if asyncio.run(_ask(trial.database, _BOOKS, last)):
            raise SystemExit(f"{trial.candidate.name}: entries are missing")
        keys = {"one": "a key a batch", "time": "ascending keys", "random": "random keys"}
        figures = {
            "rows/s": sum(batches * batch / took * 1e6 for batches, took in done),
            "PostgreSQL CPU us/row": used / rows * 1e6,
            "WAL bytes/row": (wal_after - wal) / rows,
        }
        curve = f"{keys[trial.keys]}, batches of {batch:,}, wal_compression {trial.compression}"
        yield Point(curve, trial.candidate.name, number, figures)


def _journal(trial: _Trial, batch: int, seconds: float) -> list[tuple[int, int]]:
    command = [sys.executable, "-m", "bench.growth.journal_client", trial.database, str(batch),
               str(seconds), trial.keys, str(ACCOUNTS)]  # fmt: skip
    children = [
        subprocess.Popen([*command, str(number)], stdout=subprocess.PIPE, text=True)
        for number in range(_CONNECTIONS)
    ]
    outputs = [child.communicate(timeout=seconds + 60)[0].split() for child in children]
    return [(int(batches), int(took)) for batches, took in outputs]


def at_database(url: str, name: str) -> str:
    """The same server's other database."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


async def _prepare(template: str, name: str, sql: str, compression: str) -> None:
    admin = await asyncpg.connect(at_database(template, "postgres"))
    source = urlsplit(template).path.strip("/")
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {source} STRATEGY file_copy")
    await admin.execute(f"ALTER DATABASE {name} SET wal_compression = {compression}")
    await admin.close()
    connection = await asyncpg.connect(at_database(template, name), command_timeout=600)
    await connection.execute(sql + _RULES)
    await connection.close()


async def _ask(url: str, statement: str, *arguments: object) -> int:
    connection = await asyncpg.connect(url, command_timeout=600)
    found = await connection.fetchval(statement, *arguments)
    await connection.close()
    return int(found or 0)
