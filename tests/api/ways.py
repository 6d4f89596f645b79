"""Raw HTTP for both ways into the service: bytes out, answers in, and what may differ left out."""

import asyncio
import contextlib
import json
import re
from collections.abc import Iterable
from typing import Any, NamedTuple, Self

PATH = b"/api/v1/transaction"
# Stands for a word of the way's own, so that the two ways use accounts and keys of equal length.
TAG = b"@@@"
GOOD = b'{"account_id":"@@@","amount":"1.00","type":"debit"}'
PROBE = b"GET /health/live HTTP/1.1\r\nHost: h\r\n\r\n"
ALIVE = b'{"status":"alive"}'
ANSWER_S = 10.0
_GENERATED_ID = re.compile(r"[0-9a-f]{10}-[0-9a-f]+")
_DRAWN = (
    "transaction_id",
    "timestamp",
    "transfer_id",
    "group_id",
    "credit_transaction_id",
    "hold_id",
    "created_at",
    "updated_at",
)


class Answer(NamedTuple):
    """One answer as it came."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


def hot(
    *lines: bytes, body: bytes = GOOD, start: bytes = b"POST /api/v1/transaction HTTP/1.1"
) -> bytes:
    """Write a request; `lines` stand between the Host and a right Content-Type and length."""
    head = [start, b"Host: h", *lines]
    return bare(*head, b"Content-Type: application/json", b"Content-Length: %d" % len(body)) + body


def bare(*lines: bytes) -> bytes:
    """Write a head of nothing but these lines."""
    return b"\r\n".join([*lines, b"", b""])


class Write(NamedTuple):
    """A kind of hot request: where it goes, and a body of it that is good."""

    path: bytes
    good: bytes

    def asked(self, *lines: bytes, body: bytes | None = None) -> bytes:
        """Write a request as `hot` does."""
        start = b"POST %b HTTP/1.1" % self.path
        return hot(*lines, body=self.good if body is None else body, start=start)

    def keyed(self, number: int, body: bytes | None = None) -> bytes:
        """Write a request with a key of the way's own."""
        return self.asked(b"Idempotency-Key: k%06d-@@@" % number, body=body)


TRANSACTION = Write(PATH, GOOD)
TRANSFER = Write(
    b"/api/v1/transfers",
    b'{"debit_account_id":"@@@","credit_account_id":"BANK","amount":"1.00"}',
)
HOLD = Write(b"/api/v1/holds", b'{"account_id":"@@@","amount":"1.00","credit_account_id":"BANK"}')


class Wire:
    """One raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def to(cls, port: int) -> Self:
        """Connect."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def send(self, data: bytes, cuts: Iterable[int] = ()) -> None:
        """Send, in parts where it is cut, each with time to arrive alone."""
        start = 0
        for cut in [*sorted(cuts), len(data)]:
            if start:
                await asyncio.sleep(0.001)
            self._writer.write(data[start:cut])
            start = cut
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    async def answer(self, timeout_s: float = ANSWER_S) -> Answer | None:
        """Read one answer; None when the connection ends first, TimeoutError when nothing comes."""
        async with asyncio.timeout(timeout_s):
            try:
                head = await self._reader.readuntil(b"\r\n\r\n")
                start, *lines = head[:-4].decode("latin-1").split("\r\n")
                pairs = [line.split(": ", 1) for line in lines]
                headers = [(name.lower(), value) for name, value in pairs]
                body = await self._reader.readexactly(int(dict(headers).get("content-length", 0)))
            except (asyncio.IncompleteReadError, ConnectionError):
                return None
        return Answer(int(start.split(" ")[1]), headers, body)

    async def answers(self, count: int) -> list[Answer]:
        """Read so many answers, fewer when the connection ends first."""
        read: list[Answer] = []
        while len(read) < count and (answer := await self.answer()) is not None:
            read.append(answer)
        return read


async def conversation(port: int, raw: bytes, tail: bytes = b"") -> list[Answer | None]:
    """Send bytes and then a question anything alive answers; ends with that answer or None.

    With a `tail`, which completes what the bytes may have left open, both follow at once; without
    one, when something was answered.
    """
    heard: list[Answer | None] = []
    async with await Wire.to(port) as wire:
        await wire.send(raw)
        if not tail:
            heard.append(await wire.answer())
        await wire.send(tail + PROBE)
        while not heard or (heard[-1] is not None and heard[-1].body != ALIVE):
            heard.append(await wire.answer())
    return heard


def comparable(answer: Answer | None, word: bytes) -> Any:
    """Everything of an answer that must be the same on both ways; `word` stood for the tag."""
    if answer is None:
        return "closed"
    headers, body = dict(answer.headers), answer.body.replace(word, TAG)
    if len(headers) != len(answer.headers):
        return f"a header twice: {answer.headers}"
    is_generated = _GENERATED_ID.fullmatch(headers.get("x-request-id", "")) is not None
    if is_generated:
        headers["x-request-id"] = "generated"
    if "allow" in headers:  # in no particular order
        headers["allow"] = " ".join(sorted(headers["allow"].split(", ")))
    told: Any = body
    if headers.get("content-type", "").endswith("json"):
        # The length was used to read the body; drawn names need not be of one length.
        del headers["content-length"]
        told = [
            (name, "drawn" if name in _DRAWN or (name == "request_id" and is_generated) else value)
            for name, value in json.loads(body, object_pairs_hook=list)
        ]
    return answer.status, sorted(headers.items()), told
