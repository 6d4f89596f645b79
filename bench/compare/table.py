"""The table: one line for each cell, with its ratio to each rival at the same load."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bench.compare.plan import ACCOUNTS
from bench.compare.samples import (
    EMPTY,
    HOLDS,
    NAIVE,
    POSTGRES_MODE,
    ROW_LOCKS,
    TRANSFERS,
    Cell,
    Median,
)

BASE_CLIENTS = 64
MISSING = "-"
_HEAD = (
    "accounts", "form", "conns", "who", "tx/s, median", "lowest to highest", "p50 / p95 / p99 ms",
    f"to row locks at {BASE_CLIENTS}", "to row locks at best", "to naive", "to empty handler",
    "to mode postgres",
)  # fmt: skip
Medians = Mapping[Cell, Median]


class Ratio(NamedTuple):
    """A rate beside the one it is compared with."""

    rate: float
    base: float

    @property
    def value(self) -> float:
        """How many times as much."""
        return self.rate / self.base


def locks_at(medians: Medians, accounts: int, clients: int) -> float | None:
    """The rate of row locks on so many accounts by so many clients."""
    median = medians.get(Cell(ROW_LOCKS, accounts, clients))
    return median.per_second if median else None


def locks_at_best(medians: Medians, accounts: int) -> float | None:
    """The rate of row locks on so many accounts with the client count that serves it best."""
    rates = [
        median.per_second
        for cell, median in medians.items()
        if (cell.competitor, cell.accounts, cell.condition) == (ROW_LOCKS, accounts, "")
    ]
    return max(rates, default=None)


def naive_at(medians: Medians, cell: Cell) -> float | None:
    """The naive design's rate at the load of a cell; for a batch, at its best connection count."""
    if cell.items == 1:
        median = medians.get(Cell(NAIVE, cell.accounts, cell.connections, condition=cell.condition))
        return median.per_second if median else None
    rates = [
        median.per_second
        for other, median in medians.items()
        if (other.competitor, other.accounts) == (NAIVE, cell.accounts)
    ]
    return max(rates, default=None)


def empty_at(medians: Medians, cell: Cell) -> float | None:
    """The empty handler's rate at as many connections; it knows no accounts and no batches."""
    median = medians.get(Cell(EMPTY, ACCOUNTS[0], cell.connections))
    return median.per_second if median and cell.items == 1 else None


def mode_at(medians: Medians, cell: Cell) -> float | None:
    """The rate of this service in mode postgres at the very same load."""
    median = medians.get(cell._replace(competitor=POSTGRES_MODE))
    return median.per_second if median else None


def ratio(medians: Medians, cell: Cell, base: float | None) -> Ratio | None:
    """How a cell stands to a base; None where either was not measured."""
    median = medians.get(cell)
    return Ratio(median.per_second, base) if median and base else None


def lines(medians: Medians, absent: Mapping[str, str]) -> list[str]:
    """Write the table; a rival that could not be measured has a line that says why.

    A column that says nothing of any cell is left out.
    """
    rows = [_parts(medians, cell) for cell in sorted(medians, key=_order)]
    for who, why in absent.items():
        row = [MISSING, MISSING, MISSING, who, f"not measured: {why}"]
        rows.append([*row, *[MISSING] * (len(_HEAD) - len(row))])
    kept = [n for n in range(len(_HEAD)) if any(row[n] != MISSING for row in rows)]
    table: list[Sequence[str]] = [_HEAD, ["---"] * len(_HEAD), *rows]
    return [f"| {' | '.join(row[n] for n in kept)} |" for row in table]


def form_of(cell: Cell) -> str:
    """Say in words what a request holds."""
    if cell.kind == TRANSFERS:
        return "transfer" if cell.items == 1 else f"group of {cell.items:,} transfers"
    if cell.kind == HOLDS:
        return "hold"
    if cell.items == 1:
        return "single"
    encoding = {"json": "JSON", "msgpack": "MessagePack"}[cell.encoding]
    return f"{cell.items:,} a request, {encoding}, a key per {cell.keys}"


def _parts(medians: Medians, cell: Cell) -> list[str]:
    median = medians[cell]
    bases = (
        locks_at(medians, cell.accounts, BASE_CLIENTS),
        locks_at_best(medians, cell.accounts),
        naive_at(medians, cell),
        empty_at(medians, cell),
        mode_at(medians, cell),
    )
    return [
        f"{cell.accounts:,}" if cell.competitor != EMPTY else "any",
        form_of(cell),
        f"{cell.connections:,}",
        f"{cell.competitor}{', ' + cell.condition if cell.condition else ''}",
        f"{median.per_second:,.0f}",
        f"{median.lowest:,.0f} to {median.highest:,.0f}",
        f"{median.p50_ms:.2f} / {median.p95_ms:.2f} / {median.p99_ms:.2f}",
        *(shown(ratio(medians, cell, base)) for base in bases),
    ]


def shown(found: Ratio | None) -> str:
    """Write a ratio, or that there is none."""
    return f"{found.value:.2f}" if found else MISSING


def _order(cell: Cell) -> tuple[int, int, str, int, str, str, bool, str]:
    is_http = cell.competitor != ROW_LOCKS
    return (cell.accounts, cell.items, cell.kind, cell.connections if is_http else 0, cell.keys,
            cell.encoding, is_http, cell.competitor)  # fmt: skip
