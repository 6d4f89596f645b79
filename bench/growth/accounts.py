"""The cost of a transaction as the number of accounts grows; all of them are in Redis before."""

from collections.abc import Iterator

from bench.growth.curve import Point, Report, count
from bench.growth.loading import load_all
from bench.growth.stand import Options, Stand, open_stand
from bench.growth.traffic import check, drive, mark, open_accounts, verify

STEPS = (1, 5, 100, 10_000, 100_000, 1_000_000)


def accounts(options: Options) -> Report:
    """Measure each step in turns, and check the books after each."""
    steps = [step for step in STEPS if step <= options.largest]
    with open_stand(options) as stand:
        points = [point for step in steps for point in _measured(stand, options, step)]
    return Report(
        "accounts",
        "Cost per transaction as accounts grow",
        {"load": "wrk, 64 connections, random accounts, an ascending key a request"},
        points,
        ("tx/s", "api CPU us/tx", "redis CPU us/tx", "postgres CPU us/tx"),
    )


def _measured(stand: Stand, options: Options, step: int) -> Iterator[Point]:
    with options.turns:
        open_accounts(stand, step)
    with stand.serving() as (api,):
        with options.turns:
            load_all(stand, step)
            drive(stand, [api], step, options.seconds / 2)
        for number in range(options.rounds):
            with options.turns:
                stand.rest()
                before = mark(stand)
                run = drive(stand, [api], step, options.seconds)
                check(stand, before, run.figures, api.url, step)
            print(count(step), run.as_figures(), flush=True)
            yield Point("64 connections", count(step), number, run.as_figures())
        with options.turns:
            verify(api.url)
