"""The connection to Redis and what can be learnt about it. It knows no money.

The client never retries by itself: a script whose reply was lost may have run, and only its caller
knows how to send it again safely.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import unquote

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from app.errors import RedisUnavailable, UnusableRedis

SENTINEL_SCHEME = "redis+sentinel://"
_SENTINEL_SPARE = 16
# RuntimeError is how uvloop says that a transport is closed already; the library passes it on.
REDIS_ERRORS = (RedisError, OSError, asyncio.TimeoutError, RuntimeError)


class RedisIdentity(NamedTuple):
    """Which life of which server: a restart changes the run id, a resync the replication id."""

    run_id: str
    replication_id: str


class _LiveConnections(ConnectionPool):
    """Hands out no connection whose server has gone.

    The library's own check reads from the socket and misses an end of file that the loop has
    already seen, so that after a restart of Redis each idle connection would cost one failed call.
    """

    async def ensure_connection(self, connection: Any) -> None:
        reader = connection._reader
        if reader is not None and reader.at_eof():
            await connection.disconnect()
        await super().ensure_connection(connection)


class _LivePool(_LiveConnections, BlockingConnectionPool):
    """A call waits its turn when all connections are in use."""


class _LiveSentinelPool(_LiveConnections, SentinelConnectionPool):
    """Connections to the master that the sentinels name."""


@asynccontextmanager
async def open_redis(
    url: str, timeout_ms: int, connections: int, *, retries: int = 0
) -> AsyncIterator["Redis"]:
    """Make a client with bounded waits; connects on first use.

    `retries` is for clients that only read: whoever sends scripts decides about sending again.
    A call waits its turn when all connections are in use, no longer than the time-out.
    """
    timeout_s = timeout_ms / 1_000
    options: dict[str, Any] = {
        "decode_responses": True,
        # The third version would let the server send what nobody asked for.
        "protocol": 2,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), retries),
        "health_check_interval": 0,
    }
    sentinels: list[Redis] = []
    if url.startswith(SENTINEL_SCHEME):
        pool, sentinels = _sentinel_pool(url, connections, options)
    else:
        pool = _LivePool.from_url(url, max_connections=connections, timeout=timeout_s, **options)
    client = Redis(connection_pool=pool)
    try:
        yield client
    finally:
        for connected in (client, *sentinels):
            await connected.aclose()
        await pool.aclose()


def _sentinel_pool(
    url: str, connections: int, options: dict[str, Any]
) -> tuple[ConnectionPool, list["Redis"]]:
    """Make a pool of connections to whatever master the sentinels name at the moment.

    `redis+sentinel://[:password@]host:port,host:port/master-name[/database]`
    """
    hosts, _, path = url.removeprefix(SENTINEL_SCHEME).partition("/")
    password, at, hosts = hosts.rpartition("@")
    name, _, database = path.partition("/")
    addresses = [host.rpartition(":") for host in hosts.split(",")]
    waits = {key: options[key] for key in ("socket_timeout", "socket_connect_timeout", "retry")}
    hosts_and_ports = [(host, int(port)) for host, _, port in addresses]
    sentinel = Sentinel(hosts_and_ports, sentinel_kwargs=waits)  # type: ignore[no-untyped-call]
    secret = {"password": unquote(password.removeprefix(":"))} if at else {}
    pool = _LiveSentinelPool(  # type: ignore[no-untyped-call]
        name,
        sentinel,
        db=int(database or 0),
        max_connections=connections + _SENTINEL_SPARE,
        **secret,
        **options,
    )
    return pool, sentinel.sentinels


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
