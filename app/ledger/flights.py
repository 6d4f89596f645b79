"""Reservations in flight in Redis, and what the journal says became of them."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from app.ledger.model import Identity
from app.ledger.store import QUERIES

Fetch = Callable[..., Awaitable[Sequence[Any]]]
_FIELD = "f:"


class Flight(NamedTuple):
    """One reservation: on which account, under which name, whose, and by how much."""

    account_id: str
    name: str
    attempt_id: int
    change_minor: int


def flights_of(account_id: str, fields: Mapping[str, str]) -> list[Flight]:
    """Read the reservations out of an account's hash."""
    flights = []
    for field, value in fields.items():
        if field.startswith(_FIELD):
            attempt_id, change_minor = value.split(" ")
            name = field.removeprefix(_FIELD)
            flights.append(Flight(account_id, name, int(attempt_id), int(change_minor)))
    return flights


async def journaled_among(fetch: Fetch, flights: Iterable[Flight]) -> frozenset[Flight]:
    """Those that were journaled by the very attempt that holds them.

    An item of a journaled attempt is missing from the journal where another attempt had taken its
    key; a request without a key cannot be.
    """
    flights = list(flights)
    if not flights:
        return frozenset()
    attempts = list({flight.attempt_id for flight in flights})
    rows = await fetch(QUERIES["attempts_journaled"], attempts)
    batch_of = {row["attempt_id"]: row["batch_seq"] for row in rows}
    named = {flight: Identity.of_text(flight.name) for flight in flights}
    identities = [identity for identity in named.values() if identity is not None]
    taken = {}
    if batch_of and identities:
        scopes = [identity.scope for identity in identities]
        names = [identity.name for identity in identities]
        rows = await fetch(QUERIES["keys_taken"], scopes, names)
        taken = {Identity(row["scope"], row["name"]): row["batch_seq"] for row in rows}
    return frozenset(
        flight
        for flight, identity in named.items()
        if flight.attempt_id in batch_of
        and (identity is None or taken.get(identity) == batch_of[flight.attempt_id])
    )
