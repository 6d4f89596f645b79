"""A TCP proxy between one process of the service and one of its servers, with labelled points.

As TCP does, it keeps the order of bytes and passes none after a gap: where calls share a
connection, the reply that follows a lost one would be taken for it.

Beside passing bytes on it can delay, cut, refuse, or pass nothing; go to another server; and, at
the exact point where a named call was sent but not delivered, or executed but not answered, run an
action and then lose, hold back, or pass the bytes.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import NamedTuple

from tests.chaos.wire import Conversation

CHUNK_BYTES = 65_536
CONNECT_TIMEOUT_S = 2.0
LINGER_S = 2.0
HOLD_S_MAX = 30.0
HOST = "127.0.0.1"


class Phase(StrEnum):
    """Where on its way a call is."""

    SENT = "sent"
    EXECUTED = "executed"


class Fate(StrEnum):
    """What becomes of the bytes after a trap has sprung; dropped are all that follow, too."""

    PASS = "pass"
    CUT = "cut"
    DROP = "drop"
    HOLD = "hold"


class Verdict(NamedTuple):
    """A fate, for how long the bytes are held back, and whether their sender is cut off then."""

    fate: Fate
    hold_s: float = 0.0
    cuts_sender: bool = False


PASS = Verdict(Fate.PASS)


class Trap:
    """Springs once, when a call with one of its labels reaches its phase."""

    def __init__(self, labels: frozenset[str], phase: Phase, act: Callable[[], Verdict]) -> None:
        """`act` must not block; what it returns decides about the bytes."""
        self.labels = labels
        self.phase = phase
        self.act = act
        self.sprung = asyncio.Event()


class Proxy:
    """One way to one server; every connection of one process goes through it."""

    def __init__(self, port: int, new_conversation: Callable[[], Conversation]) -> None:
        """Connect to a port of this machine until retargeted."""
        self.port = 0
        self.delay_s = 0.0
        self.refuses = False
        self.calls: Counter[str] = Counter()
        self._target = port
        self._new_conversation = new_conversation
        self._passing = asyncio.Event()
        self._passing.set()
        self._traps: list[Trap] = []
        self._connections: set[_Connection] = set()

    def retarget(self, port: int) -> None:
        """Go to another server from now on; present connections are cut."""
        self._target = port
        self.cut()

    def block(self) -> None:
        """Pass nothing on in either direction; connections stay open."""
        self._passing.clear()

    def unblock(self) -> None:
        """Pass everything on again."""
        self._passing.set()

    def cut(self) -> None:
        """Cut all connections; a request that is held back is still delivered later."""
        for connection in list(self._connections):
            connection.cut()

    def arm(self, trap: Trap) -> None:
        """Set a trap."""
        self._traps.append(trap)

    def disarm(self, trap: Trap) -> None:
        """Take a trap away if it has not sprung."""
        with contextlib.suppress(ValueError):
            self._traps.remove(trap)

    def heal(self) -> None:
        """Be a proxy without faults again."""
        self.delay_s, self.refuses = 0.0, False
        self._traps.clear()
        self.unblock()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        if self.refuses:
            writer.close()
            return
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                server_reader, server_writer = await asyncio.open_connection(HOST, self._target)
        except (OSError, TimeoutError):
            writer.close()
            return
        ends = (reader, writer, server_reader, server_writer)
        connection = _Connection(self, self._new_conversation(), *ends)
        self._connections.add(connection)
        try:
            # At the end of the program the loop cancels what still serves; that is no error.
            with contextlib.suppress(asyncio.CancelledError):
                await connection.run()
        finally:
            self._connections.discard(connection)

    async def passing(self) -> None:
        """Wait while the proxy is blocked or slow."""
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        await self._passing.wait()

    def spring(self, labels: list[str], phase: Phase) -> Verdict:
        """Spring the first trap that waits for one of these calls."""
        for trap in self._traps:
            if trap.phase is phase and not trap.labels.isdisjoint(labels):
                self._traps.remove(trap)
                verdict = trap.act()
                trap.sprung.set()
                return verdict
        return PASS


class _Connection:
    """Both directions of one connection."""

    def __init__(
        self,
        proxy: Proxy,
        conversation: Conversation,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader,
        server_writer: asyncio.StreamWriter,
    ) -> None:
        self._proxy = proxy
        self._conversation = conversation
        self._reader, self._writer = reader, writer
        self._server_reader, self._server_writer = server_reader, server_writer
        self._holds = False

    @staticmethod
    async def _drain_for_good(reader: asyncio.StreamReader) -> None:
        """Take what still comes and pass nothing on, until its sender gives up."""
        while await reader.read(CHUNK_BYTES):
            pass

    def cut(self) -> None:
        """Close both ends, the server's only when no request is held back."""
        self._writer.close()
        if not self._holds:
            self._server_writer.close()

    async def run(self) -> None:
        """Pass on until one end closes; a request under way is then still delivered."""
        requests = asyncio.create_task(self._pass_requests())
        replies = asyncio.create_task(self._pass_replies())
        await asyncio.wait([requests, replies], return_when=asyncio.FIRST_COMPLETED)
        if self._holds:
            await asyncio.wait([requests], timeout=HOLD_S_MAX)
        if requests.done() and not replies.done():
            # The server has what was sent; it may execute it although nobody waits any more.
            await asyncio.wait([replies], timeout=LINGER_S)
        for way in (requests, replies):
            way.cancel()
        await asyncio.gather(requests, replies, return_exceptions=True)
        self._writer.close()
        self._server_writer.close()

    async def _pass_requests(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            while data := await self._reader.read(CHUNK_BYTES):
                labels = self._conversation.requested(data)
                self._proxy.calls.update(labels)
                await self._proxy.passing()
                verdict = self._proxy.spring(labels, Phase.SENT)
                if verdict.fate is Fate.CUT:
                    break
                if verdict.fate is Fate.DROP:
                    await self._drain_for_good(self._reader)
                    break
                if verdict.fate is Fate.HOLD:
                    self._holds = True
                    if verdict.cuts_sender:
                        self._writer.close()
                    await asyncio.sleep(verdict.hold_s)
                self._server_writer.write(data)
                await self._server_writer.drain()
                self._holds = False
            if self._server_writer.can_write_eof():
                self._server_writer.write_eof()
        self._holds = False

    async def _pass_replies(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            while data := await self._server_reader.read(CHUNK_BYTES):
                labels = self._conversation.replied(data)
                await self._proxy.passing()
                verdict = self._proxy.spring(labels, Phase.EXECUTED)
                if verdict.fate is Fate.CUT:
                    break
                if verdict.fate is Fate.DROP:
                    await self._drain_for_good(self._server_reader)
                    break
                if verdict.fate is Fate.HOLD:
                    await asyncio.sleep(verdict.hold_s)
                self._writer.write(data)
                await self._writer.drain()


@asynccontextmanager
async def proxied(port: int, new_conversation: Callable[[], Conversation]) -> AsyncIterator[Proxy]:
    """Serve a proxy to a port of this machine; its own port is `Proxy.port`."""
    proxy = Proxy(port, new_conversation)
    server = await asyncio.start_server(proxy.serve, HOST, 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.heal()
        proxy.cut()
