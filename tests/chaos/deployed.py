"""One run against a service somebody else started, on accounts of the run's own.

It breaks nothing unless told that it may, and then only what can be broken from afar. Other
accounts are neither changed nor looked at.
"""

import asyncio
import secrets
from typing import NamedTuple

import redis as redis_sync
import uvloop

from tests.chaos import report as reporting
from tests.chaos.faults import Incident
from tests.chaos.history import History
from tests.chaos.load import Load
from tests.chaos.report import Report
from tests.chaos.run import Options
from tests.chaos.schedule import DESTRUCTIVE_OVER_NETWORK, Cast, Fault, Kind, plan
from tests.chaos.stage import SERVER_ERRORS
from tests.chaos.trial import SETTLED_TIMEOUT_S, Place, examine

COMMAND_TIMEOUT_S = 5.0


class Deployment(NamedTuple):
    """Where the service and its servers are, and whether its Redis may be emptied."""

    urls: tuple[str, ...]
    database_url: str
    redis_url: str | None
    allow_destructive: bool


def run_deployed(seed: int, options: Options, deployment: Deployment) -> Report:
    """Run once; the accounts stay behind, emptied."""
    return uvloop.run(_carry_out(seed, options, deployment))


async def _carry_out(seed: int, options: Options, deployment: Deployment) -> Report:
    history = History()
    prefix = f"chaos-{secrets.token_hex(4)}"
    urls = {f"api{number + 1}": url for number, url in enumerate(deployment.urls)}
    load = Load(urls, history, seed, prefix, options.clients)
    await load.open_accounts(load.plan_accounts(options.cold_accounts))
    load.begin()
    incidents: list[Incident] = []
    kinds = [kind for kind in DESTRUCTIVE_OVER_NETWORK if kind in options.kinds]
    planned: list[Fault] = []
    if deployment.allow_destructive and deployment.redis_url:
        cast = Cast(tuple(urls), ())
        planned = plan(seed, options.seconds, cast, kinds, options.gap_s)
    breaking = asyncio.create_task(_break(planned, incidents, deployment, prefix, load))
    await load.run(options.seconds, options.rate)
    await breaking
    place = Place(urls, deployment.database_url, lambda: deployment.redis_url, prefix)
    rest = await examine(place, history, load)
    return Report(
        seed=seed,
        timing="deployed",
        environment={},
        **reporting.of_load(history, options.seconds),
        **reporting.of_faults(history, incidents, list(urls)),
        **reporting.of_rest(rest, SETTLED_TIMEOUT_S),
        epochs={},
        calls={},
        ended=[],
    )


async def _break(
    planned: list[Fault],
    incidents: list[Incident],
    deployment: Deployment,
    prefix: str,
    load: Load,
) -> None:
    """Carry out the faults that need no more than a connection to Redis."""
    for fault in planned:
        await asyncio.sleep(max(0.0, fault.at_s - load.now_s))
        incident = Incident(fault, began_s=load.now_s)
        incidents.append(incident)
        try:
            await asyncio.to_thread(_strike, fault, deployment.redis_url or "", prefix)
        except SERVER_ERRORS as exc:
            incident.note = f"failed: {type(exc).__name__}: {exc}"[:200]
        incident.healed_s = load.now_s


def _strike(fault: Fault, redis_url: str, prefix: str) -> None:
    with redis_sync.Redis.from_url(
        redis_url,
        decode_responses=True,
        socket_timeout=COMMAND_TIMEOUT_S,
        socket_connect_timeout=COMMAND_TIMEOUT_S,
    ) as client:
        if fault.kind is Kind.REDIS_FLUSH:
            client.flushall()
        elif fault.kind is Kind.REDIS_SCRIPT_FLUSH:
            client.script_flush()
        else:
            keys = sorted(client.scan_iter(f"subbalance:*:account:{prefix}*"))
            if keys:
                client.delete(keys[int(fault.share * len(keys))])
