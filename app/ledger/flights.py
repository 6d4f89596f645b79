"""Attempts in flight in Redis, and what the journal says became of them."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from app.ledger.keys import account_id_of
from app.ledger.store import QUERIES

Fetch = Callable[..., Awaitable[Sequence[Any]]]
_CHANGE = frozenset({"change"})
_decode_refused = msgspec.json.Decoder().decode


class Flight(NamedTuple):
    """One reservation: on which account, by which item of whose attempt, and by how much.

    Items are counted from 0 among the admitted ones, as the journal counts them.
    """

    account_id: str
    attempt_id: int
    item_no: int
    change_minor: int


class FlightRecord(NamedTuple):
    """What Redis keeps of an attempt: the keys of its accounts in order, and its reservations."""

    attempt_id: int
    keys: tuple[str, ...]
    flights: tuple[Flight, ...]
    names: frozenset[str]

    @property
    def is_change(self) -> bool:
        """Tell whether this keeps an account still for a change of it, and reserves nothing."""
        return self.names == _CHANGE


def read_record(attempt_id: int, text: str) -> FlightRecord:
    """Read the four lines that `admit` or `stop` wrote."""
    refused_json, keys_text, items_text, names_text = text.split("\n")
    refused = frozenset(_decode_refused(refused_json)[0])
    keys, words = tuple(keys_text.split(" ")), iter(items_text.split(" "))
    flights: list[Flight] = []
    position = 0
    for key in keys:
        account_id = account_id_of(key)
        for _ in range(int(next(words))):
            position += 1
            change_minor = int(next(words))
            if position not in refused:
                flights.append(Flight(account_id, attempt_id, len(flights), change_minor))
    return FlightRecord(attempt_id, keys, tuple(flights), frozenset(names_text.split(" ")))


async def journaled_among(
    fetch: Fetch, records: Iterable[FlightRecord]
) -> dict[int, frozenset[int]]:
    """The attempts that were journaled, each with the numbers of the items that were.

    An item of a journaled attempt is missing where another attempt had taken its key.
    """
    attempts = [record.attempt_id for record in records]
    if not attempts:
        return {}
    rows = await fetch(QUERIES["attempts_journaled"], attempts)
    return {
        row["attempt_id"]: frozenset(
            number for number, change in enumerate(row["changes_minor"]) if change is not None
        )
        for row in rows
    }


def is_journaled(flight: Flight, journaled: Mapping[int, frozenset[int]]) -> bool:
    """Tell whether the journal has a reservation."""
    return flight.item_no in journaled.get(flight.attempt_id, ())


def left_out(record: FlightRecord, journaled: frozenset[int]) -> list[int]:
    """The items of a journaled attempt that the journal does not have."""
    return [flight.item_no for flight in record.flights if flight.item_no not in journaled]
