"""The cost of a transaction as API processes are added on the same machine."""

from bench.growth.curve import Point, Report
from bench.growth.loading import load_all
from bench.growth.stand import Options, open_stand
from bench.growth.traffic import check, drive, mark, open_accounts, verify

STEPS = (1, 2, 4)
ACCOUNTS = 10_000


def processes(options: Options) -> Report:
    """Measure each number of processes in turns."""
    points = []
    with open_stand(options) as stand:
        open_accounts(stand, ACCOUNTS)
        for step in STEPS:
            with stand.serving(step) as apis:
                with options.turns:
                    load_all(stand, ACCOUNTS)
                    drive(stand, apis, ACCOUNTS, options.seconds / 2)
                for number in range(options.rounds):
                    with options.turns:
                        stand.rest()
                        before = mark(stand)
                        run = drive(stand, apis, ACCOUNTS, options.seconds)
                        check(stand, before, run.figures, apis[0].url, ACCOUNTS)
                    points.append(
                        Point("64 connections in all", str(step), number, run.as_figures())
                    )
                    print(step, run.as_figures(), flush=True)
                with options.turns:
                    verify(apis[0].url)
    return Report(
        "processes",
        "Cost per transaction as API processes are added",
        {"load": f"wrk, 64 connections spread over the processes, {ACCOUNTS:,} random accounts"},
        points,
        ("tx/s", "api CPU us/tx", "redis CPU us/tx", "postgres CPU us/tx"),
    )
