"""Gives back what is held when its time is up; PostgreSQL's clock says when that is."""

import asyncio
import logging

from app import errors, limits
from app.ledger.admission import Slot
from app.ledger.codes import HoldKind
from app.ledger.group import GroupCarrier, Unit
from app.ledger.hold_store import read_due_holds
from app.ledger.hold_unit import Way, releasing
from app.ledger.holds import Hold, holding_account_id
from app.ledger.mode import ModeKeeper
from app.ledger.store import LedgerStore

_log = logging.getLogger(__name__)


class HoldExpiry:
    """One step expires a bounded number of holds, in batches of their own."""

    def __init__(
        self,
        mode: ModeKeeper,
        carrier: GroupCarrier,
        store: LedgerStore,
        slot: Slot,
        deadline_s: float,
    ) -> None:
        """`mode` is the carrier's, and falls back for nobody; `slot` numbers the calls."""
        self._mode = mode
        self._carrier = carrier
        self._store = store
        self._slot = slot
        self._deadline_s = deadline_s

    async def step(self) -> int:
        """Expire holds whose time is up; returns how many. What another act ended meanwhile, or
        what cannot be given back now, is for the next step.

        Raises `PostgresUnavailable`.
        """
        due = await read_due_holds(self._store, limits.HOLDS_EXPIRED_MAX)
        if not due:
            return 0
        await self._mode.learn()
        postgres = self._mode.current.postgres
        names = {holding_account_id(hold.account.currency) for hold in due}
        holding = await self._store.accounts(list(names))
        way = Way(asyncio.get_running_loop().time() + self._deadline_s, postgres)
        units: list[Unit] = [
            releasing(
                hold, holding[holding_account_id(hold.account.currency)], HoldKind.EXPIRE, way
            )
            for hold in due
        ]
        for unit in await self._carrier.carry(self._slot, units):
            unit.fail(errors.AccountBusy())
        answers = await asyncio.gather(*(unit.future for unit in units), return_exceptions=True)
        return sum(_is_expired(hold, answer) for hold, answer in zip(due, answers, strict=True))


def _is_expired(hold: Hold, answer: object) -> bool:
    if isinstance(answer, BaseException) and not isinstance(answer, errors.HoldChanged):
        _log.warning("hold %s has not expired: %s", hold.hold_id, answer)
    return not isinstance(answer, BaseException)
