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
from app.ledger.flights import FlightRecord, journaled_among, left_out
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
        records = {record.attempt_id: record for record in await self._admission.in_flight(ruling)}
        now = self._clock()
        self._seen = {attempt_id: self._seen.get(attempt_id, now) for attempt_id in records}
        old = [attempt_id for attempt_id, since in self._seen.items() if now - since >= self._age_s]
        confirmed = released = 0
        try:
            for attempt_id in old[: limits.REAP_ATTEMPTS_MAX]:
                reaped = await self._reap(ruling, records[attempt_id])
                del self._seen[attempt_id]
                confirmed, released = confirmed + reaped.confirmed, released + reaped.released
        except Fenced:
            self._seen = {}
        if confirmed or released:
            _log.warning("reaped: %s confirmed, %s released", confirmed, released)
        return ReapedCount(confirmed, released)

    async def _reap(self, ruling: Ruling, record: FlightRecord) -> ReapedCount:
        count = len(record.flights)
        if await self._store.void_attempt(record.attempt_id):
            await self._confirm(ruling, record, RELEASED, [])
            return ReapedCount(0, count)
        journaled = await journaled_among(self._store.fetch_sql, [record])
        missing = left_out(record, journaled[record.attempt_id])
        await self._confirm(ruling, record, JOURNALED, missing)
        return ReapedCount(count - len(missing), len(missing))

    async def _confirm(
        self, ruling: Ruling, record: FlightRecord, outcome: str, others: list[int]
    ) -> None:
        await self._admission.confirm_record(
            ruling, self._slot, record.attempt_id, record.keys, outcome, others
        )
