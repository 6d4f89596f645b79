"""How this instance and the parts it works with are; every question is bounded."""

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from app import errors
from app.infra.redis import read_identity
from app.infra.resilience import Breaker
from app.ledger.batcher import Batcher
from app.ledger.codes import Mode
from app.ledger.mode import ModeKeeper
from app.ledger.model import ComponentHealth, HealthFacts, LedgerHealth
from app.ledger.store import LedgerStore
from app.settings import Settings

if TYPE_CHECKING:
    from redis.asyncio import Redis

_LAG_INTERVALS_MAX = 3


class HealthCheck:
    """Asks every part how it is."""

    def __init__(
        self,
        settings: Settings,
        store: LedgerStore,
        batchers: Sequence[Batcher[Any]],
        mode: ModeKeeper,
        breaker: Breaker,
        redis: "Redis",
    ) -> None:
        """`redis` is a client for questions only."""
        self._settings = settings
        self._store = store
        self._batchers = batchers
        self._mode = mode
        self._breaker = breaker
        self._redis = redis

    async def ask(self) -> LedgerHealth:
        """Ask; bounded by the parts' own time-outs."""
        redis, (postgres, facts) = await asyncio.gather(self._ask_redis(), self._ask_postgres())
        ruling, running = self._mode.known, self._is_running
        decides = ruling is not None and (
            ruling.mode is Mode.POSTGRES
            or (ruling.mode is Mode.REDIS and (redis.ok or self._may_fall_back(facts)))
            or self._is_read_only(facts)
        )
        breaker = ComponentHealth(ok=not self._breaker.is_open, detail=self._breaker.state)
        features, rules = self._settings.http, self._settings.reliability
        return LedgerHealth(
            components={
                "redis": redis,
                "postgres": postgres,
                "circuit_breaker": breaker,
                "settler": self._settler(facts.settler_lag_ms),
                "admission": self._admission(),
            },
            mode=ruling.mode.value if ruling else "unknown",
            epoch=self._mode.epoch,
            settler_lag_ms=facts.settler_lag_ms,
            queue_items=sum(each.waiting_count for each in self._batchers),
            ready=decides and postgres.ok and running and not self._mode.is_outdated,
            features={
                "redis_fallback": rules.redis_fallback,
                "circuit_breaker": rules.circuit_breaker,
                "data_consistency_check": rules.consistency_check,
                "auto_recovery": rules.auto_recovery,
                "graceful_shutdown": True,
                "test_mode": features.enable_test_mode,
            },
            controls=facts.controls,
            consistency=facts.consistency,
        )

    @property
    def _is_running(self) -> bool:
        return all(each.is_running for each in self._batchers)

    def _is_read_only(self, facts: HealthFacts) -> bool:
        """Reads go on in a ledger that is read-only; one that is drained is to be left alone."""
        controls = facts.controls
        return controls is not None and controls.closed and controls.last_action != "drain"

    def _may_fall_back(self, facts: HealthFacts) -> bool:
        is_forced = facts.controls is not None and facts.controls.forced_mode == Mode.REDIS
        return self._settings.reliability.redis_fallback and not is_forced

    def _settler(self, lag_ms: int) -> ComponentHealth:
        interval_ms = self._settings.ledger.settlement_interval_ms
        return ComponentHealth(
            ok=0 <= lag_ms <= _LAG_INTERVALS_MAX * interval_ms,
            detail=f"oldest pending movement is {lag_ms} ms old" if lag_ms >= 0 else "unknown",
        )

    def _admission(self) -> ComponentHealth:
        waiting = max(each.waiting_count for each in self._batchers)
        running = self._is_running
        if self._mode.is_outdated:
            return ComponentHealth(ok=False, detail="a newer version of the service rules")
        return ComponentHealth(
            ok=running and waiting < self._settings.ledger.queue_items,
            detail=f"{waiting} requests wait" if running else "a slot has ended",
        )

    async def _ask_redis(self) -> ComponentHealth:
        started = time.perf_counter()
        try:
            identity = await read_identity(self._redis)
        except errors.LedgerError as error:
            return ComponentHealth(ok=False, detail=error.detail)
        latency_ms = (time.perf_counter() - started) * 1_000
        ruling = self._mode.known
        if ruling is None or ruling.mode is not Mode.REDIS:
            return ComponentHealth(True, "answers and does not decide", latency_ms)
        if identity != ruling.identity:
            return ComponentHealth(False, "no epoch is open for this Redis", latency_ms)
        return ComponentHealth(True, "decides", latency_ms)

    async def _ask_postgres(self) -> tuple[ComponentHealth, HealthFacts]:
        started = time.perf_counter()
        try:
            facts = await self._store.health_facts()
        except errors.LedgerError as error:
            return ComponentHealth(ok=False, detail=error.detail), HealthFacts(settler_lag_ms=-1)
        latency_ms = (time.perf_counter() - started) * 1_000
        if facts.is_standby:
            return ComponentHealth(False, "is a standby and takes no writes", latency_ms), facts
        return ComponentHealth(True, "answers", latency_ms), facts
