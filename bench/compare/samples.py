"""What is measured and what came of it: cells, samples, and the medians of their rounds."""

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

SERVICE = "this service"
POSTGRES_MODE = "this service, mode postgres"
NAIVE = "naive: a script and an insert each"
EMPTY = "empty handler"
ROW_LOCKS = "row locks (pgbench)"
TRANSACTIONS, TRANSFERS, HOLDS = "transactions", "transfers", "holds"


class Cell(NamedTuple):
    """One line of the table: who is driven, and with what.

    `items` go in a request, transactions or, all or none, transfers, or one hold; `keys` says what
    has an idempotency key, a request or an item.
    """

    competitor: str
    accounts: int
    connections: int
    items: int = 1
    keys: str = "request"
    encoding: str = "json"
    condition: str = ""
    kind: str = TRANSACTIONS

    @property
    def rows(self) -> int:
        """How many rows of the journal a request leaves."""
        return self.items * (1 if self.kind == TRANSACTIONS else 2)


class Figures(NamedTuple):
    """One run of a load: counts of requests, latencies of requests in microseconds."""

    accepted: int
    refused: int
    errors: int
    duration_us: int
    mean_us: int
    p50_us: int
    p95_us: int
    p99_us: int


class Sample(NamedTuple):
    """One run of one cell."""

    cell: Cell
    round: int
    figures: Figures

    @property
    def per_second(self) -> float:
        """Accepted transactions per second, or transfers, or holds."""
        return self.cell.items * self.figures.accepted / (self.figures.duration_us / 1_000_000)


class Median(NamedTuple):
    """The medians of a cell's rounds; latencies in milliseconds."""

    per_second: float
    lowest: float
    highest: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


def medians(samples: Iterable[Sample]) -> dict[Cell, Median]:
    """Summarise the rounds of each cell, in the order the cells were first measured."""
    rounds: dict[Cell, list[Sample]] = {}
    for sample in samples:
        rounds.setdefault(sample.cell, []).append(sample)
    return {cell: _median(each) for cell, each in rounds.items()}


def _median(samples: Sequence[Sample]) -> Median:
    rates = [sample.per_second for sample in samples]
    figures = [sample.figures for sample in samples]
    return Median(
        statistics.median(rates),
        min(rates),
        max(rates),
        statistics.median(each.p50_us for each in figures) / 1_000,
        statistics.median(each.p95_us for each in figures) / 1_000,
        statistics.median(each.p99_us for each in figures) / 1_000,
    )


def percentile(ordered: Sequence[int], percent: float) -> int:
    """The smallest value that at least so many per cent do not exceed (nearest rank)."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def write_raw(path: Path, samples: Iterable[Sample], **facts: object) -> None:
    """Keep every sample, and what else was found out in the run."""
    raw = [
        {**sample.cell._asdict(), "round": sample.round, **sample.figures._asdict()}
        for sample in samples
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**facts, "samples": raw}, indent=1) + "\n")


def described(sample: Sample) -> str:
    """One line for whoever watches the run."""
    cell, figures = sample.cell, sample.figures
    form = f"{cell.items} x {cell.encoding}, key per {cell.keys}" if cell.items > 1 else "single"
    if cell.kind != TRANSACTIONS:
        form = f"{cell.items} {cell.kind}"
    where = f"{cell.competitor}{' ' + cell.condition if cell.condition else ''}"
    return (
        f"{where:38} {cell.accounts:6} acc {cell.connections:4} conns {form:26}"
        f" {sample.per_second:9,.0f}/s  p50 {figures.p50_us / 1000:8.2f}"
        f"  p95 {figures.p95_us / 1000:8.2f}  p99 {figures.p99_us / 1000:8.2f} ms"
    )
