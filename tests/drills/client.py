"""A lean keep-alive HTTP client, so that a drill's own work leaves the cores to the service.

A reply that does not come is a fact of its own (`LOST`), never an error: what became of the request
is then unknown, and only a repetition with the same key tells.
"""

import asyncio
import contextlib
import json
from typing import Any, NamedTuple
from urllib.parse import urlsplit

LOST = 0
_TIMEOUT_S = 20.0


class Answer(NamedTuple):
    """What one sending was answered; status `LOST` when no answer came."""

    status: int
    body: dict[str, Any]
    replayed: bool


class Connection:
    """One connection, made again when it was lost; one request at a time."""

    def __init__(self, url: str, timeout_s: float = _TIMEOUT_S) -> None:
        """Connect on first use; an answer that takes longer than the time-out is lost."""
        address = urlsplit(url)
        self.url = url
        self._timeout_s = timeout_s
        self._host, self._port = address.hostname or "", address.port or 0
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def request(
        self, method: str, path: str, body: dict[str, Any] | None = None, key: str | None = None
    ) -> Answer:
        """Send once and wait for the answer, a bounded time."""
        content = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._host}:{self._port}"]
        lines += [f"Content-Length: {len(content)}", "Content-Type: application/json"]
        if key is not None:
            lines.append(f"Idempotency-Key: {key}")
        head = "\r\n".join([*lines, "", ""]).encode()
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._exchange(head + content)
        except (OSError, TimeoutError, EOFError, ValueError, TypeError, KeyError):
            await self.close()
            return Answer(LOST, {}, False)
        except asyncio.CancelledError:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the connection; the next request makes another."""
        writer, self._reader, self._writer = self._writer, None, None
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _exchange(self, message: bytes) -> Answer:
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._reader, self._writer
        writer.write(message)
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head[1:] if line)
        }
        content = await reader.readexactly(int(headers["content-length"]))
        status = int(head[0].split()[1])
        body = json.loads(content) if content else {}
        if headers.get("connection", "").lower() == "close":
            await self.close()
        return Answer(status, dict(body), headers.get("idempotency-replayed") == "true")
