"""A small HTTP server for a process's own metrics. It asks for no key: who may read them is said by
where it listens.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress

from app.infra.lifetimes import running_beside
from app.infra.telemetry import CONTENT_TYPE

_HEAD_BYTES_MAX = 8_192
_ANSWER_S = 10.0
_AGAIN_S = 0.5
_log = logging.getLogger(__name__)
_GONE = (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)


@asynccontextmanager
async def serving_metrics(
    host: str, port: int, write: Callable[[], Awaitable[bytes]]
) -> AsyncIterator[None]:
    """Answer `GET /metrics` with what `write` gives; port 0 asks for no server.

    A port that is taken costs a warning, for what the process is for matters more, and is listened
    on once it is free.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(*_GONE):
            async with asyncio.timeout(_ANSWER_S):
                head = await reader.readuntil(b"\r\n\r\n")
                method, target = head.split(b" ", 2)[:2]
                found = method == b"GET" and target.partition(b"?")[0] == b"/metrics"
                status, body = (b"200 OK", await write()) if found else (b"404 Not Found", b"")
                form = b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b\r\n\r\n%b"
                kind = CONTENT_TYPE.encode()
                writer.write(form % (status, kind, len(body), b"connection: close", body))
                await writer.drain()

    async def serve(tried: asyncio.Event) -> None:
        while True:
            try:
                server = await asyncio.start_server(answer, host, port, limit=_HEAD_BYTES_MAX)
            except (OSError, OverflowError) as exc:  # the second for a port above 65535
                if not tried.is_set():
                    _log.warning("no metrics are served yet: %s", exc)
            else:
                tried.set()
                async with server:
                    await server.serve_forever()
            tried.set()
            await asyncio.sleep(_AGAIN_S)

    if not port:
        yield
        return
    tried = asyncio.Event()
    async with running_beside(serve(tried)):
        await tried.wait()
        yield
