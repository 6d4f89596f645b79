"""An HTTP server that misbehaves on purpose, in front of the real service or alone.

Each request takes the next behaviour of the list, the last one again and again. It runs in a thread
of its own, so that a client that blocks can be tested in the test's thread.
"""

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import httpx


class Seen(NamedTuple):
    """A request that arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Behaviour(NamedTuple):
    """What to do with a request: pass it on or not, and what to answer, if anything."""

    passes: bool = False
    answer: bytes | None = None
    hangs: bool = False
    drips: bool = False


def answering(status: str, body: bytes = b"", **headers: str) -> Behaviour:
    """Answer so without asking the service."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    head = [f"HTTP/1.1 {status}", *lines, f"content-length: {len(body)}", "connection: close"]
    return Behaviour(answer="\r\n".join(head).encode() + b"\r\n\r\n" + body)


PASS = Behaviour(passes=True)
CUT = Behaviour(answer=b"")
DONE_AND_CUT = Behaviour(passes=True, answer=b"")
DONE_AND_GARBAGE = Behaviour(passes=True, answer=b"\x00\xffno http at all\r\n\r\n")
DONE_AND_HALF = Behaviour(
    passes=True, answer=b"HTTP/1.1 201 Created\r\ncontent-length: 500\r\n\r\n{"
)
DONE_AND_NONSENSE = Behaviour(
    passes=True,
    answer=b"HTTP/1.1 201 Created\r\ncontent-length: 6\r\nconnection: close\r\n\r\n<html>",
)
HANG = Behaviour(hangs=True)
DRIP = Behaviour(drips=True)


class FlakyServer(socketserver.ThreadingTCPServer):
    """Listens on a free port and keeps what arrived."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, upstream: str, behaviours: list[Behaviour]) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.seen: list[Seen] = []
        self.ending = threading.Event()
        self._upstream = upstream
        self._behaviours = behaviours
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def keys(self) -> list[str | None]:
        """The keys that arrived, in order."""
        return [each.headers.get("idempotency-key") for each in self.seen]

    def take(self, seen: Seen) -> Behaviour:
        """Note a request and say what to do with it."""
        with self._lock:
            behaviour = self._behaviours[min(len(self.seen), len(self._behaviours) - 1)]
            self.seen.append(seen)
            return behaviour

    def ask(self, seen: Seen) -> bytes:
        """Have the service do it; returns its answer as it would go over the wire."""
        own = {"host", "connection", "content-length", "accept-encoding"}
        headers = {name: value for name, value in seen.headers.items() if name not in own}
        answer = httpx.request(
            seen.method, self._upstream + seen.path, headers=headers, content=seen.body, timeout=30
        )
        kept = {"content-type", "idempotency-replayed", "etag", "retry-after"}
        lines = [f"{name}: {value}" for name, value in answer.headers.items() if name in kept]
        head = "\r\n".join([f"HTTP/1.1 {answer.status_code} X", "connection: close", *lines])
        length = f"\r\ncontent-length: {len(answer.content)}\r\n\r\n"
        return head.encode() + length.encode() + answer.content


class _Connection(socketserver.StreamRequestHandler):
    server: FlakyServer

    def handle(self) -> None:
        seen = self._read()
        if seen is None:
            return
        behaviour = self.server.take(seen)
        answer = self.server.ask(seen) if behaviour.passes else b""
        if behaviour.hangs:
            self.server.ending.wait(60)
        elif behaviour.drips:
            self._drip()
        elif behaviour.answer is not None:
            self.wfile.write(behaviour.answer)
        else:
            self.wfile.write(answer)
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

    def _drip(self) -> None:
        """Answer a byte at a time, without end."""
        with contextlib.suppress(OSError):
            self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
            while not self.server.ending.wait(0.05):
                self.wfile.write(b" ")

    def _read(self) -> Seen | None:
        first = self.rfile.readline().decode("latin-1").split()
        if not first:
            return None
        headers = {}
        while line := self.rfile.readline().strip():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        body = self.rfile.read(int(headers.get("content-length", "0")))
        return Seen(first[0], first[1], headers, body)


@contextmanager
def flaky(upstream: str, *behaviours: Behaviour) -> Iterator[FlakyServer]:
    """Run a server that behaves so."""
    server = FlakyServer(upstream, list(behaviours))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.ending.set()
        server.shutdown()
        server.server_close()
        thread.join()
