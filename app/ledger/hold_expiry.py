"""Gives back what is held when its time is up; PostgreSQL's clock says when that is."""

import asyncio
import logging
from datetime import UTC, datetime

from app import errors, limits
from app.ledger.admission import Slot
from app.ledger.codes import HoldKind
from app.ledger.hold_store import read_due_holds
from app.ledger.hold_unit import Way, releasing
from app.ledger.holds import Hold, holding_account_id
from app.ledger.mode import ModeKeeper, Ruling
from app.ledger.store import LedgerStore
from app.ledger.unit import Unit, UnitCarrier

_log = logging.getLogger(__name__)
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


class HoldExpiry:
    """One step expires a bounded number of holds, many in a batch."""

    def __init__(
        self,
        mode: ModeKeeper,
        carrier: UnitCarrier,
        store: LedgerStore,
        slot: Slot,
        deadline_s: float,
    ) -> None:
        """`mode` is the carrier's; `slot` numbers the calls."""
        self._mode = mode
        self._carrier = carrier
        self._store = store
        self._slot = slot
        self._deadline_s = deadline_s

    async def step(self) -> int:
        """Expire holds whose time is up; returns how many. What cannot be given back now is for
        the next step, and stops no other.

        Raises `PostgresUnavailable`.
        """
        expired, blocked = 0, 0
        after: tuple[datetime, int] | None = (_BEGINNING, 0)
        for _ in range(limits.HOLD_EXPIRY_ROUNDS_MAX):
            if after is None:
                break
            await self._mode.learn()
            ruling = self._mode.current
            due, after = await read_due_holds(self._store, after, limits.HOLDS_EXPIRED_MAX)
            if due:
                done = await self._expire(ruling, due)
                expired, blocked = expired + done, blocked + len(due) - done
        if blocked:
            _log.warning("%s holds could not be given back yet", blocked)
        return expired

    async def _expire(self, ruling: Ruling, due: list[Hold]) -> int:
        names = {holding_account_id(hold.account.currency) for hold in due}
        holding = await self._store.accounts(list(names))
        way = Way(asyncio.get_running_loop().time() + self._deadline_s, ruling.postgres)
        units: list[Unit] = [
            releasing(
                hold, holding[holding_account_id(hold.account.currency)], HoldKind.EXPIRE, way
            )
            for hold in due
        ]
        await self._carrier.carry(self._slot, units)
        for unit in units:
            unit.fail(errors.AccountBusy())  # where it has no answer
        answers = await asyncio.gather(*(unit.future for unit in units), return_exceptions=True)
        for hold, answer in zip(due, answers, strict=True):
            if isinstance(answer, errors.InvariantViolation):
                _log.error("hold %s cannot be given back: %s", hold.hold_id, answer)
        return sum(not isinstance(answer, BaseException) for answer in answers)
