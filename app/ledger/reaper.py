"""Ends reservations whose process died between admission and confirm, and changes of accounts whose
process died between stop and reload.

An attempt in flight for too long gets a tombstone first, so that no late message can journal it,
and what it holds is released after that; one that was journaled is confirmed. A change gets one as
well before it is undone; where PostgreSQL has made it Redis is shown what PostgreSQL has.
"""

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

from app import limits
from app.ledger.admission import JOURNALED, RELEASED, Admission, Fenced, Slot
from app.ledger.codes import Changed
from app.ledger.flights import FlightRecord, journaled_among, left_out
from app.ledger.keys import account_id_of
from app.ledger.mode import ModeKeeper, Ruling
from app.ledger.store import LedgerStore

_log = logging.getLogger(__name__)


class ReapedCount(NamedTuple):
    """How many reservations were confirmed and released, and changes of accounts ended."""

    confirmed: int = 0
    released: int = 0
    changes: int = 0


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
        total = ReapedCount()
        try:
            for attempt_id in old[: limits.REAP_ATTEMPTS_MAX]:
                reaped = await self._reap(ruling, records[attempt_id])
                del self._seen[attempt_id]
                total = ReapedCount(*map(sum, zip(total, reaped, strict=True)))
        except Fenced:
            self._seen = {}
        if any(total):
            _log.warning("reaped: %s confirmed, %s released, %s changes", *total)
        return total

    async def _reap(self, ruling: Ruling, record: FlightRecord) -> ReapedCount:
        if record.is_change:
            await self._end_change(ruling, record)
            return ReapedCount(changes=1)
        count = len(record.flights)
        if await self._store.void_attempt(record.attempt_id):
            await self._confirm(ruling, record, RELEASED, [])
            return ReapedCount(0, count)
        journaled = await journaled_among(self._store.fetch_sql, [record])
        missing = left_out(record, journaled[record.attempt_id])
        await self._confirm(ruling, record, JOURNALED, missing)
        return ReapedCount(count - len(missing), len(missing))

    async def _end_change(self, ruling: Ruling, record: FlightRecord) -> None:
        """End a change whose process died, or is too slow: then it meets its tombstone.

        Only after a change PostgreSQL's figures are Redis's as well: it compared them, and nothing
        was admitted since. Else Redis keeps its own, for it may have lost the record of a debit
        that is in flight yet.
        """
        account_id = account_id_of(record.keys[0])
        shown = None
        if await self._store.void_change(record.attempt_id) is Changed.CHANGED:
            shown = await self._store.account_to_load(account_id)
            if shown is None:
                return
        await self._admission.reload(ruling, self._slot, record.attempt_id, account_id, shown)

    async def _confirm(
        self, ruling: Ruling, record: FlightRecord, outcome: str, others: list[int]
    ) -> None:
        await self._admission.confirm_record(
            ruling, self._slot, record.attempt_id, record.keys, outcome, others
        )
