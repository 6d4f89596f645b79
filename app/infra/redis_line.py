"""One connection to Redis that many callers share: calls go out at once and are answered in order.

redis-py connects, authenticates and follows Sentinel; after that the commands go past it, for its
client costs a caller five times what packing, sending and parsing do. Nothing is ever sent twice
from here.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

if TYPE_CHECKING:
    from redis.asyncio import Connection, Redis

_LOST = "The connection to Redis was lost."
_TIMEOUT_S = 1.0


class RedisLine:
    """A connection that is made anew when it was lost."""

    def __init__(self, redis: "Redis") -> None:
        """Use a client for its connections and their time-out; connects with the first call."""
        self._pool = redis.connection_pool
        self._connecting: asyncio.Task[_Channel] | None = None
        self._channel: _Channel | None = None
        self._returns: set[asyncio.Task[None]] = set()

    async def call(self, *words: str | bytes) -> Any:
        """Send a command; text in, or its UTF-8, and text out.

        Raises what redis-py raises, within its time-out.
        """
        channel = self._channel
        if channel is None or channel.is_lost:
            channel = await self._connect()
        packed = hiredis.pack_command(words)  # type: ignore[arg-type]
        reply = await channel.send(packed)
        if isinstance(reply, hiredis.ReplyError):
            text = str(reply)
            raise (NoScriptError if text.startswith("NOSCRIPT") else ResponseError)(text)
        return reply

    def start_over(self) -> None:
        """Connect anew for the next call, maybe to another server; earlier calls are answered."""
        if self._channel is not None:
            channel, self._channel = self._channel, None
            channel.retire()

    async def _connect(self) -> "_Channel":
        """Connect, once for all who wait for it."""
        if self._connecting is None:
            self._connecting = asyncio.ensure_future(self._open())
        return await asyncio.shield(self._connecting)

    async def _open(self) -> "_Channel":
        try:
            connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
            self._channel = _Channel(connection, self._give_back)
            return self._channel
        finally:
            self._connecting = None

    def _give_back(self, connection: "Connection") -> None:
        async def give_back() -> None:
            await connection.disconnect(nowait=True)
            await self._pool.release(connection)

        task = asyncio.ensure_future(give_back())
        self._returns.add(task)
        task.add_done_callback(self._returns.discard)


class _Channel(asyncio.Protocol):
    """Takes over an open connection of redis-py's."""

    def __init__(self, connection: "Connection", give_back: "Callable[[Connection], None]") -> None:
        self._connection = connection
        self._give_back = give_back
        self._is_retired = False
        self.is_lost = False
        self._loop = asyncio.get_running_loop()
        self._timeout_s = float(connection.socket_timeout or _TIMEOUT_S)
        self._reader = hiredis.Reader(encoding="utf-8")
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        writer = connection._writer  # redis-py offers no other way to its transport
        if writer is None:
            raise RedisConnectionError(_LOST)
        self._transport: Any = writer.transport
        self._before: Any = self._transport.get_protocol()
        self._transport.set_protocol(self)
        if self._transport.is_closing():
            raise RedisConnectionError(_LOST)

    def send(self, packed: bytes) -> "asyncio.Future[Any]":
        """Send a command; the future gets its reply."""
        if self.is_lost:
            raise RedisConnectionError(_LOST)
        future = self._loop.create_future()
        now = self._loop.time()
        self._waiting.append((future, now + self._timeout_s))
        if self._timer is None:
            self._timer = self._loop.call_at(now + self._timeout_s, self._expire)
        self._transport.write(packed)
        return future

    def data_received(self, data: bytes) -> None:
        """Give replies to those who wait, in order."""
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                if isinstance(reply, hiredis.PushNotification):
                    continue  # news that nobody asked for is nobody's reply
                future, _ = self._waiting.popleft()
                if not future.done():
                    future.set_result(reply)
        except (hiredis.ProtocolError, IndexError):
            self._lose(RedisConnectionError("Redis answered nonsense."))
        if self._is_retired and not self._waiting:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell those who wait, and redis-py."""
        self._lose(RedisConnectionError(str(exc) if exc else _LOST))
        self._before.connection_lost(exc)
        self._give_back(self._connection)

    def retire(self) -> None:
        """Close as soon as nobody waits."""
        self._is_retired = True
        if not self._waiting:
            self._transport.close()

    def eof_received(self) -> bool:
        """Close when the server does."""
        return False

    def pause_writing(self) -> None:
        """Write on: what is outstanding is bounded by the callers, each of which waits."""

    def resume_writing(self) -> None:
        """Write on."""

    def _expire(self) -> None:
        """Give up a connection whose oldest reply is overdue; nothing tells later ones apart."""
        self._timer = None
        if not self._waiting:
            return
        deadline = self._waiting[0][1]
        if deadline <= self._loop.time():
            self._lose(RedisTimeoutError("Redis did not answer in time."))
        else:
            self._timer = self._loop.call_at(deadline, self._expire)

    def _lose(self, error: Exception) -> None:
        self.is_lost = True
        if self._timer is not None:
            self._timer.cancel()
        while self._waiting:
            future, _ = self._waiting.popleft()
            if not future.done():
                future.set_exception(error)
        self._transport.abort()
