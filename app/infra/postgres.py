"""The connection pool to PostgreSQL with bounded waits. It knows no money."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg

from app import limits
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
    asyncpg.InternalClientError,
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
    # a standby that is asked what only a primary knows
    asyncpg.ObjectNotInPrerequisiteStateError,
)
# Those and whatever else the server may say.
ALL_POSTGRES_ERRORS: tuple[type[Exception], ...] = (asyncpg.PostgresError, *POSTGRES_ERRORS)


_LISTEN_PAUSE_S = 1.0
_LISTEN_CHECK_S = 5.0
_STANDBY_S = 1.0
_LEADER_CHECK_S = 1.0
_LEADER_SILENCE_MS = 10_000
_log = logging.getLogger(__name__)


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
            f"SET idle_in_transaction_session_timeout = {limits.IDLE_TRANSACTION_MS}; "
            "SET default_transaction_isolation = 'read committed'; "
            "SET synchronous_commit = on; SET client_min_messages = warning; SET timezone = 'UTC'; "
            "SET jit = off"
        )

    return bound


async def _keep_session(_connection: "Connection") -> None:
    """Take the place of asyncpg's reset: nothing to undo."""


async def listen_always(
    url: str, channel: str, on_news: Callable[[], None], timeout_ms: int
) -> None:
    """Call back for every notification on a channel, and after every new connection to it.

    Needs a connection of its own, past any transaction pooler. Never returns.
    """
    timeout_s = timeout_ms / 1_000
    while True:
        try:
            connection = await asyncpg.connect(url, timeout=timeout_s, command_timeout=timeout_s)
            try:
                await connection.add_listener(channel, lambda *_: on_news())
                on_news()
                while True:
                    await asyncio.sleep(_LISTEN_CHECK_S)
                    await connection.execute("SELECT 1")
            finally:
                connection.terminate()
        except ALL_POSTGRES_ERRORS as exc:
            _log.debug("not listening for now: %s", exc)
        except Exception:
            _log.exception("listening failed")
        await asyncio.sleep(_LISTEN_PAUSE_S)


async def lead_always(
    url: str, lock: tuple[int, int], work: Callable[[], Coroutine[Any, Any, None]], timeout_ms: int
) -> None:
    """Run `work` while a session of this process holds an advisory lock; stand by otherwise.

    The server ends the session of a leader that is silent for long, so that one that was paused
    does not keep the others waiting. Needs a connection past any transaction pooler. Never returns.
    """
    timeout_s = timeout_ms / 1_000
    while True:
        try:
            connection = await asyncpg.connect(url, timeout=timeout_s, command_timeout=timeout_s)
            try:
                await connection.execute(f"SET idle_session_timeout = {_LEADER_SILENCE_MS}")
                if await connection.fetchval("SELECT pg_try_advisory_lock($1, $2)", *lock):
                    _log.info("leads")
                    await _work_while_leading(connection, work)
            finally:
                connection.terminate()
        except ALL_POSTGRES_ERRORS as exc:
            _log.warning("leads no more: %s", exc)
        except Exception:
            _log.exception("leading failed")
        await asyncio.sleep(_STANDBY_S)


async def _work_while_leading(
    connection: "Connection", work: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    task = asyncio.create_task(work())
    try:
        while not task.done():
            await asyncio.sleep(_LEADER_CHECK_S)
            await connection.execute("SELECT 1")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
