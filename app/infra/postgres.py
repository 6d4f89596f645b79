"""The connection pool to PostgreSQL with bounded waits. It knows no money."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg

from app.errors import PostgresUnavailable, UnusableDatabase

if TYPE_CHECKING:
    Pool = asyncpg.Pool[asyncpg.Record]
    from asyncpg.pool import PoolConnectionProxy

    Connection = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]

# Lost or refusing connections, time-outs and servers going down: the statement may be sent again.
POSTGRES_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    asyncio.TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.QueryCanceledError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.LockNotAvailableError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.ReadOnlySQLTransactionError,
)
# Those and whatever else the server may say.
ALL_POSTGRES_ERRORS: tuple[type[Exception], ...] = (asyncpg.PostgresError, *POSTGRES_ERRORS)


@asynccontextmanager
async def open_pool(
    url: str, timeout_ms: int, connections: int, *, transaction_pooler: bool = False
) -> AsyncIterator["Pool"]:
    """Open a pool; `PostgresUnavailable` when the server cannot be reached.

    Connections keep no session state, so releasing one needs no round trip to reset it, and the
    pool works behind a transaction pooler when it does without prepared statements.
    """
    try:
        pool = await asyncpg.create_pool(
            url,
            min_size=1,
            max_size=connections,
            timeout=timeout_ms / 1_000,
            command_timeout=timeout_ms / 1_000 + 1,
            statement_cache_size=0 if transaction_pooler else 256,
            max_inactive_connection_lifetime=0,
            init=_bound_session(timeout_ms),
            reset=_keep_session,
        )
    except POSTGRES_ERRORS as exc:
        raise PostgresUnavailable(f"PostgreSQL cannot be reached: {exc}") from exc
    except asyncpg.PostgresError as exc:
        raise UnusableDatabase(f"PostgreSQL refuses the connection: {exc}") from exc
    try:
        yield pool
    finally:
        try:
            await asyncio.wait_for(pool.close(), timeout=5)
        except POSTGRES_ERRORS:
            pool.terminate()


def _bound_session(timeout_ms: int) -> Any:
    """Bound every statement and every idle SQL transaction, and pin what the fence relies on."""

    async def bound(connection: "Connection") -> None:
        await connection.execute(
            f"SET statement_timeout = {timeout_ms}; "
            f"SET idle_in_transaction_session_timeout = {timeout_ms}; "
            "SET default_transaction_isolation = 'read committed'; "
            "SET synchronous_commit = on; SET client_min_messages = warning; SET timezone = 'UTC'; "
            "SET jit = off"
        )

    return bound


async def _keep_session(_connection: "Connection") -> None:
    """Take the place of asyncpg's reset: nothing to undo."""
