"""The servers behind the service, where they can be reached, and the machine; read only."""

import os
import platform
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import asyncpg
from redis.asyncio import Redis

from app.infra.redis import REDIS_ERRORS
from bench.load.integrity import Rows
from bench.load.service import Service
from tests.drills.load import EXPONENT
from tests.drills.observed import Balance, minor_of

_TIMEOUT_S = 60.0
_POSTGRES_ERRORS = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError)
_POSTGRES_SETTINGS = (
    "server_version", "fsync", "synchronous_commit", "full_page_writes", "wal_sync_method",
    "commit_delay", "shared_buffers", "max_wal_size", "checkpoint_timeout", "autovacuum",
)  # fmt: skip
_ROWS = """
    SELECT account_id, count(*) AS count,
           coalesce(sum(CASE type WHEN 'credit' THEN amount ELSE -amount END), 0) AS change
      FROM sub_balances WHERE account_id = ANY ($1) GROUP BY account_id
"""
_SETTLED = "SELECT id, settled_balance, version FROM account_balances WHERE id = ANY ($1)"


async def rows_of(service: Service, account_ids: Iterable[str]) -> dict[str, Rows] | None:
    """How many transactions accounts have in PostgreSQL; None where it cannot be reached."""
    found = await _fetch(service, _ROWS, list(account_ids))
    if found is None:
        return None
    return {
        row["account_id"]: Rows(row["count"], minor_of(row["change"], EXPONENT)) for row in found
    }


async def knows(service: Service, balances: Mapping[str, Balance]) -> bool:
    """Tell whether the database that was found is this service's: it has the same balances."""
    found = await _fetch(service, _SETTLED, list(balances)) or []
    settled = {row["id"]: minor_of(row["settled_balance"], EXPONENT) for row in found}
    return settled == {name: balance.settled_minor for name, balance in balances.items()}


async def describe(service: Service) -> dict[str, str]:
    """The machine, the versions and what durability is set to, as far as can be seen."""
    facts = {
        "processor": f"{os.cpu_count()} cores, {_processor()}",
        "memory": _memory(),
        "system": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_version()}, uvloop {version('uvloop')}",
        "service": service.text,
    }
    if service.settings:
        facts["settings of the service"] = ", ".join(
            f"{name}={value}" for name, value in sorted(service.settings.items())
        )
    facts["PostgreSQL"] = await _postgres(service)
    facts["Redis"] = await _redis(service)
    return facts


async def _postgres(service: Service) -> str:
    statement = "SELECT name, current_setting(name) AS value FROM unnest($1::text[]) AS name"
    found = await _fetch(service, statement, list(_POSTGRES_SETTINGS))
    if found is None:
        return "not reachable from here"
    return ", ".join(f"{row['name']} {row['value']}" for row in found)


async def _redis(service: Service) -> str:
    if not service.redis_url.startswith("redis://"):
        return "not reachable from here"
    with suppress(*REDIS_ERRORS):
        async with Redis.from_url(service.redis_url, decode_responses=True) as client:
            info: dict[str, Any] = await client.info()
            name = "valkey" if "valkey_version" in info else "redis"
            aof = "on" if info.get("aof_enabled") else "off"
            return f"{name} {info.get(f'{name}_version')}, append-only file {aof}"
    return "not reachable from here"


async def _fetch(service: Service, statement: str, argument: list[str]) -> Any:
    """Rows of a statement, None where the database is not known or does not answer."""
    if not service.database_url:
        return None
    with suppress(*_POSTGRES_ERRORS):
        connection = await asyncpg.connect(service.database_url, timeout=_TIMEOUT_S)
        try:
            return await connection.fetch(statement, argument, timeout=_TIMEOUT_S)
        finally:
            await connection.close()
    return None


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory() -> str:
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return f"{pages * page_bytes / 2**30:.1f} GiB"
