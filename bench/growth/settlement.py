"""How fast the settler folds a backlog, alone and while requests come in at saturation."""

import time
from concurrent.futures import ThreadPoolExecutor

from bench.growth.curve import Point, Report, count
from bench.growth.loading import load_all
from bench.growth.pending import add_pending
from bench.growth.stand import Options, Stand, open_stand
from bench.growth.traffic import check, mark, open_accounts, verify, wrk_only

ACCOUNTS = (1, 5, 10_000)
BACKLOG_ROWS = 1_000_000
LAG_SECONDS = 60
_LOAD_FIRST_S = 1.0
_FEW_BATCHES = 500
_LAG_POLL_S = 2.0
_LAG = """
SELECT coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0),
       coalesce(sum(entry_count), 0) FROM journal_batches WHERE status = 'PENDING'
"""


def settlement(options: Options) -> Report:
    """Settle a backlog on few and many accounts, then beside load; then watch the lag."""
    points = []
    with open_stand(options) as stand:
        open_accounts(stand, max(ACCOUNTS))
        for accounts in ACCOUNTS:
            for number in range(options.rounds):
                points.append(_idle(stand, options, accounts, number))
                print(points[-1], flush=True)
        for accounts in ACCOUNTS:
            points.append(_beside_load(stand, options, accounts))
            print(points[-1], flush=True)
        points += _lag(stand, options)
    backlog = f"{min(BACKLOG_ROWS, options.largest):,} rows in batches of 80"
    return Report(
        "settlement",
        "Settlement",
        {"backlog": backlog, "load": "wrk, 64 connections, as many random accounts"},
        points,
        ("settled rows/s",),
    )


def _idle(stand: Stand, options: Options, accounts: int, number: int) -> Point:
    """The worker's own way, Redis being told included, with nothing else going on."""
    rows = min(BACKLOG_ROWS, options.largest)
    add_pending(stand, options, rows, accounts)
    stand.restart_redis()
    with stand.serving(worker=False), options.turns:
        load_all(stand, accounts)
        before, wal, started = stand.cpu_s(), stand.wal_position(), time.perf_counter()
        settled = stand.wait(stand.services().settler.settle())
        took = time.perf_counter() - started
        after = stand.cpu_s()
    figures = {
        "settled rows/s": settled.entries / took,
        "postgres CPU us/row": (after["postgres"] - before["postgres"]) / settled.entries * 1e6,
        "redis CPU us/row": (after["redis"] - before["redis"]) / settled.entries * 1e6,
        "WAL bytes/row": (stand.wal_position() - wal) / settled.entries,
    }
    return Point("alone", f"{count(accounts)} accounts", number, figures)


def _beside_load(stand: Stand, options: Options, accounts: int) -> Point:
    """The settler works off the backlog without a pause while 64 connections are kept busy."""
    add_pending(stand, options, min(BACKLOG_ROWS, options.largest), accounts)
    stand.restart_redis()
    with stand.serving(worker=False) as (api,), options.turns:
        load_all(stand, accounts)
        with ThreadPoolExecutor(1) as driver:
            load = driver.submit(wrk_only, api.url, accounts, options.seconds)
            time.sleep(_LOAD_FIRST_S)
            started, entries = time.perf_counter(), 0
            while not load.done() and time.perf_counter() - started < options.seconds - 1:
                entries += stand.wait(stand.services().settler.settle()).entries
                if stand.pending_batches() < _FEW_BATCHES:
                    break
            rate = entries / (time.perf_counter() - started)
            figures = load.result()
        stand.wait(stand.services().settler.settle())
        verify(api.url)
    beside = figures.accepted / (figures.duration_us / 1_000_000)
    return Point(
        "beside load",
        f"{count(accounts)} accounts",
        0,
        {"settled rows/s": rate, "tx/s meanwhile": beside, "p99 ms": figures.p99_us / 1_000},
    )


def _lag(stand: Stand, options: Options) -> list[Point]:
    """The worker as it runs, at the highest rate of single requests."""
    accounts = max(ACCOUNTS)
    points = []
    stand.restart_redis()
    with stand.serving() as (api,), options.turns:
        load_all(stand, accounts)
        stand.rest()
        before = mark(stand)
        seconds = min(LAG_SECONDS, max(options.seconds, options.largest / 10_000))
        with ThreadPoolExecutor(1) as driver:
            load = driver.submit(wrk_only, api.url, accounts, seconds)
            started = time.perf_counter()
            while not load.done():
                lag, waiting = stand.rows(_LAG)[0]
                at = f"{round(time.perf_counter() - started)} s"
                figures = {"oldest pending s": float(lag), "pending rows": float(waiting)}
                points.append(Point("lag", at, 0, figures))
                time.sleep(_LAG_POLL_S)
        check(stand, before, load.result(), api.url, accounts)
        verify(api.url)
    return points
