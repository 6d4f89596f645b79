"""The marks a run is held to: what was obtained, computed from samples, and whether it is met."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from bench.compare.samples import EMPTY, NAIVE, SERVICE, Cell
from bench.compare.table import (
    BASE_CLIENTS,
    Medians,
    Ratio,
    empty_at,
    locks_at,
    locks_at_best,
    naive_at,
    ratio,
)

BUSY = (64, 256)
HOT, MANY = 1, 10_000
LOCKS_TIMES, NAIVE_TIMES, EMPTY_SHARE, EMPTY_STRETCH = 15.0, 8.0, 0.75, 1.0
MANY_LOCKS_TIMES = 1.5
BATCH_ITEMS = 1_000
BATCH_RATES = {"request": (80_000, 130_000), "item": (50_000, 80_000)}
ALONE_TIMES = 1.0


class Mark(NamedTuple):
    """One demand; `obtained` is None where a part of it was not measured.

    `lowest` is how low it may truly be where only noise stands between it and what is wanted.
    """

    demand: str
    what: str
    obtained: float | None
    wanted: float
    stretch: float | None = None
    at_most: bool = False
    note: str = ""
    lowest: float | None = None

    @property
    def verdict(self) -> str:
        """Say whether it is met."""
        if self.obtained is None:
            return "not measured"
        if not self._reaches(self.wanted):
            within = self.at_most and self.lowest is not None and self.lowest <= self.wanted
            return "met within the noise" if within else "NOT met"
        return "met, stretch too" if self.stretch and self._reaches(self.stretch) else "met"

    def _reaches(self, wanted: float) -> bool:
        if self.obtained is None:
            return False
        return self.obtained <= wanted if self.at_most else self.obtained >= wanted


class Alone(NamedTuple):
    """What one connection waits for an answer, beside the same code unbatched, turn by turn.

    `lowest` and `highest` bound the median at 95 % confidence.
    """

    p50_ratio: float
    lowest: float
    highest: float
    turns: int


def marks(medians: Medians, ceilings: Mapping[str, float], alone: Alone | None) -> list[Mark]:
    """Compute every mark that this run can say something about."""
    return [
        *_hot(medians),
        *_many(medians),
        *_batches(medians, ceilings),
        _alone(alone),
        _alone_to_naive(medians),
    ]


def _hot(medians: Medians) -> Iterator[Mark]:
    for connections in BUSY:
        cell = Cell(SERVICE, HOT, connections)
        where = f"single, one hot account, {connections} connections"
        base = locks_at(medians, HOT, BASE_CLIENTS)
        demand = f"1: {where}: times row locks at {BASE_CLIENTS} clients"
        yield _times(demand, ratio(medians, cell, base), LOCKS_TIMES)
        demand = f"1: {where}: times {NAIVE}"
        yield _times(demand, ratio(medians, cell, naive_at(medians, cell)), NAIVE_TIMES)
        demand = f"1: {where}: share of the {EMPTY}'s rate"
        empty = ratio(medians, cell, empty_at(medians, cell))
        yield _times(demand, empty, EMPTY_SHARE, EMPTY_STRETCH)


def _many(medians: Medians) -> Iterator[Mark]:
    for connections in BUSY:
        cell = Cell(SERVICE, MANY, connections)
        found = ratio(medians, cell, locks_at_best(medians, MANY))
        demand = f"2: single, {MANY:,} accounts, {connections} connections: times row locks at best"
        yield _times(demand, found, MANY_LOCKS_TIMES)


def _batches(medians: Medians, ceilings: Mapping[str, float]) -> Iterator[Mark]:
    for keys, (wanted, stretch) in BATCH_RATES.items():
        note = "; ".join(
            f"{name}: {rate:,.0f}/s" for name, rate in ceilings.items() if name.endswith(keys)
        )
        rates = {
            cell: median.per_second
            for cell, median in medians.items()
            if (cell.competitor, cell.items, cell.keys, cell.encoding, cell.accounts)
            == (SERVICE, BATCH_ITEMS, keys, "json", HOT)
        }
        best = max(rates, key=lambda cell: rates[cell]) if rates else None
        where = f" ({best.connections} connections)" if best else ""
        yield Mark(
            f"3: batches of {BATCH_ITEMS:,}, JSON, one hot account, a key per {keys}: tx/s{where}",
            f"{rates[best]:,.0f}/s" if best else "",
            rates[best] if best else None,
            wanted,
            stretch,
            note=note,
        )


def _alone(alone: Alone | None) -> Mark:
    demand = "5: one connection: p50 to that of the same code unbatched, in turns"
    if alone is None:
        return Mark(demand, "", None, ALONE_TIMES, at_most=True)
    note = (
        f"median of {alone.turns} turns, at 95 % confidence between {alone.lowest:.3f}"
        f" and {alone.highest:.3f}"
    )
    what = f"{alone.p50_ratio:.3f}"
    return Mark(
        demand, what, alone.p50_ratio, ALONE_TIMES, at_most=True, note=note, lowest=alone.lowest
    )


def _alone_to_naive(medians: Medians) -> Mark:
    demand = f"5: one connection: p50 to that of {NAIVE}"
    ours, theirs = medians.get(Cell(SERVICE, HOT, 1)), medians.get(Cell(NAIVE, HOT, 1))
    if ours is None or theirs is None:
        return Mark(demand, "", None, ALONE_TIMES, at_most=True)
    found = ours.p50_ms / theirs.p50_ms
    what = f"{found:.2f} = {ours.p50_ms:.2f} / {theirs.p50_ms:.2f} ms"
    return Mark(demand, what, found, ALONE_TIMES, at_most=True)


def _times(demand: str, found: Ratio | None, wanted: float, stretch: float | None = None) -> Mark:
    what = f"{found.value:.2f} = {found.rate:,.0f} / {found.base:,.0f}" if found else ""
    return Mark(demand, what, found.value if found else None, wanted, stretch)


def lines(found: list[Mark]) -> list[str]:
    """Write the marks as a table."""
    table = ["| mark | obtained | wanted | verdict | beside it |", "|---|---|---|---|---|"]
    for mark in found:
        sign = "at most" if mark.at_most else "at least"
        wanted = f"{sign} {mark.wanted:,g}"
        wanted += f", stretch {mark.stretch:,g}" if mark.stretch else ""
        table.append(f"| {mark.demand} | {mark.what} | {wanted} | {mark.verdict} | {mark.note} |")
    return table
