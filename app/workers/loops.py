"""The worker's loops: each runs for ever, survives what its body raises, and pauses in between."""

import asyncio
import logging
from typing import TYPE_CHECKING

import asyncpg

from app import errors
from app.bootstrap import WorkerServices
from app.infra.postgres import POSTGRES_ERRORS

if TYPE_CHECKING:
    from app.infra.postgres import Connection

_log = logging.getLogger(__name__)
_LEADER_LOCK = (7303, 0)
_STANDBY_S = 1.0
_PARTITIONS_S = 3_600.0
_SURVIVED: tuple[type[Exception], ...] = (
    errors.LedgerError,
    asyncpg.PostgresError,
    *POSTGRES_ERRORS,
)


async def settle_as_leader(services: WorkerServices) -> None:
    """Settle every interval while this process leads; stand by while another one does.

    Leadership only spares useless work: each chunk takes its own lock.
    """
    while True:
        try:
            async with services.pool.acquire() as connection:
                if await connection.fetchval("SELECT pg_try_advisory_lock($1, $2)", *_LEADER_LOCK):
                    _log.info("leads the settlement")
                    await _lead(services, connection)
        except _SURVIVED as exc:
            _log.warning("settlement interrupted: %s", exc)
        await asyncio.sleep(_STANDBY_S)


async def _lead(services: WorkerServices, connection: "Connection") -> None:
    """Settle until the connection that holds the leader's lock is lost."""
    interval_s = services.settings.ledger.settlement_interval_ms / 1_000
    loop = asyncio.get_running_loop()
    try:
        while True:
            started = loop.time()
            settled = await services.settler.settle()
            if settled.batches:
                _log.info("settled %s movements in %s batches", settled.entries, settled.batches)
            await asyncio.sleep(max(0.0, started + interval_s - loop.time()))
            await connection.fetchval("SELECT 1")
    finally:
        if not connection.is_closed():
            await connection.execute("SELECT pg_advisory_unlock($1, $2)", *_LEADER_LOCK)


async def keep_partitions(services: WorkerServices) -> None:
    """Keep the journal's partitions some months ahead."""
    while True:
        try:
            made = await services.settler.ensure_partitions()
            if made:
                _log.info("made %s journal partitions", made)
        except _SURVIVED as exc:
            _log.warning("partitions not checked: %s", exc)
        await asyncio.sleep(_PARTITIONS_S)
