"""Tells Redis of what is durable and its own process may not have told: it may be slow, cut off or
dead. An accepted credit must be spendable, and a debit that it covers must not be refused.
"""

import contextlib
from collections.abc import Iterable, Mapping

from app import errors
from app.ledger.admission import JOURNALED, Admission, Fenced, Slot
from app.ledger.flights import FlightRecord, journaled_among, left_out
from app.ledger.group_store import Accepted
from app.ledger.item import Item
from app.ledger.mode import Ruling
from app.ledger.model import Identity
from app.ledger.store import LedgerStore


class Telling:
    """Confirms journaled attempts, whoever sent them."""

    def __init__(self, admission: Admission, store: LedgerStore) -> None:
        """Put the parts together; does no I/O."""
        self._admission = admission
        self._store = store

    async def tell_of_repeated(
        self,
        ruling: Ruling,
        slot: Slot,
        items: Iterable[Item],
        found: Mapping[Identity, Accepted | None],
    ) -> None:
        """Confirm the attempts that journaled repeated requests, if Redis listens."""
        accepted = [found.get(each) for item in items for each in item.identities]
        attempts = {each.attempt_id for each in accepted if each is not None}
        if attempts:
            with contextlib.suppress(Fenced, errors.RedisUnavailable):
                await self._tell(ruling, slot, await self._admission.in_flight(ruling, attempts))

    async def tell_of_credits(
        self, ruling: Ruling, slot: Slot, account_ids: Iterable[str]
    ) -> set[str]:
        """Confirm attempts with credits in flight on accounts, those that the journal has.

        Returns the accounts that have more to spend now: those that got some, and those whose
        credits were confirmed by somebody else meanwhile.

        Raises `Fenced`, `RedisUnavailable` or `PostgresUnavailable`.
        """
        wanted = set(account_ids)
        if not wanted:
            return set()
        coming = {
            record: {flight.account_id for flight in record.flights if flight.change_minor > 0}
            for record in await self._admission.in_flight(ruling)
        }
        coming = {record: accounts & wanted for record, accounts in coming.items()}
        journaled = await self._tell(ruling, slot, [each for each in coming if coming[each]])
        told = [coming[record] for record in coming if record.attempt_id in journaled]
        return (wanted - set().union(*coming.values())) | set().union(*told)

    async def _tell(
        self, ruling: Ruling, slot: Slot, records: Iterable[FlightRecord]
    ) -> frozenset[int]:
        """Confirm those of these attempts that the journal has; returns which they are."""
        records = list(records)
        journaled = await journaled_among(self._store.fetch_sql, records)
        for record in records:
            if record.attempt_id in journaled:
                await self._admission.confirm_record(
                    ruling,
                    slot,
                    record.attempt_id,
                    record.keys,
                    JOURNALED,
                    left_out(record, journaled[record.attempt_id]),
                )
        return frozenset(journaled)
