"""Backups are taken while transactions flow; then each is restored and the service runs on it.

Each restored database meets an empty Redis, and the old one that still runs and in the very epoch
of the backup remembers transactions which the backup does not have; one also meets a service that
was never stopped and works in a later epoch. What was accepted after a backup is not in it, for
nothing here archives WAL: the drill counts it, and demands that all the rest is exact.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from redis.asyncio import Redis

from app.infra.embedded import EmbeddedPostgres, start_redis
from tests.cluster import Cluster, is_ready
from tests.drills.backups import restore_base_backup, restore_dump, take_base_backup, take_dump
from tests.drills.client import Connection
from tests.drills.history import History, Intention, Outcome
from tests.drills.integrity import Check, all_passed, check_books, check_integrity
from tests.drills.load import Load, decide, open_accounts
from tests.drills.observed import Observed, observe, observe_quiet
from tests.drills.service import (
    DrillError,
    Options,
    bring_to_rest,
    private_cluster,
    start_service,
    wait_for,
)

LOAD_S = 2.0
_QUIET_TIMEOUT_S = 10.0
_REPLAYS = 40
_RESENDS = 10
_READY_TIMEOUT_S = 60.0
EMPTY, OLD = "an empty Redis", "the old Redis"
ALIVE = "a Redis of later epochs under a service that was never stopped"


class Kind(NamedTuple):
    """One way to back up and restore."""

    name: str
    take: Callable[[EmbeddedPostgres, str], Path]
    restore: Callable[..., EmbeddedPostgres]


KINDS = (
    Kind("base backup", take_base_backup, restore_base_backup),
    Kind("dump", take_dump, restore_dump),
)
# The background check would find a Redis that knows more and begin a new epoch a moment later; the
# fence has to hold before that, by itself.
FENCE_ALONE = {"ENABLE_DATA_CONSISTENCY_CHECK": "false"}
# What is left alive comes first: for all others it has to be stopped.
VARIANTS = (
    (KINDS[0].name, ALIVE),
    *((kind.name, redis) for kind in KINDS for redis in (EMPTY, OLD)),
)


@dataclass(slots=True)
class Backup:
    """A backup and the instants between which its point in time lies."""

    kind: Kind
    path: Path
    begun_at: float
    ended_at: float


class _Before(NamedTuple):
    """What was true when the database was lost; `memory` is Redis in the epoch of the backups."""

    history: History
    original: Observed
    backups: list[Backup]
    memory: dict[bytes, bytes]


@dataclass(slots=True)
class Restored:
    """What came of one backup with one Redis."""

    backup: str
    redis: str
    steps: list[tuple[str, float]] = field(default_factory=list)
    movements: int = 0
    missing: int = 0
    missing_minor: int = 0
    replayed: int = 0
    resent: int = 0
    accepted: int = 0
    checks: list[Check] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Tell whether everything holds on this restored database."""
        return all_passed(self.checks)


@dataclass(slots=True)
class RestoreResult:
    """The whole drill."""

    environment: dict[str, str]
    steps: list[tuple[str, float]] = field(default_factory=list)
    before: list[Check] = field(default_factory=list)
    restored: list[Restored] = field(default_factory=list)
    acknowledged: int = 0

    @property
    def passed(self) -> bool:
        """The verdict on the whole drill."""
        return (
            all_passed(self.before)
            and bool(self.restored)
            and all(restored.passed for restored in self.restored)
        )


async def hold_restore(
    options: Options,
    variants: tuple[tuple[str, str], ...] = VARIANTS,
    load_s: float = LOAD_S,
) -> RestoreResult:
    """Hold the drill; `load_s` is how long the load runs before, after and on each restored one."""
    environment = {"SETTLEMENT_INTERVAL": "500ms", **FENCE_ALONE}
    with private_cluster(options, environment) as cluster:
        result = RestoreResult({**environment, **options.environment})
        urls = await start_service(cluster, options.instances)
        before = await _back_up(cluster, urls, result, options, load_s)
        result.acknowledged = len(before.history.with_outcome(Outcome.ACCEPTED))
        with _timed(result.steps, "stop PostgreSQL"):
            await cluster.apart(cluster.postgres.stop)
        for backup_name, redis_name in variants:
            backup = next(part for part in before.backups if part.kind.name == backup_name)
            drill = _RestoredDrill(cluster, options, backup, redis_name, load_s)
            if redis_name != ALIVE:
                await _stop_processes(cluster)
            if redis_name == OLD:
                await _recall(cluster.redis.url, before.memory)
            history = deepcopy(before.history)
            result.restored.append(await drill.hold(history, before.original, urls))
        return result


async def _stop_processes(cluster: Cluster) -> None:
    for process in cluster.processes:
        await cluster.apart(process.stop)


