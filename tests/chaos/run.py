"""One run on private servers: start everything, load and break it, heal it, and examine it."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import uvloop

from app.errors import LedgerError
from app.settings import load_settings
from tests.chaos import listener
from tests.chaos import report as reporting
from tests.chaos.checker import FORGOTTEN, LEAKED, VANISHED
from tests.chaos.faults import Faults, Incident
from tests.chaos.history import History
from tests.chaos.load import Load
from tests.chaos.redis_fleet import Fleet, describe_restorable, start_restorable
from tests.chaos.report import Report
from tests.chaos.schedule import GAP_MEAN_S, Cast, Kind, plan
from tests.chaos.stage import Stage, open_stage
from tests.chaos.trial import SETTLED_TIMEOUT_S, Place, examine
from tests.cluster import Cluster

REAP_AGE_DEFAULT_S = 10.0
DEADLINE_DEFAULT_S = 10.0
_HIT_THE_REAPER = frozenset(
    {
        Kind.REDIS_DELETE_FLIGHT,
        Kind.POSTGRES_KILL,
        Kind.POSTGRES_PAUSE,
        Kind.POSTGRES_BACKEND,
        Kind.POWER_CUT,
    }
)
TIMINGS: dict[str, dict[str, str]] = {
    "short": {
        "SETTLEMENT_INTERVAL": "300ms",
        "SUBBALANCE_REDIS_TIMEOUT_MS": "300",
        "SUBBALANCE_POSTGRES_TIMEOUT_MS": "1500",
        "SUBBALANCE_DEADLINE_MS": "4000",
        "SUBBALANCE_BREAKER_TIMEOUT": "1s",
        "SUBBALANCE_HEALTH_INTERVAL": "500ms",
        "SUBBALANCE_HEALTH_TIMEOUT": "500ms",
        "SUBBALANCE_PROBE_INTERVAL": "100ms",
        "SUBBALANCE_RECOVERY_WAIT_MAX": "2s",
        "SUBBALANCE_REAP_AGE": "2s",
        "SUBBALANCE_CONSISTENCY_INTERVAL": "2s",
    },
    "usual": {
        "SETTLEMENT_INTERVAL": "1s",
        "SUBBALANCE_RECOVERY_WAIT_MAX": "5s",
        "SUBBALANCE_CONSISTENCY_INTERVAL": "5s",
    },
}


class Options(NamedTuple):
    """What a run is told."""

    seconds: float = 20.0
    kinds: tuple[Kind, ...] = tuple(Kind)
    gap_s: float = GAP_MEAN_S
    apis: int = 2
    workers: int = 2
    clients: int = 32
    rate: float = 300.0
    cold_accounts: int = 150
    timing: str = "seed"


class Setting(NamedTuple):
    """The timing of a run: its name and what it means in the environment."""

    name: str
    environment: dict[str, str]

    @property
    def reap_age_s(self) -> float:
        """The age past which the service gives a reservation back."""
        text = self.environment.get("SUBBALANCE_REAP_AGE", "")
        return float(text.removesuffix("s")) if text else REAP_AGE_DEFAULT_S

    @property
    def deadline_s(self) -> float:
        """How long a request may wait for its answer."""
        text = self.environment.get("SUBBALANCE_DEADLINE_MS", "")
        return int(text) / 1_000 if text else DEADLINE_DEFAULT_S


def run_private(seed: int, options: Options, folder: Path) -> Report:
    """Run once on servers of the run's own, whose files are in a folder."""
    name = options.timing
    if name == "seed":
        name = "short" if seed % 2 else "usual"
    setting = Setting(name, known_settings(TIMINGS[name]))
    environment = {**setting.environment, **listener.ENVIRONMENT}
    cluster = Cluster(folder, durable=False, environment=environment, redis=start_restorable)
    with cluster, _fleet(cluster) as fleet:
        return uvloop.run(_carry_out(seed, options, setting, cluster, fleet))


@contextmanager
def _fleet(cluster: Cluster) -> Iterator[Fleet]:
    ruling = cluster.redis
    spare = describe_restorable(cluster.folder / "redis-spare")
    fleet = Fleet(ruling, spare)  # type: ignore[arg-type]  it was started by start_restorable
    try:
        yield fleet
    finally:
        fleet.stop()


def known_settings(wanted: dict[str, str]) -> dict[str, str]:
    """Those of the settings that this version of the service has."""
    known = {}
    for name, value in wanted.items():
        try:
            load_settings({name: value})
        except LedgerError:
            continue
        known[name] = value
    load_settings(known)
    return known


async def _carry_out(
    seed: int, options: Options, setting: Setting, cluster: Cluster, fleet: Fleet
) -> Report:
    """Start, load and break, heal, examine, report."""
    history = History()
    cast = Cast(
        tuple(f"api{number + 1}" for number in range(options.apis)),
        tuple(f"worker{number + 1}" for number in range(options.workers)),
    )
    planned = plan(seed, options.seconds, cast, options.kinds, options.gap_s)
    async with (
        open_stage(cluster, fleet, *cast) as stage,
        listener.listening(seed, f"c{seed}-hot0") as listening,
    ):
        urls = {name: stage.processes[name].url for name in cast.apis}
        load = Load(urls, history, seed, f"c{seed}", options.clients)
        await load.open_accounts(load.plan_accounts(options.cold_accounts))
        await listening.subscribe(urls[cast.apis[0]])
        stage.began = load.begin()
        faults = Faults(stage, setting.reap_age_s, setting.deadline_s)
        breaking = asyncio.create_task(faults.run(planned))
        await load.run(options.seconds, options.rate)
        await breaking
        await stage.heal()
        explained = explained_by(faults.incidents, cast)
        place = Place(
            urls,
            cluster.postgres.url,
            lambda: fleet.ruling.url,
            explained=explained,
            listener=listening,
        )
        rest = await examine(place, history, load)
        calls = sum((proxy.calls for ways in stage.ways.values() for proxy in ways), Counter())
        return Report(
            seed=seed,
            timing=setting.name,
            environment=setting.environment,
            **reporting.of_load(history, options.seconds),
            **reporting.of_faults(history, faults.incidents, list(urls)),
            **reporting.of_rest(rest, SETTLED_TIMEOUT_S),
            epochs=await _epochs(stage),
            calls=dict(calls),
            ended=stage.ended,
        )


def explained_by(incidents: Sequence[Incident], cast: Cast) -> frozenset[str]:
    """Which mismatches the service's own check may have found because of these faults.

    A key vanishes where it was deleted. With the attempts in flight went what tells their amounts,
    which stay taken until the service's check ends the epoch. A reservation leaks for a while
    where what the reaper needs was taken away.
    """
    explained: set[str] = set()
    for fault in (incident.fault for incident in incidents):
        if fault.kind is Kind.REDIS_DELETE_ACCOUNT or fault.manner == "delete":
            explained.add(VANISHED)
        if fault.kind is Kind.REDIS_DELETE_FLIGHT:
            explained.add(FORGOTTEN)
        hits_reaper = fault.process in cast.workers or fault.victim == "postgres"
        if hits_reaper or fault.kind in _HIT_THE_REAPER:
            explained.add(LEAKED)
    return frozenset(explained)


async def _epochs(stage: Stage) -> dict[str, int]:
    rows = await stage.query("SELECT reason, count(*) FROM ledger_epochs GROUP BY reason")
    return {row["reason"]: row["count"] for row in rows}
