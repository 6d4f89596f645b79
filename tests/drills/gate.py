"""The way from the service to its Redis; cut, connections break and new ones are refused.

The server behind it lives on and keeps everything it knows, as it does when a network fails.
"""

import asyncio
import contextlib

from tests.cluster import HOST, free_port

_CHUNK_BYTES = 65_536


class Gate:
    """Passes bytes on while it is open; keeps its port."""

    def __init__(self, target_port: int) -> None:
        """Lead to a server of this machine; nothing listens before `open`."""
        self.port = free_port()
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._served: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Let connections through."""
        self._server = await asyncio.start_server(self._serve, HOST, self.port)

    async def cut(self) -> None:
        """Break every connection and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()

    async def close(self) -> None:
        """Cut for good and wait until nothing is passed on any more."""
        await self.cut()
        await asyncio.gather(*self._served, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until either side ends or the gate is cut."""
        task = asyncio.current_task()
        if task is not None:
            self._served.add(task)
            task.add_done_callback(self._served.discard)
        self._writers.add(writer)
        behind: asyncio.StreamWriter | None = None
        try:
            back, behind = await asyncio.open_connection(HOST, self._target_port)
            self._writers.add(behind)
            if self._server is None:
                return
            ways = [
                asyncio.create_task(_pass_on(reader, behind)),
                asyncio.create_task(_pass_on(back, writer)),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
        except OSError:
            pass
        finally:
            for end in (writer, behind):
                if end is not None:
                    self._writers.discard(end)
                    end.transport.abort()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(_CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