async def _back_up(
    cluster: Cluster, urls: list[str], result: RestoreResult, options: Options, load_s: float
) -> _Before:
    """Take the backups under load, then let more of it come: first in the epoch that the backups
    know, where Redis is remembered, then in epochs that they do not know.
    """
    history, backups = History(), []
    await open_accounts(urls[0], history)
    async with _load(options, urls, history, options.seed) as load:
        load.start()
        await asyncio.sleep(load_s)
        for kind in KINDS:
            with _timed(result.steps, f"take a {kind.name} under load") as begun_at:
                path = await cluster.apart(kind.take, cluster.postgres, kind.name.replace(" ", "-"))
            backups.append(Backup(kind, path, begun_at, time.monotonic()))
        await asyncio.sleep(load_s)
        await load.stop()
        memory = await _remember(cluster.redis.url)
        await _forget(cluster.redis.url)
        load.start()
        await asyncio.sleep(load_s)
        await bring_to_rest(load, urls)
    original = await observe_quiet(cluster.postgres.url, cluster.redis.url, urls, _QUIET_TIMEOUT_S)
    result.before = check_integrity(history, original)
    return _Before(history, original, backups, memory)


class _RestoredDrill:
    """One backup, restored, with one Redis."""

    def __init__(
        self, cluster: Cluster, options: Options, backup: Backup, redis_name: str, load_s: float
    ) -> None:
        self._cluster = cluster
        self._options = options
        self._backup = backup
        self._load_s = load_s
        self._result = Restored(backup.kind.name, redis_name)
        self._name = f"{backup.kind.name}-{redis_name}".replace(" ", "-")

    async def hold(self, history: History, original: Observed, urls: list[str]) -> Restored:
        """Restore, start the service unless it lives at `urls`, use it, and end it."""
        cluster, result, folder = self._cluster, self._result, self._cluster.folder / self._name
        postgres = redis = None
        try:
            with _timed(result.steps, f"restore the {self._backup.kind.name} and start PostgreSQL"):
                port = cluster.postgres.port if result.redis == ALIVE else 0
                restore = partial(self._backup.kind.restore, durable=self._options.durable)
                postgres = await cluster.apart(
                    restore, self._backup.path, folder / "postgres", port
                )
            if result.redis == EMPTY:
                redis = await cluster.apart(start_redis, folder / "redis")
            redis_url = (redis or cluster.redis).url
            with _timed(result.steps, "wait until the service decides transactions"):
                urls = await self._service(urls, postgres.url, redis_url)
            await self._use(history, original, urls, postgres.url, redis_url)
        finally:
            await _stop_processes(cluster)
            for server in (redis, postgres):
                if server is not None:
                    await cluster.apart(server.stop)
        return result

    async def _service(self, urls: list[str], postgres_url: str, redis_url: str) -> list[str]:
        """Start a service, or wait until the one that lives has found its database again."""
        if self._result.redis != ALIVE:
            environment = {"DATABASE_URL": postgres_url, "REDIS_URL": redis_url}
            return await start_service(
                self._cluster, self._options.instances, prefix=f"{self._name}-", **environment
            )

        async def all_ready() -> bool:
            return all([await asyncio.to_thread(is_ready, url) for url in urls])

        if not await wait_for(all_ready, _READY_TIMEOUT_S):
            raise DrillError("the service did not find its restored database again")
        return urls

    async def _use(
        self,
        history: History,
        original: Observed,
        urls: list[str],
        postgres_url: str,
        redis_url: str,
    ) -> None:
        """Use the service on the restored database and hold it to everything it must keep."""
        result = self._result
        restored = await observe(postgres_url, redis_url, urls)
        result.checks += check_books(restored)
        result.checks += _check_point(self._backup, history, original, restored)
        kept, missing = _split(history, restored)
        result.movements = len(restored.rows)
        acknowledged = [lost for lost in missing if lost.outcome is Outcome.ACCEPTED]
        result.missing = len(acknowledged)
        result.missing_minor = sum(abs(lost.change_minor) for lost in acknowledged)
        with _timed(result.steps, "repeat old requests, then new load"):
            new = History(dict(history.openings), kept)
            result.checks.append(await self._repeat(urls[0], kept))
            await self._send_missing(urls[0], new, acknowledged)
            await self._run_load(urls, new)
        with _timed(result.steps, "compare everything"):
            after = await observe_quiet(postgres_url, redis_url, urls, _QUIET_TIMEOUT_S)
            result.checks.append(check_new_epoch(restored, after))
            result.checks += check_integrity(new, after)

    async def _repeat(self, url: str, kept: list[Intention]) -> Check:
        """Send keys again that the backup has; each must be answered as it was the first time."""
        accepted = [intention for intention in kept if intention.outcome is Outcome.ACCEPTED]
        step = max(1, len(accepted) // _REPLAYS)
        chosen = accepted[::step][:_REPLAYS]
        connection = Connection(url)
        for intention in chosen:
            await decide(connection, intention)
        await connection.close()
        good = sum(
            intention.sendings[-1].replayed
            and intention.sendings[-1].transaction_id == intention.sendings[-2].transaction_id
            for intention in chosen
        )
        self._result.replayed = good
        name = "keys used before the backup are replayed"
        return Check(name, bool(chosen) and good == len(chosen), f"{good} of {len(chosen)}")

    async def _send_missing(self, url: str, new: History, missing: list[Intention]) -> None:
        """Send some of those again that the backup does not have: to this ledger they are new."""
        connection = Connection(url)
        for lost in missing[:_RESENDS]:
            await decide(connection, new.intend(lost.key, lost.account_id, lost.change_minor))
            self._result.resent += 1
        await connection.close()

    async def _run_load(self, urls: list[str], new: History) -> None:
        count = len(new.intentions)
        async with _load(self._options, urls, new, f"{self._options.seed}-{self._name}") as load:
            load.start()
            await asyncio.sleep(self._load_s)
            await bring_to_rest(load, urls)
        accepted = [intention for intention in new.intentions[count:] if intention.acceptances]
        self._result.accepted = len(accepted)
        self._result.checks.append(
            Check("new transactions are accepted", bool(accepted), str(len(accepted)))
        )


def _check_point(
    backup: Backup, history: History, original: Observed, restored: Observed
) -> list[Check]:
    """Compare the restored journal with the original and with what clients had been told."""
    in_backup = {row.key for row in restored.rows}
    lost = [
        intention.key
        for intention in history.intentions
        if (intention.accepted_at or backup.begun_at) < backup.begun_at
        and intention.key not in in_backup
    ]
    early = [
        intention.key
        for intention in history.intentions
        if intention.sendings[0].sent_at > backup.ended_at and intention.key in in_backup
    ]
    truth = {row.transaction_id: row for row in original.rows}
    changed = [
        row.transaction_id
        for row in restored.rows
        if (known := truth.get(row.transaction_id)) is None
        or known._replace(status="") != row._replace(status="")
    ]
    return [
        Check("all acknowledged before the backup began is in it", not lost, f"{len(lost)} lost"),
        Check("nothing sent after the backup ended is in it", not early, f"{len(early)} found"),
        Check("restored rows are the original ones", not changed, f"{len(restored.rows)} rows"),
    ]


def check_new_epoch(restored: Observed, after: Observed) -> Check:
    """No decision may be made in an epoch of before the backup: Redis may know more of it."""
    old = {row.transaction_id for row in restored.rows}
    last = max((row.epoch for row in restored.rows), default=0)
    epochs = sorted({row.epoch for row in after.rows if row.transaction_id not in old})
    passed = bool(epochs) and epochs[0] > last
    return Check("a new epoch begins", passed, f"the backup's last {last}, then {epochs}")


def _split(history: History, restored: Observed) -> tuple[list[Intention], list[Intention]]:
    """Tell the intentions that the restored journal has from those it does not have."""
    keys = {row.key for row in restored.rows}
    kept = [intention for intention in history.intentions if intention.key in keys]
    return kept, [intention for intention in history.intentions if intention.key not in keys]


def _load(options: Options, urls: list[str], history: History, seed: object) -> Load:
    return Load(
        urls,
        history,
        connections=options.connections,
        per_second=options.per_second,
        seed=seed,
    )


async def _forget(redis_url: str) -> None:
    async with Redis.from_url(redis_url) as client:
        await client.flushdb()


async def _remember(redis_url: str) -> dict[bytes, bytes]:
    """Keep all that a Redis knows, so that each variant meets it as the failure left it."""
    async with Redis.from_url(redis_url) as client:
        found = {key: await client.dump(key) async for key in client.scan_iter()}
    # The processes run on meanwhile: the flights of an epoch are gone with the last of them.
    return {key: content for key, content in found.items() if content is not None}


async def _recall(redis_url: str, memory: dict[bytes, bytes]) -> None:
    """Give the same server, in the same life, what it knew."""
    await _forget(redis_url)
    async with Redis.from_url(redis_url) as client:
        for key, content in memory.items():
            await client.restore(key, 0, content)


@contextmanager
def _timed(steps: list[tuple[str, float]], name: str) -> Iterator[float]:
    """Note how long a step took; yields when it began."""
    begun_at = time.monotonic()
    yield begun_at
    steps.append((name, time.monotonic() - begun_at))
