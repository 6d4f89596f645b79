"""The cost of a transaction, of reads, of settlement and of a start, as settled history grows."""

import time

from bench.growth.curve import Point, Report, count, earlier_points, steps_left
from bench.growth.generate import grow
from bench.growth.loading import load_all
from bench.growth.pending import add_pending
from bench.growth.reads import read_ms, repeat_ms
from bench.growth.stand import Options, Stand, open_stand
from bench.growth.traffic import account, check, drive, mark, open_accounts, verify

STEPS = (0, 1_000_000, 10_000_000, 30_000_000, 100_000_000)
ACCOUNTS = 10_000
_BACKLOG_ROWS = 200_000
_READS = 200
_SOME = """
SELECT assigned_transaction_id_v1(e.created_at, e.batch_seq, e.item_no)::text AS id
  FROM journal_batches b
  JOIN journal_entries e ON e.batch_seq = b.batch_seq AND e.created_at = b.created_at
                        AND e.item_no = 0
 WHERE b.batch_seq IN (SELECT 1 + (random() * (SELECT max(batch_seq) FROM journal_batches))::bigint
                         FROM generate_series(1, 400))
 LIMIT 200
"""


def history(options: Options) -> Report:
    """With keys that carry the time."""
    return _report(options, "history", "Cost as history grows, keys that ascend", random=False)


def history_random(options: Options) -> Report:
    """With keys at random, in the history and in the load."""
    return _report(options, "history-random", "Cost as history grows, random keys", random=True)


def _report(options: Options, name: str, title: str, *, random: bool) -> Report:
    points = earlier_points(options.results, name) if options.reuse else []
    with open_stand(options) as stand:
        open_accounts(stand, ACCOUNTS)
        for step in steps_left(STEPS, options.largest, points):
            grow(stand, options, step, ACCOUNTS, random=random)
            for number in range(options.rounds):
                points.append(_measured(stand, options, step, number, random=random))
                print(points[-1], flush=True)
        size = stand.ask("SELECT pg_database_size(current_database())")
    return Report(
        name,
        title,
        {
            "load": f"wrk, 64 connections, {ACCOUNTS:,} random accounts",
            "settlement": f"{_BACKLOG_ROWS:,} pending rows in batches of 80",
            "database at the end": f"{size / 1e9:.1f} GB",
        },
        points,
        ("tx/s", "postgres CPU us/tx", "balance ms", "transaction by id ms", "settled rows/s"),
    )


def _measured(stand: Stand, options: Options, step: int, number: int, *, random: bool) -> Point:
    keys = "random" if random else "time"
    add_pending(stand, options, _BACKLOG_ROWS, ACCOUNTS)
    with options.turns:
        settled = _settled_per_second(stand)
        started = time.perf_counter()
        with stand.serving() as (api,):
            start_ms = (time.perf_counter() - started) * 1_000
            load_all(stand, ACCOUNTS)
            drive(stand, [api], ACCOUNTS, 1, keys)
            stand.rest()
            before = mark(stand)
            run = drive(stand, [api], ACCOUNTS, options.seconds, keys)
            check(stand, before, run.figures, api.url, ACCOUNTS)
            reads = _reads(stand, api.url)
            verify(api.url)
    figures = {**run.as_figures(), **reads, "settled rows/s": settled, "start ms": start_ms}
    return Point(f"{keys} keys", count(step), number, figures)


def _settled_per_second(stand: Stand) -> float:
    stand.restart_redis()
    with stand.serving(worker=False):
        load_all(stand, ACCOUNTS)
        started = time.perf_counter()
        settled = stand.wait(stand.services().settler.settle())
        return settled.entries / (time.perf_counter() - started)


def _reads(stand: Stand, url: str) -> dict[str, float]:
    names = [account(number * 7919 % ACCOUNTS) for number in range(_READS)]
    ids = [row["id"] for row in stand.rows(_SOME)]
    return {
        "balance ms": read_ms(url, [f"/api/v1/balance/{name}" for name in names]),
        "pending ms": read_ms(url, [f"/api/v1/pending/{name}" for name in names]),
        "transaction by id ms": read_ms(url, [f"/api/v1/transactions/{each}" for each in ids]),
        "by key ms": repeat_ms(url, account(0), _READS),
    }
