"""What one round measures, in which order: rivals at the same load stand next to one another."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bench.compare.row_locks import CLIENTS
from bench.compare.samples import EMPTY, NAIVE, POSTGRES_MODE, ROW_LOCKS, SERVICE, Cell

ACCOUNTS = (1, 5, 10_000)
CONNECTIONS = (1, 64, 256)
HTTP_RIVALS = (EMPTY, NAIVE, POSTGRES_MODE, SERVICE)
# Items in a request and connections. With more of them than the service's queue has room for it
# answers some with 503, which is no measure of anything.
BATCH_LOADS = ((100, 64), (1_000, 4), (8_000, 2))
OTHER_BATCH_LOADS = ((100, 1), (100, 128), (1_000, 1), (1_000, 16), (8_000, 1))
COMPARED_BATCH = (1_000, 4)
SECTIONS = ("row-locks", "single", "batch")


class Selection(NamedTuple):
    """Which part of the table is wanted."""

    sections: Sequence[str] = SECTIONS
    accounts: Sequence[int] = ACCOUNTS
    connections: Sequence[int] = CONNECTIONS


def cells(selection: Selection) -> list[Cell]:
    """List the cells of a round."""
    found: list[Cell] = []
    for accounts in selection.accounts:
        if "row-locks" in selection.sections:
            found += [Cell(ROW_LOCKS, accounts, clients) for clients in CLIENTS]
        if "single" in selection.sections:
            found += _single(accounts, selection.connections)
        if "batch" in selection.sections:
            found += _batches(accounts)
    return found


def in_turns(wanted: Sequence[Cell], number: int) -> Sequence[Cell]:
    """Order a round: every other one goes backwards, so that nobody is always after the same."""
    return wanted[:: 1 if number % 2 else -1]


def _single(accounts: int, connections: Sequence[int]) -> Iterator[Cell]:
    for each in connections:
        for competitor in HTTP_RIVALS:
            # It knows no accounts, so it is measured with the first number of them only.
            if competitor != EMPTY or accounts == ACCOUNTS[0]:
                yield Cell(competitor, accounts, each)


def _batches(accounts: int) -> Iterator[Cell]:
    hot = accounts == ACCOUNTS[0]
    for items, connections in BATCH_LOADS:
        for keys in ("request", "item"):
            yield Cell(SERVICE, accounts, connections, items, keys)
            if hot:
                yield Cell(SERVICE, accounts, connections, items, keys, "msgpack")
        if (items, connections) == COMPARED_BATCH:
            yield Cell(POSTGRES_MODE, accounts, connections, items)
    if hot:
        for items, connections in OTHER_BATCH_LOADS:
            yield Cell(SERVICE, accounts, connections, items)
