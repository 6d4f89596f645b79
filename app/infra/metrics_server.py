"""A small HTTP server for the metrics of a process that serves nothing else."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from app.infra.telemetry import CONTENT_TYPE

_HEAD_BYTES_MAX = 8_192
_READ_S = 5.0
_log = logging.getLogger(__name__)


@asynccontextmanager
async def serving_metrics(host: str, port: int, write: Callable[[], bytes]) -> AsyncIterator[int]:
    """Answer `GET /metrics` with what `write` gives; yields the port, 0 where there is none.

    A port that is taken costs a warning: what the process is for matters more. Port 0 asks for no
    server.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, ValueError, asyncio.IncompleteReadError, TimeoutError):
            async with asyncio.timeout(_READ_S):
                head = await reader.readuntil(b"\r\n\r\n")
            method, target = head.split(b" ", 2)[:2]
            found = method == b"GET" and target.partition(b"?")[0] == b"/metrics"
            status, body = (b"200 OK", write()) if found else (b"404 Not Found", b"")
            form = b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b\r\n\r\n%b"
            kind = CONTENT_TYPE.encode()
            writer.write(form % (status, kind, len(body), b"connection: close", body))
            await writer.drain()
        writer.close()

    if not port:
        yield 0
        return
    try:
        server = await asyncio.start_server(answer, host, port, limit=_HEAD_BYTES_MAX)
    except OSError as exc:
        _log.warning("no metrics are served: %s", exc)
        yield 0
        return
    try:
        yield port
    finally:
        server.close()
