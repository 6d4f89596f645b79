"""Tells Redis of what is durable and its own process may not have told: it may be slow, cut off or
dead. An accepted credit must be spendable, and a debit that it covers must not be refused.
"""

import contextlib
from collections.abc import Iterable, Mapping

from app import errors
from app.ledger.admission import JOURNALED, Admission, Fenced, Slot
from app.ledger.flights import flights_of, journaled_among
from app.ledger.item import Item
from app.ledger.mode import Ruling
from app.ledger.model import Identity, Transaction
from app.ledger.store import LedgerStore


async def tell_of_repeated(
    admission: Admission,
    ruling: Ruling,
    slot: Slot,
    items: Iterable[Item],
    found: Mapping[Identity, Transaction],
) -> None:
    """Confirm the attempts that journaled repeated requests, if Redis listens.

    A reservation is named after a request's first identity, so only who journaled that one may
    have its reservation confirmed.
    """
    by_attempt: dict[int, list[tuple[Item, str]]] = {}
    for item in items:
        transaction = found.get(item.identities[0]) if item.identities else None
        if transaction is not None:
            by_attempt.setdefault(transaction.attempt_id, []).append((item, JOURNALED))
    with contextlib.suppress(Fenced, errors.RedisUnavailable):
        for attempt_id, outcomes in by_attempt.items():
            await admission.confirm(ruling, slot, attempt_id, outcomes, whole=False)


async def tell_journaled_credits(
    admission: Admission,
    store: LedgerStore,
    ruling: Ruling,
    slot: Slot,
    account_ids: Iterable[str],
) -> set[str]:
    """Confirm credits in flight on accounts that the journal has.

    Returns the accounts that have more to spend now: those that got some, and those whose credits
    were confirmed by somebody else meanwhile.

    Raises `Fenced`, `RedisUnavailable` or `PostgresUnavailable`.
    """
    wanted = list(set(account_ids))
    if not wanted:
        return set()
    inspected = await admission.inspect(ruling, wanted)
    coming = [
        flight
        for account_id, (_, fields) in inspected.items()
        for flight in flights_of(account_id, fields)
        if flight.change_minor > 0
    ]
    journaled = await journaled_among(store.fetch_sql, coming)
    for attempt_id in {flight.attempt_id for flight in journaled}:
        outcomes = [
            (flight.account_id, flight.name, JOURNALED)
            for flight in journaled
            if flight.attempt_id == attempt_id
        ]
        await admission.confirm_named(ruling, slot, attempt_id, outcomes, "part")
    done = set(wanted) - {flight.account_id for flight in coming}
    return done | {flight.account_id for flight in journaled}
