"""Credits that are durable, and that Redis was not told of yet.

Their process may be slow, cut off or dead. A debit that they would cover must not be refused.
"""

from collections.abc import Iterable

from app.ledger.admission import JOURNALED, Admission, Slot
from app.ledger.flights import flights_of, journaled_among
from app.ledger.mode import Ruling
from app.ledger.store import LedgerStore


async def tell_journaled_credits(
    admission: Admission,
    store: LedgerStore,
    ruling: Ruling,
    slot: Slot,
    account_ids: Iterable[str],
) -> set[str]:
    """Confirm credits in flight on accounts that the journal has; returns accounts that got some.

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
    return {flight.account_id for flight in journaled}
