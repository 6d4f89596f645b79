"""The connection to Redis and what can be learnt about it. It knows no money.

The client never retries by itself: a script whose reply was lost may have run, and only its caller
knows how to send it again safely.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from app.errors import RedisUnavailable, UnusableRedis

REDIS_ERRORS = (RedisError, OSError, asyncio.TimeoutError)


class RedisIdentity(NamedTuple):
    """Which life of which server: a restart changes the run id, a resync the replication id."""

    run_id: str
    replication_id: str


class _LivePool(BlockingConnectionPool):
    """A pool that hands out no connection whose server has gone.

    Its own check reads from the socket and misses an end of file that the loop has already seen, so
    that after a restart of Redis each idle connection would cost one failed call.
    """

    async def ensure_connection(self, connection: Any) -> None:
        reader = connection._reader
        if reader is not None and reader.at_eof():
            await connection.disconnect()
        await super().ensure_connection(connection)


@asynccontextmanager
async def open_redis(
    url: str, timeout_ms: int, connections: int, *, retries: int = 0
) -> AsyncIterator["Redis"]:
    """Make a client with bounded waits; connects on first use.

    `retries` is for clients that only read: whoever sends scripts decides about sending again.
    A call waits its turn when all connections are in use, no longer than the time-out.
    """
    pool = _LivePool.from_url(
        url,
        decode_responses=True,
        socket_timeout=timeout_ms / 1_000,
        socket_connect_timeout=timeout_ms / 1_000,
        retry=Retry(NoBackoff(), retries),
        max_connections=connections,
        timeout=timeout_ms / 1_000,
        health_check_interval=0,
    )
    client = Redis(connection_pool=pool)
    try:
        yield client
    finally:
        await client.aclose()
        await pool.aclose()


async def read_identity(redis: "Redis") -> RedisIdentity:
    """Ask a server who it is; `UnusableRedis` when it is no master or may evict money."""
    try:
        server: dict[str, Any] = await redis.info("server")
        replication: dict[str, Any] = await redis.info("replication")
        memory: dict[str, Any] = await redis.info("memory")
    except REDIS_ERRORS as exc:
        raise RedisUnavailable(f"Redis does not answer: {exc}") from exc
    if replication.get("role") != "master":
        raise UnusableRedis("Redis is a replica; decisions need the master.")
    policy = memory.get("maxmemory_policy")
    if policy != "noeviction":
        raise UnusableRedis(
            f"Redis has maxmemory-policy '{policy}' and could evict balances; set it to noeviction."
        )
    return RedisIdentity(str(server["run_id"]), str(replication["master_replid"]))
