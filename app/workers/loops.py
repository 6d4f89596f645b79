"""The worker's loops: each runs for ever, survives what its body raises, and pauses in between."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import asyncpg

from app import errors
from app.bootstrap import WorkerServices
from app.infra.postgres import POSTGRES_ERRORS, lead_always
from app.infra.redis import REDIS_ERRORS
from app.ledger.instruments import Instruments

_log = logging.getLogger(__name__)
_LEADER_LOCK = (7303, 0)
_PARTITIONS_S = 3_600.0
_SWEEP_S = 0.2
_REAP_S = 1.0
_EXPIRE_S = 1.0
_SURVIVED: tuple[type[Exception], ...] = (
    errors.LedgerError,
    asyncpg.PostgresError,
    *POSTGRES_ERRORS,
    *REDIS_ERRORS,
)


async def work_always(services: WorkerServices) -> None:
    """Do all background work while this process leads; stand by while another one does.

    Leadership only spares useless work: whatever two leaders did would still be right.
    """
    await lead_always(
        services.settings.direct_postgres_url,
        _LEADER_LOCK,
        lambda: _lead(services),
        services.settings.postgres.timeout_ms,
    )


async def _lead(services: WorkerServices) -> None:
    """Run all loops until this process leads no more."""
    rules = services.settings.reliability
    interval_s = services.settings.ledger.settlement_interval_ms / 1_000
    async with asyncio.TaskGroup() as group:

        def always(name: str, body: Callable[[], Awaitable[object]], interval_s: float) -> None:
            group.create_task(_always(services.instruments, name, body, interval_s))

        always("settlement", lambda: _settle(services), interval_s)
        always("partitions", services.settler.ensure_partitions, _PARTITIONS_S)
        always("recovery", services.recovery.step, rules.probe_interval_ms / 1_000)
        always("reaper", lambda: _reap(services), _REAP_S)
        always("expiry", services.expiry.step, _EXPIRE_S)
        if rules.consistency_check:
            always("consistency", lambda: _check(services), rules.consistency_interval_ms / 1_000)
        always("sweep", services.sweeper.step, _SWEEP_S)
        for courier in services.couriers:
            group.create_task(courier.deliver_always())
        group.create_task(services.webhooks.deliver_always())


async def _settle(services: WorkerServices) -> None:
    settled = await services.instruments.timed("settle", services.settler.settle())
    services.instruments.settled(settled)
    if settled.batches:
        _log.info("settled %s movements in %s batches", settled.entries, settled.batches)


async def _reap(services: WorkerServices) -> None:
    services.instruments.reaped(await services.reaper.step())


async def _check(services: WorkerServices) -> None:
    services.instruments.verified(await services.consistency.step())


async def _always(
    instruments: Instruments,
    name: str,
    body: Callable[[], Awaitable[object]],
    interval_s: float,
) -> None:
    """Run a body at intervals, counted from start to start."""
    loop = asyncio.get_running_loop()
    while True:
        started = loop.time()
        result = "ok"
        try:
            await body()
        except _SURVIVED as exc:
            result = "interrupted"
            _log.warning("%s interrupted: %s", name, exc)
        except Exception:
            result = "failed"
            _log.exception("%s failed", name)
        instruments.ran(name, result)
        await asyncio.sleep(max(interval_s / 10, started + interval_s - loop.time()))
