"""Bringing cold accounts into a new epoch: in bulk by the load script, and by their first use."""

import time

from bench.growth.curve import Point, Report, count
from bench.growth.loading import load_all
from bench.growth.stand import Options, open_stand
from bench.growth.traffic import check, drive, mark, open_accounts, verify

STEPS = (10_000, 100_000, 1_000_000)


def hydration(options: Options) -> Report:
    """For each number of accounts: bulk, then Redis is emptied and traffic comes to cold ones."""
    points = []
    with open_stand(options) as stand:
        for step in (step for step in STEPS if step <= options.largest):
            with options.turns:
                open_accounts(stand, step)
            stand.restart_redis()
            with stand.serving(worker=False), options.turns:
                empty, started = stand.used_redis_bytes(), time.perf_counter()
                loaded = load_all(stand, step)
                took = time.perf_counter() - started
                used = stand.used_redis_bytes() - empty
            bulk = {
                "accounts/s": step / took,
                "seconds": took,
                "reading us/account": loaded.reading_s / step * 1e6,
                "script us/account": loaded.script_s / step * 1e6,
                "Redis bytes/account": used / step,
            }
            points.append(Point("in bulk", count(step), 0, bulk))
            stand.restart_redis()
            with stand.serving() as (api,), options.turns:
                before = mark(stand)
                cold = drive(stand, [api], step, options.seconds)
                check(stand, before, cold.figures, api.url, step)
                load_all(stand, step)
                before = mark(stand)
                warm = drive(stand, [api], step, options.seconds)
                check(stand, before, warm.figures, api.url, step)
                verify(api.url)
            points.append(Point("traffic to cold accounts", count(step), 0, cold.as_figures()))
            points.append(Point("the same, warm", count(step), 0, warm.as_figures()))
            print(points[-3:], flush=True)
    return Report(
        "hydration",
        "Bringing accounts into a new epoch",
        {"load": "wrk, 64 connections, random accounts"},
        points,
        ("accounts/s", "tx/s"),
    )
