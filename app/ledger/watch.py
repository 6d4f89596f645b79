"""Keeps what one API process knows of the ruling epoch fresh, with or without traffic."""

import asyncio
import logging
from contextlib import nullcontext
from typing import TYPE_CHECKING

from app import errors
from app.infra.redis import REDIS_ERRORS
from app.infra.resilience import Breaker, BreakerOpen
from app.ledger.codes import Mode
from app.ledger.mode import ModeKeeper
from app.settings import Reliability

if TYPE_CHECKING:
    from redis.asyncio import Redis

_POLL_S = 1.0
_log = logging.getLogger(__name__)


class ModeWatch:
    """Two loops: one learns who rules, one asks Redis how it is while it decides."""

    def __init__(
        self, mode: ModeKeeper, redis: "Redis", breaker: Breaker, rules: Reliability
    ) -> None:
        """`breaker` is the one that the money calls of this process go through."""
        self._mode = mode
        self._redis = redis
        self._breaker = breaker
        self._rules = rules
        self._news = asyncio.Event()

    def wake(self) -> None:
        """Say that another epoch was announced."""
        self._news.set()

    async def learn_always(self) -> None:
        """Learn who rules, at once when it is announced and at intervals in case it was missed."""
        while True:
            try:
                async with asyncio.timeout(_POLL_S):
                    await self._news.wait()
            except TimeoutError:
                pass
            self._news.clear()
            try:
                await self._mode.learn()
            except errors.LedgerError as error:
                _log.debug("who rules is not known for now: %s", error.detail)
            except Exception:
                _log.exception("who rules could not be read")

    async def ask_redis_always(self) -> None:
        """Ask Redis at intervals, and more often once it failed, until it is done without."""
        while True:
            try:
                is_well = await self._ask()
            except Exception:
                _log.exception("redis could not be asked")
                is_well = False
            interval_ms = (
                self._rules.health_interval_ms if is_well else self._rules.probe_interval_ms
            )
            await asyncio.sleep(interval_ms / 1_000)

    async def _ask(self) -> bool:
        ruling = self._mode.known
        if ruling is None or ruling.mode is not Mode.REDIS:
            return True
        try:
            # An open breaker lets nothing through; this question is how it learns better.
            guard = nullcontext() if self._breaker.is_open else self._breaker.guard()
            with guard:
                async with asyncio.timeout(self._rules.health_timeout_ms / 1_000):
                    await self._redis.ping()
        except (BreakerOpen, *REDIS_ERRORS) as exc:
            _log.warning("redis does not answer a health check: %s", exc)
            await self._mode.fall_back(ruling.epoch)
            return False
        if self._breaker.is_open:
            self._breaker.close()
        return True
