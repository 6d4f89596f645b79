"""A TCP proxy between the service and a server that loses replies, delays requests, stalls, or cuts
connections.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

# What only an admit, and only a confirm, carries on the wire.
ADMIT, CONFIRM = b"9000000000000000000", b"journaled"


class FaultyProxy:
    """Passes bytes on until told otherwise."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        # What is to happen, in this order, to requests that contain a marker.
        self._faults: list[tuple[bytes, bool]] = []
        self._held: list[bytes] = []
        self._open = asyncio.Event()
        self._open.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._refusing = False
        self.lost_count = 0

    @property
    def held_count(self) -> int:
        """How many requests are on their way."""
        return len(self._held)

    def lose_reply_to(self, marker: bytes, times: int = 1) -> None:
        """Let requests that contain the marker be executed, then cut instead of answering."""
        self._faults += [(marker, False)] * times

    def hold(self, marker: bytes) -> None:
        """Keep a request that contains the marker on its way, and cut its connection."""
        self._faults.append((marker, True))

    async def deliver(self) -> None:
        """Let what was held arrive, each request on a connection of its own, whole."""
        while self._held:
            reader, writer = await asyncio.open_connection(*self._target)
            writer.write(self._held.pop(0))
            await reader.read(65_536)
            writer.close()

    def stall(self) -> None:
        """Pass nothing on in either direction."""
        self._open.clear()

    def resume(self) -> None:
        """Pass everything on again."""
        self._refusing = False
        self._open.set()

    def refuse(self) -> None:
        """Cut all connections and every new one, until resumed."""
        self._refusing = True
        self.cut()

    def cut(self) -> None:
        """Cut all connections."""
        for writer in list(self._writers):
            writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        if self._refusing:
            writer.close()
            return
        server_reader, server_writer = await asyncio.open_connection(*self._target)
        self._writers |= {writer, server_writer}
        losing = asyncio.Event()
        ways = [
            asyncio.create_task(self._pass_requests(reader, server_writer, losing)),
            asyncio.create_task(self._pass_replies(server_reader, writer, losing)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        for end in (writer, server_writer):
            end.close()
            self._writers.discard(end)

    async def _pass_requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, losing: asyncio.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                await self._open.wait()
                fault = next((each for each in self._faults if each[0] in data), None)
                if fault is not None:
                    self._faults.remove(fault)
                    if fault[1]:
                        self._held.append(data)
                        return
                    self.lost_count += 1
                    losing.set()
                writer.write(data)
                await writer.drain()

    async def _pass_replies(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, losing: asyncio.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                await self._open.wait()
                if losing.is_set():
                    return
                writer.write(data)
                await writer.drain()


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[tuple[str, FaultyProxy]]:
    """Put a proxy in front of a server; yields the URL that goes through it."""
    parts = urlsplit(url)
    proxy = FaultyProxy(parts.hostname or "127.0.0.1", parts.port or 0)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    user = f"{parts.username}@" if parts.username else ""
    yield urlunsplit(parts._replace(netloc=f"{user}127.0.0.1:{port}")), proxy
    server.close()
    proxy.cut()
