"""A server that answers every POST alike at once: what the generator can do when nothing waits."""

import asyncio
import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection as Pipe
from typing import Any, cast

import uvloop

from bench.load.mix import HOST

_BODY = (
    b'{"success":true,"message":"Transaksi berhasil diproses","transaction_id":'
    b'"00000000-0000-7000-8000-000000000000","account_id":"ACC001","amount":"1.00","type":"debit",'
    b'"currency":"USD","status":"PENDING","mode":"redis","timestamp":"2000-01-01T00:00:00.000000Z"}'
)
_ANSWER = (
    b"HTTP/1.1 201 Created\r\ncontent-length: %d\r\ncontent-type: application/json\r\n\r\n%b"
    % (
        len(_BODY),
        _BODY,
    )
)
_LENGTH = b"Content-Length: "
_START_TIMEOUT_S = 20.0


class _Answering(asyncio.Protocol):
    """Answers as soon as a request is whole; it only knows the requests of this load."""

    def __init__(self) -> None:
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        received = self._received + data
        head_end = received.find(b"\r\n\r\n")
        length_at = received.find(_LENGTH)
        if 0 <= length_at < head_end:
            length = int(received[length_at + len(_LENGTH) : head_end])
            if len(received) >= head_end + 4 + length:
                self._received = b""
                self._transport.write(_ANSWER)
                return
        self._received = received


@contextmanager
def trivial_server() -> Iterator[str]:
    """Serve in a process of its own; yields the URL."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=_serve, args=(there,), daemon=True)
    child.start()
    there.close()
    try:
        if not here.poll(_START_TIMEOUT_S):
            raise TimeoutError("the trivial server does not start")
        yield f"http://{HOST}:{here.recv()}"
    finally:
        child.terminate()
        child.join()
        here.close()


def _serve(pipe: "Pipe[Any, Any]") -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(_Answering, HOST, 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(serve())
