"""How long Redis's death and its return are felt: measured from the client's side, under load.

Each round kills Redis and starts it again, empty, after a moment. A Redis that keeps dying is given
the decision back more and more slowly, on purpose; so the first series makes every failure a first
one (an epoch counts as stable after a second), and the second shows that growth with the defaults.
"""

import asyncio
import random
import statistics
import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import asyncpg

from tests.cluster import Cluster
from tests.drills.history import History
from tests.drills.integrity import Check, all_passed, check_integrity
from tests.drills.load import Load, open_accounts
from tests.drills.observed import Observed, first_accepted_at, observe_quiet
from tests.drills.service import (
    Options,
    bring_to_rest,
    private_cluster,
    start_service,
    wait_for,
    wait_for_redis,
)

DOWN_S = 1.5
STABLE_S = 1.0
_STABLE_MARGIN_S = 0.3
_JITTER_S = 0.5
_RETURN_TIMEOUT_S = 30.0
_RECOVERY_TIMEOUT_S = 120.0
_QUIET_TIMEOUT_S = 30.0
FIRST_FAILURES = {"SUBBALANCE_STABLE_AFTER": f"{STABLE_S:g}s"}
_CALM = """
    SELECT mode = 'redis' AND changed_at < clock_timestamp() - make_interval(secs => $1)
      FROM ledger_shards
"""
_EPOCHS = "SELECT epoch, mode, reason FROM ledger_epochs ORDER BY epoch"
_DECIDED_BY_REDIS = """
    SELECT EXISTS (SELECT FROM journal_batches
                    WHERE mode = 'redis' AND epoch > $1 AND status <> 'VOID')
"""


class Kill(NamedTuple):
    """What was done to Redis in one round; instants are seconds of the monotonic clock."""

    epoch: int
    killed_at: float
    back_at: float


class Round(NamedTuple):
    """What clients felt of one round, None where it never came, and how many epochs it took: two,
    unless somebody changed his mind.
    """

    number: int
    down_ms: int
    epochs: int
    to_postgres_ms: int | None
    to_redis_ms: int | None


@dataclass(slots=True)
class Series:
    """Rounds under one choice of settings."""

    name: str
    environment: dict[str, str]
    wanted: int
    rounds: list[Round] = field(default_factory=list)
    epochs: list[tuple[int, str, str]] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Tell whether every round recovered and every balance is exact."""
        complete = all(
            round_.to_postgres_ms is not None and round_.to_redis_ms is not None
            for round_ in self.rounds
        )
        return len(self.rounds) == self.wanted and complete and all_passed(self.checks)

    def figures(self, name: str) -> dict[str, int | None]:
        """Median and worst of one measure, None when a round never got there."""
        values: list[int | None] = [getattr(round_, name) for round_ in self.rounds]
        known = [value for value in values if value is not None]
        if not known or len(known) < len(values):
            return {"median_ms": None, "worst_ms": None}
        return {"median_ms": round(statistics.median(known)), "worst_ms": max(known)}

    def record(self) -> dict[str, Any]:
        """Everything as plain values for JSON."""
        return {
            "name": self.name,
            "settings": self.environment,
            "passed": self.passed,
            "to_postgres": self.figures("to_postgres_ms"),
            "to_redis": self.figures("to_redis_ms"),
            "rounds": [round_._asdict() for round_ in self.rounds],
            "epochs": self.epochs,
            "checks": [check._asdict() for check in self.checks],
        }


async def measure_first_failures(options: Options, rounds: int) -> Series:
    """Measure failures that each find the service as if Redis had never failed before."""
    series = Series("first failures", {**FIRST_FAILURES, **options.environment}, rounds)
    return await _measure(series, options, STABLE_S + _STABLE_MARGIN_S)


async def measure_repeated_failures(options: Options, rounds: int) -> Series:
    """Measure a Redis that dies again at once, with the default settings."""
    return await _measure(Series("repeated failures", dict(options.environment), rounds), options)


async def _measure(series: Series, options: Options, calm_s: float = 0.0) -> Series:
    """Kill and start Redis some times under load; `calm_s` is how long it is let live before."""
    draw = random.Random(f"{options.seed}:{series.name}")
    with private_cluster(options, series.environment) as cluster:
        history, kills = History(), []
        urls = await start_service(cluster, options.instances)
        await open_accounts(urls[0], history)
        load = Load(
            urls,
            history,
            connections=options.connections,
            per_second=options.per_second,
            seed=options.seed,
        )
        database = await asyncpg.connect(cluster.postgres.url)
        async with load:
            load.start()
            await _redis_decides(database, 0)
            for _ in range(series.wanted):
                # A kill must not keep step with probes and settlements.
                if not await _is_calm(database, calm_s + draw.uniform(0, _JITTER_S)):
                    break
                kills.append(await _kill(cluster, database))
            await bring_to_rest(load, urls)
        series.epochs = [tuple(row) for row in await database.fetch(_EPOCHS)]
        await database.close()
        observed = await observe_quiet(
            cluster.postgres.url, cluster.redis.url, urls, _QUIET_TIMEOUT_S
        )
        followers = [*(kill.epoch for kill in kills[1:]), observed.epoch]
        series.rounds = [
            _felt(number, kill, follower - kill.epoch, history, observed)
            for number, (kill, follower) in enumerate(zip(kills, followers, strict=bool(kills)), 1)
        ]
        series.checks = check_integrity(history, observed)
        return series


async def _kill(cluster: Cluster, database: asyncpg.Connection) -> Kill:
    """Kill Redis, start it again a moment later, and wait until it decides again."""
    epoch = await database.fetchval("SELECT epoch FROM ledger_shards")
    killed_at = time.monotonic()
    await cluster.apart(cluster.redis.kill)
    await asyncio.sleep(DOWN_S)
    answering = asyncio.create_task(wait_for_redis(cluster.redis.port, _RETURN_TIMEOUT_S))
    await cluster.apart(cluster.redis.start)
    back_at = await answering
    await _redis_decides(database, epoch)
    return Kill(epoch, killed_at, back_at)


async def _is_calm(database: asyncpg.Connection, calm_s: float) -> bool:
    """Wait until Redis has decided for some time without a break."""

    async def is_calm() -> bool:
        return bool(await database.fetchval(_CALM, calm_s))

    return await wait_for(is_calm, _RECOVERY_TIMEOUT_S)


async def _redis_decides(database: asyncpg.Connection, above_epoch: int) -> bool:
    """Wait until a movement is journaled that Redis admitted in an epoch above one."""

    async def is_decided() -> bool:
        return bool(await database.fetchval(_DECIDED_BY_REDIS, above_epoch))

    return await wait_for(is_decided, _RECOVERY_TIMEOUT_S)


def _felt(number: int, kill: Kill, epochs: int, history: History, observed: Observed) -> Round:
    to_postgres = first_accepted_at(history, observed, "postgres", kill.killed_at, kill.epoch)
    to_redis = first_accepted_at(history, observed, "redis", kill.back_at, kill.epoch)
    return Round(
        number=number,
        down_ms=round((kill.back_at - kill.killed_at) * 1_000),
        epochs=epochs,
        to_postgres_ms=_span_ms(kill.killed_at, to_postgres),
        to_redis_ms=_span_ms(kill.back_at, to_redis),
    )


def _span_ms(since: float, moment: float | None) -> int | None:
    return None if moment is None else round((moment - since) * 1_000)
