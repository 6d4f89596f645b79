"""Gives the decision back to Redis: only the worker does, after good probes, and more slowly each
time a Redis did not last.
"""

import asyncio
import logging
from typing import TYPE_CHECKING
from uuid import uuid4

from app import errors
from app.infra.redis import REDIS_ERRORS, RedisIdentity, read_identity
from app.ledger.codes import Mode
from app.ledger.keys import probe_key
from app.ledger.mode import ModeKeeper
from app.ledger.store import SHARD, LedgerStore
from app.settings import Reliability

if TYPE_CHECKING:
    from redis.asyncio import Redis

_WAIT_FIRST_MS = 1_000
_DOUBLINGS_MAX = 20
_PROBE_TTL_MS = 60_000
_log = logging.getLogger(__name__)


class Recovery:
    """Watches a Redis that does not decide."""

    def __init__(
        self, mode: ModeKeeper, redis: "Redis", store: LedgerStore, rules: Reliability
    ) -> None:
        """`redis` is a client whose waits are as short as a probe's."""
        self._mode = mode
        self._redis = redis
        self._store = store
        self._rules = rules
        self._good: list[RedisIdentity] = []
        self._probe = uuid4().hex

    async def step(self) -> None:
        """Probe once where that is called for, and open an epoch after enough good answers.

        Raises `PostgresUnavailable`, `InstanceOutdated` or `UnusableDatabase`.
        """
        state = await self._mode.read_state()
        forced = state["forced_mode"]
        is_wanted = self._rules.auto_recovery or forced == Mode.REDIS
        if state["mode"] != Mode.POSTGRES or forced == Mode.POSTGRES or not is_wanted:
            self._good.clear()
            return
        identity = await self._answer()
        if identity is None or (self._good and self._good[-1] != identity):
            self._good.clear()
        if identity is not None:
            self._good = [*self._good, identity][-self._rules.probes :]
        if len(self._good) < self._rules.probes:
            return
        if forced != Mode.REDIS and state["age_ms"] < await self._wait_ms():
            return
        self._good.clear()
        try:
            await self._mode.open_redis(state["epoch"], "redis is back")
        except errors.RedisUnavailable as error:
            _log.warning("redis went away again: %s", error.detail)

    async def _answer(self) -> RedisIdentity | None:
        """Ask Redis who it is and whether it takes a write; None when it is not fit to decide."""
        try:
            async with asyncio.timeout(self._rules.health_timeout_ms / 1_000):
                identity = await read_identity(self._redis)
                await self._redis.set(probe_key(SHARD), self._probe, px=_PROBE_TTL_MS)
        except (errors.RedisUnavailable, *REDIS_ERRORS):
            return None
        except errors.UnusableRedis as error:
            _log.warning("%s", error.detail)
            return None
        return identity

    async def _wait_ms(self) -> int:
        """How long PostgreSQL decides at least: longer the more epochs of Redis were short."""
        short = await self._store.short_redis_epochs(self._rules.stable_after_ms)
        if short == 0:
            return 0
        wait_ms: int = _WAIT_FIRST_MS * 2 ** min(short - 1, _DOUBLINGS_MAX)
        return min(wait_ms, self._rules.recovery_wait_max_ms)
