"""One listener's answer: server-sent events, one for each snapshot that it has time for."""

import asyncio
from collections.abc import Callable

from litestar.types import Receive, Scope, Send

from app import limits
from app.infra.http import EVENT_STREAM, STILL_ADMITTED
from app.web.live import LiveFeed

_HEADERS = [
    (b"content-type", EVENT_STREAM.encode()),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


class LiveStream:
    """An answer that goes on until the listener or the process leaves, or its key stops working."""

    def __init__(self, feed: LiveFeed) -> None:
        """Take part from when the answer begins."""
        self._feed = feed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; raises `TooManyListeners`."""
        is_admitted = scope["state"].get(STILL_ADMITTED, _nobody_asks)
        with self._feed.listening():
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            gone = asyncio.create_task(_until_gone(receive))
            telling = asyncio.create_task(self._tell(send, is_admitted))
            try:
                await asyncio.wait({gone, telling}, return_when=asyncio.FIRST_COMPLETED)
                if telling.done() and telling.result():
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
            finally:
                gone.cancel()
                telling.cancel()

    async def _tell(self, send: Send, is_admitted: Callable[[], bool]) -> bool:
        """Send snapshots; False when the listener took none for too long."""
        body, number = b"retry: %d\n\n" % limits.LIVE_RECONNECT_MS, 0
        while is_admitted():
            try:
                async with asyncio.timeout(limits.LIVE_SEND_S):
                    await send({"type": "http.response.body", "body": body, "more_body": True})
            except TimeoutError:
                return False
            news = await self._feed.after(number)
            if news is None:
                return True
            number, body = news
        return True


def _nobody_asks() -> bool:
    return True


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
