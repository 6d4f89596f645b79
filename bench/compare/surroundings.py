"""What a run was made with: programs, durability, settings. Asked of the programs themselves."""

import os
import platform
import subprocess
from importlib.metadata import version
from typing import Any

from app.settings import load_settings
from bench.compare.naive import CONNECTIONS as NAIVE_CONNECTIONS
from bench.compare.row_locks import find_pgbench
from bench.compare.stage import Stage
from bench.compare.wrk import wrk_version

_POSTGRES = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "wal_compression",
             "commit_delay", "commit_siblings", "shared_buffers", "max_wal_size")  # fmt: skip
_REDIS = ("appendonly", "save", "maxmemory-policy")
_LIBRARIES = ("uvicorn", "uvloop", "httptools", "msgspec", "asyncpg", "redis", "hiredis")


def surroundings(stage: Stage, rounds: int, seconds: float) -> dict[str, str]:
    """Name everything a reader must know to compare another run with this one."""
    found = {
        "CPUs, shared by clients and servers": str(os.cpu_count()),
        "machine": f"{platform.system()} {platform.machine()}",
        "PostgreSQL": stage.wait(_postgres(stage)),
        "Redis": stage.wait(_redis(stage)),
        "Python": platform.python_version(),
        "libraries": ", ".join(f"{name} {version(name)}" for name in _LIBRARIES),
        "wrk": wrk_version(),
        "pgbench": _pgbench_version(),
        "service": _service(stage),
        "naive": f"one API process, {NAIVE_CONNECTIONS} connections to Redis and to PostgreSQL",
    }
    return {**found, "samples": f"{rounds} rounds of {seconds:g} s, rivals in turns"}


def _service(stage: Stage) -> str:
    settings = load_settings(stage.service_settings)
    ledger = settings.ledger
    return (
        f"one API process, one worker, {ledger.slots} slots, batches of at most"
        f" {ledger.batch_items:,}, settlement every {ledger.settlement_interval_ms / 1_000:g} s,"
        " verified at the end instead of during samples"
    )


async def _postgres(stage: Stage) -> str:
    async with stage.connected(stage.database_url("postgres")) as connection:
        told = {name: await connection.fetchval(f"SHOW {name}") for name in _POSTGRES}
    return ", ".join(f"{name} {value}" for name, value in told.items())


async def _redis(stage: Stage) -> str:
    async with stage.redis_client(stage.cluster.redis.url) as redis:
        server: dict[str, Any] = await redis.info("server")
        settings: dict[str, str] = await redis.config_get(*_REDIS)
    shown = ", ".join(f"{name} {value or 'none'}" for name, value in settings.items())
    return f"{server['redis_version']}, {shown}"


def _pgbench_version() -> str:
    program = find_pgbench()
    if program is None:
        return "not found"
    told = subprocess.run(
        [str(program), "--version"], capture_output=True, text=True, check=True, timeout=10
    )
    return told.stdout.strip()
