"""The cost of a transaction and of reads while movements wait for a settler that stands still."""

import time
from collections.abc import Iterator

from bench.growth.curve import Point, Report, count
from bench.growth.loading import load_all
from bench.growth.pending import add_pending, first_account_no
from bench.growth.reads import read_ms
from bench.growth.stand import Options, Stand, open_stand
from bench.growth.traffic import account, drive, mark, open_accounts, verify

STEPS = (0, 10_000, 100_000, 1_000_000)
ACCOUNTS = 10_000
_READS = 20
_LOADED = """
SELECT a.account_no, p.* FROM accounts a CROSS JOIN LATERAL pending_sums_v1(a.account_no) AS p
 WHERE a.account_no = ANY ($1)
"""


def backlog(options: Options) -> Report:
    """On one hot account, then spread over ten thousand."""
    points: list[Point] = []
    for curve, accounts in (("on one account", 1), ("on 10,000 accounts", ACCOUNTS)):
        with open_stand(options) as stand:
            open_accounts(stand, accounts)
            steps = [step for step in STEPS if step <= options.largest]
            for before, step in zip([0, *steps], steps, strict=False):
                if step > before:
                    add_pending(stand, options, step - before, accounts)
                points += _measured(stand, options, curve, step, accounts)
            _settle_all(stand, options)
    return Report(
        "backlog",
        "Cost as the backlog of pending movements grows, no settler",
        {"load": "wrk, 64 connections, as many random accounts as the backlog is on"},
        points,
        ("tx/s", "postgres CPU us/tx", "balance ms", "pending page ms", "load of 100 accounts ms"),
    )


def _measured(
    stand: Stand, options: Options, curve: str, step: int, accounts: int
) -> Iterator[Point]:
    """Redis is emptied before, so that the API learns the balances with their backlog."""
    names = [account(number * 7919 % accounts) for number in range(_READS)]
    stand.restart_redis()
    with stand.serving(worker=False) as (api,), options.turns:
        load_all(stand, accounts)
        drive(stand, [api], accounts, 1)
        for number in range(options.rounds):
            before = mark(stand)
            run = drive(stand, [api], accounts, options.seconds)
            new = stand.ask(
                "SELECT coalesce(sum(entry_count), 0) FROM journal_batches WHERE batch_seq > $1",
                before.batch_seq,
            )
            if run.figures.refused or run.figures.errors or new < run.figures.accepted:
                raise SystemExit(f"wrong: {run} left {new} rows")
            reads = {
                "balance ms": read_ms(api.url, [f"/api/v1/balance/{name}" for name in names]),
                "pending page ms": read_ms(api.url, [f"/api/v1/pending/{name}" for name in names]),
                "load of 100 accounts ms": _load_ms(stand, accounts),
            }
            waiting = stand.ask(
                "SELECT sum(entry_count) FROM journal_batches WHERE status = 'PENDING'"
            )
            figures = {**run.as_figures(), **reads, "pending rows at the end": float(waiting)}
            print(curve, step, figures, flush=True)
            yield Point(curve, count(step), number, figures)


def _load_ms(stand: Stand, accounts: int) -> float:
    """How long `accounts_to_load` takes for a batch's worth of accounts."""
    first = first_account_no(stand)
    numbers = [first + number * 7919 % accounts for number in range(min(100, accounts))]
    took = []
    for _ in range(3):
        started = time.perf_counter()
        stand.rows(_LOADED, numbers)
        took.append((time.perf_counter() - started) * 1_000)
    return min(took)


def _settle_all(stand: Stand, options: Options) -> None:
    with stand.serving() as (api,), options.turns:
        stand.rest()
        verify(api.url)
