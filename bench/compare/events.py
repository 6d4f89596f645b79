"""What the stream of events costs: two ledgers, one whose worker fills it and one whose does not.

They are driven in turns, and each pair of neighbours gives a ratio. After a sample the stream is
waited for, so that it never catches up at the expense of the next one.
"""

import time
from collections.abc import Sequence
from statistics import median, quantiles
from typing import Any, NamedTuple

from app.infra.queries import load_queries
from app.ledger.codes import Mode
from bench.compare.books import require
from bench.compare.contestants import Ledger, Say, Service, open_accounts, warm_up
from bench.compare.marks import HOT, MANY
from bench.compare.observation import cpu_s
from bench.compare.plan import in_turns
from bench.compare.samples import TRANSACTIONS, TRANSFERS, Cell, Sample, described
from bench.compare.stage import Stage

ON, OFF = "with the stream", "without"
# What is driven, on how many accounts, over how many connections.
LOADS = ((TRANSACTIONS, HOT, 64), (TRANSACTIONS, HOT, 256), (TRANSFERS, MANY, 64))
PAIRS_A_ROUND = 4
# An entry is told when it is accepted, and when it is settled.
_EVENTS_EACH = 2
_ENVIRONMENT: dict[str, dict[str, str]] = {ON: {}, OFF: {"SUBBALANCE_EVENTS_STREAM_ITEMS": "0"}}
_CAUGHT_UP_S, _LOOK_S = 120.0, 0.1
_TOLD = "SELECT told_count FROM event_cursors WHERE sink = 'redis'"
_LAGS = load_queries("events")["event_cursors"].sql


class Turn(NamedTuple):
    """A sample, how many events the stream was told while it lasted, how long after its books were
    checked it was told the rest, and what all of its events cost the worker, which settles as
    well, each.
    """

    sample: Sample
    told: int
    told_after_s: float
    worker_us: float

    @property
    def told_per_second(self) -> float:
        """Events a second."""
        return self.told / (self.sample.figures.duration_us / 1_000_000)


class Streamed:
    """One ledger, one API process, and how far its stream is."""

    def __init__(self, stage: Stage, number: int, name: str) -> None:
        """Start them on a database of their own."""
        environment = {
            "DATABASE_URL": stage.make_database(f"events_{number}", stage.schema_database),
            "REDIS_URL": stage.own_redis(),
            **_ENVIRONMENT[name],
        }
        self._stage = stage
        self._is_told = name == ON
        self._database: Any = stage.connection(environment["DATABASE_URL"])
        ledger = Ledger(stage, f"events-{number}", Mode.REDIS, environment)
        self.worker_pid = ledger.worker.pid
        self.service = Service(ledger, f"events-api-{number}")

    def told(self) -> int:
        """How many events the stream was told so far."""
        return int(self._stage.wait(self._database.fetchval(_TOLD)))

    def wait_until_told(self) -> None:
        """Wait until the stream has everything; ends the run when it does not get there."""
        deadline = time.monotonic() + _CAUGHT_UP_S
        while self._is_told and self._lag_s() > 0:
            if time.monotonic() > deadline:
                raise SystemExit(f"after {_CAUGHT_UP_S:.0f} s the stream has not everything")
            time.sleep(_LOOK_S)

    def _lag_s(self) -> float:
        """How long the oldest event waits that the stream was not told; 0 when none does."""
        rows = self._stage.wait(self._database.fetch(_LAGS))
        return next(float(row["lag_s"] or 0) for row in rows if row["sink"] == "redis")


def measure_events(stage: Stage, rounds: int, seconds: float, say: Say) -> list[Turn]:
    """Drive both in turns; every sample's books are checked."""
    open_accounts(stage, MANY)
    ledgers = {name: Streamed(stage, number, name) for number, name in enumerate((ON, OFF))}
    for name, ledger in ledgers.items():
        for kind, accounts, connections in LOADS:
            warm_up(ledger.service, Cell(name, accounts, connections, kind=kind))
            ledger.wait_until_told()
    pairs = [
        [Cell(name, accounts, connections, kind=kind) for name in (ON, OFF)]
        for kind, accounts, connections in LOADS
    ]
    return [
        _turn(ledgers[cell.competitor], cell, number, seconds, say)
        for number in range(1, PAIRS_A_ROUND * rounds + 1)
        for pair in pairs
        for cell in in_turns(pair, number)
    ]


def lines(turns: Sequence[Turn]) -> list[str]:
    """Write the medians, and the ratios of pairs with their quartiles."""
    table = [
        "| | what | conns | a second | p99 ms | told/s meanwhile | rest after, s | worker, µs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    ratios = [
        "",
        "Medians; told are events, the rest of them so long after the books were checked, and the",
        "worker's CPU is that of an event.",
        "",
        f"Throughput, {ON} to {OFF}:",
        "",
        "| what | conns | pairs | lower quartile | median | upper quartile |",
        "|---|---|---|---|---|---|",
    ]
    for kind, _, connections in LOADS:
        by_name = {name: _of(turns, name, kind, connections) for name in (ON, OFF)}
        table += [_row(name, kind, connections, own) for name, own in by_name.items()]
        pairs = list(zip(by_name[ON], by_name[OFF], strict=True))
        rates = [on.sample.per_second / off.sample.per_second for on, off in pairs]
        quarters = " | ".join(f"{each:.3f}" for each in quantiles(rates, n=4))
        ratios.append(f"| {kind} | {connections} | {len(pairs)} | {quarters} |")
    return table + ratios


def _row(name: str, kind: str, connections: int, turns: Sequence[Turn]) -> str:
    rate = median(turn.sample.per_second for turn in turns)
    late = median(turn.sample.figures.p99_us for turn in turns) / 1_000
    told = median(turn.told_per_second for turn in turns)
    after = median(turn.told_after_s for turn in turns)
    each = median(turn.worker_us for turn in turns)
    figures = f"{rate:,.0f} | {late:.1f} | {told:,.0f} | {after:.1f} | {each:.1f}"
    return f"| {name} | {kind} | {connections} | {figures} |"


def _of(turns: Sequence[Turn], name: str, kind: str, connections: int) -> list[Turn]:
    return [
        turn
        for turn in turns
        for cell in [turn.sample.cell]
        if (cell.competitor, cell.kind, cell.connections) == (name, kind, connections)
    ]


def _turn(ledger: Streamed, cell: Cell, number: int, seconds: float, say: Say) -> Turn:
    before, spent_s = ledger.told(), cpu_s(ledger.worker_pid)
    figures = ledger.service.drive(cell, seconds)
    told = ledger.told() - before
    require(cell, figures, ledger.service.check(cell, figures))
    began = time.monotonic()
    ledger.wait_until_told()
    after_s = time.monotonic() - began
    events = _EVENTS_EACH * cell.rows * figures.accepted
    worker_us = 1e6 * (cpu_s(ledger.worker_pid) - spent_s) / events
    sample = Sample(cell, number, figures)
    say(f"{described(sample)}  {told:,} events told meanwhile, the rest {after_s:.1f} s after")
    return Turn(sample, told, after_s, worker_us)
