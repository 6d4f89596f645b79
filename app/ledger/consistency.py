"""The consistency check in the background: verify, write down the result, begin anew where Redis
alone is wrong. PostgreSQL is never changed: what is wrong there needs a person.
"""

import logging

from app.ledger.mode import ModeKeeper
from app.ledger.model import Verification
from app.ledger.store import LedgerStore
from app.ledger.verify import Verifier

_BUDGET_RATIO = 0.8
_log = logging.getLogger(__name__)


class ConsistencyCheck:
    """One step is one verification."""

    def __init__(
        self,
        verifier: Verifier,
        mode: ModeKeeper,
        store: LedgerStore,
        interval_ms: int,
        *,
        may_repair: bool,
    ) -> None:
        """A verification has most of the interval between two, and works a ninth of that."""
        self._verifier = verifier
        self._mode = mode
        self._store = store
        self._budget_s = interval_ms / 1_000 * _BUDGET_RATIO
        self._may_repair = may_repair

    async def step(self) -> Verification:
        """Verify once. Raises `PostgresUnavailable`."""
        verification = await self._verifier.verify(self._budget_s, gently=True)
        await self._store.record(verification)
        for mismatch in verification.mismatches:
            _log.error("verification: %s", mismatch)
        if verification.is_redis_divergent and self._may_repair:
            await self._begin_anew(verification)
        return verification

    async def _begin_anew(self, verification: Verification) -> None:
        await self._mode.learn()
        if self._mode.epoch in (0, verification.epoch):
            await self._mode.settle_ruling(verification.epoch, lost="redis diverged")
