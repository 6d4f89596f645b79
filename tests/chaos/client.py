"""A small HTTP/1.1 client: one keep-alive connection, one request at a time, every wait bounded."""

import asyncio
import contextlib
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

CONNECT_TIMEOUT_S = 2.0
ANSWER_BYTES_MAX = 1_048_576
_STATUS_POSITION = 1


class Answer(NamedTuple):
    """An HTTP answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class NotSent(Exception):
    """No connection could be made, so nothing was sent."""


class Lost(Exception):
    """The request may have been received, and there is no answer."""


class HttpClient:
    """Talks to one API; not for use by two tasks at once."""

    def __init__(self, url: str) -> None:
        """Connects on first use."""
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def request(
        self,
        method: str,
        path: str,
        timeout_s: float,
        body: object = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Send one request; raises `NotSent` or `Lost`."""
        await self._connect()
        content = b"" if body is None else msgspec.json.encode(body)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._exchange(method, path, content, headers or {})
        except (OSError, EOFError, TimeoutError, ValueError) as exc:
            self.close()
            raise Lost(f"{type(exc).__name__}: {exc}") from exc
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Hang up."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

    async def _connect(self) -> None:
        if self._writer is not None and not self._writer.is_closing():
            return
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        except (OSError, TimeoutError) as exc:
            raise NotSent(str(exc)) from exc

    async def _exchange(
        self, method: str, path: str, content: bytes, headers: dict[str, str]
    ) -> Answer:
        reader, writer = self._reader, self._writer
        if reader is None or writer is None:
            raise EOFError
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._host}:{self._port}"]
        lines += [f"Content-Length: {len(content)}", "Content-Type: application/json"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + content)
        with contextlib.suppress(ConnectionError):
            # A server may answer and close before it has read everything.
            await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split(" ")[_STATUS_POSITION])
        received = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head[1:] if line)
        }
        size = int(received.get("content-length", "0"))
        if size > ANSWER_BYTES_MAX or "transfer-encoding" in received:
            raise ValueError("an answer of this form is not expected")
        body = await reader.readexactly(size)
        if received.get("connection", "").lower() == "close":
            self.close()
        return Answer(status, received, body)
