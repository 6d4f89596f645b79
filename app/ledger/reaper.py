"""Ends reservations whose process died between admission and confirm.

An attempt in flight for too long gets a tombstone first, so that no late message can journal it,
and what it holds is released after that; one that was journaled is confirmed.
"""

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

from app import limits
from app.ledger.admission import JOURNALED, RELEASED, Admission, Fenced, Slot
from app.ledger.flights import Flight, flights_of, journaled_among
from app.ledger.keys import account_id_of
from app.ledger.mode import ModeKeeper, Ruling
from app.ledger.store import LedgerStore

_log = logging.getLogger(__name__)


class ReapedCount(NamedTuple):
    """How many reservations were confirmed and released."""

    confirmed: int = 0
    released: int = 0


class Reaper:
    """Looks at what is in flight; ages count on its own clock, from when it first saw them."""

    def __init__(
        self,
        mode: ModeKeeper,
        admission: Admission,
        store: LedgerStore,
        slot: Slot,
        age_ms: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`slot` numbers the reaper's calls; `clock` gives seconds."""
        self._mode = mode
        self._admission = admission
        self._store = store
        self._slot = slot
        self._age_s = age_ms / 1_000
        self._clock = clock
        self._epoch = 0
        self._seen: dict[int, float] = {}

    async def step(self) -> ReapedCount:
        """End what is in flight for too long, a bounded number of attempts.

        Raises `RedisUnavailable` or `PostgresUnavailable`; what is left is for the next step.
        """
        ruling = await self._mode.observe()
        if ruling is None or ruling.epoch != self._epoch:
            self._seen = {}
            self._epoch = ruling.epoch if ruling else 0
        if ruling is None:
            return ReapedCount()
        holders = await self._admission.in_flight(ruling)
        now = self._clock()
        self._seen = {attempt_id: self._seen.get(attempt_id, now) for attempt_id in holders}
        old = [attempt_id for attempt_id, since in self._seen.items() if now - since >= self._age_s]
        confirmed = released = 0
        try:
            for attempt_id in old[: limits.REAP_ATTEMPTS_MAX]:
                reaped = await self._reap(ruling, attempt_id, holders[attempt_id])
                del self._seen[attempt_id]
                confirmed, released = confirmed + reaped.confirmed, released + reaped.released
        except Fenced:
            self._seen = {}
        if confirmed or released:
            _log.warning("reaped: %s confirmed, %s released", confirmed, released)
        return ReapedCount(confirmed, released)

    async def _reap(self, ruling: Ruling, attempt_id: int, keys: str) -> ReapedCount:
        account_ids = list({account_id_of(key) for key in keys.split(" ")})
        is_void = await self._store.void_attempt(attempt_id)
        inspected = await self._admission.inspect(ruling, account_ids)
        held = [
            flight
            for account_id, (_, fields) in inspected.items()
            for flight in flights_of(account_id, fields)
            if flight.attempt_id == attempt_id
        ]
        journaled: frozenset[Flight] = frozenset()
        if not is_void:
            journaled = await journaled_among(self._store.fetch_sql, held)
        outcomes = [
            (flight.account_id, flight.name, JOURNALED if flight in journaled else RELEASED)
            for flight in held
        ]
        await self._admission.confirm_named(ruling, self._slot, attempt_id, outcomes, keys)
        return ReapedCount(len(journaled), len(held) - len(journaled))
