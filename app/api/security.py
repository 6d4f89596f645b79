"""What stands before the router: the guard, and the headers that every answer gets."""

from asyncio import CancelledError
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from litestar import Litestar
from litestar.exceptions import HTTPException
from litestar.types import ASGIApp, Message, Receive, Send
from litestar.utils import normalize_path

from app.api.answering import NO_SNIFF, NO_STORE, RawHeaders, page_headers, raw
from app.api.problem import PROBLEM_TYPE, known_of, problem, request_id
from app.errors import LedgerError, OutcomeUnknown, Stopping
from app.infra.http import STILL_ADMITTED, note
from app.security.cors import Cors
from app.security.guard import Guard

_ASSETS = "/schema-assets/"
_READS = ("GET", "HEAD", "OPTIONS")


def secured(router: Litestar, guard: Guard, cors: Cors | None) -> ASGIApp:
    """Put the guard and the headers before a router."""

    async def serve(scope: Any, receive: Receive, send: Send) -> None:
        answer = _Answer(send, may_be_kept=scope["path"].startswith(_ASSETS))
        headers: Mapping[bytes, bytes] = {}
        if cors is not None or guard.is_on:
            # Of a header that is there twice the router takes the first, so that is what counts.
            headers = dict(reversed(scope["headers"]))
        if cors is not None:
            answer.added += cors.headers(headers)
            if cors.is_preflight(scope["method"], headers):
                await _send(answer, 204, cors.preflight_headers(headers), b"")
                return
        if guard.is_on:
            client = scope["client"]
            try:
                admitted = guard.admit(
                    scope["method"], scope["path"], headers, client[0] if client else None
                )
            except LedgerError as error:
                _tell_what(router, scope, error)
                await _send_problem(answer, error, headers)
                return
            answer.added += raw(admitted.headers)
            scope.setdefault("state", {})[STILL_ADMITTED] = partial(
                guard.still_admits, scope["method"], scope["path"], headers
            )
        try:
            await router(scope, receive, answer)
        except CancelledError:
            # The server is at the end of the time it gives to what is under way.
            if answer.is_begun:
                raise
            told = Stopping() if scope["method"] in _READS else OutcomeUnknown()
            note(scope, **known_of(told))
            await _send_problem(answer, told, headers or dict(reversed(scope["headers"])))

    return serve


class _Answer:
    """Sends an answer with more headers; those of a page follow from the page."""

    __slots__ = ("_held", "_may_be_kept", "_send", "added", "is_begun")

    def __init__(self, send: Send, *, may_be_kept: bool) -> None:
        self._send = send
        self._may_be_kept = may_be_kept
        self._held: Any = None
        self.added: RawHeaders = []
        self.is_begun = False

    async def __call__(self, message: Message) -> None:
        held: Any = self._held
        if message["type"] == "http.response.start":
            self.is_begun = True
            headers: RawHeaders = [*message["headers"], *self.added, *NO_SNIFF]
            named = dict(headers)
            if not self._may_be_kept and b"cache-control" not in named:
                headers += NO_STORE
            message["headers"] = headers
            if named.get(b"content-type", b"").startswith(b"text/html"):
                self._held = message
                return
        elif held is not None and message["type"] == "http.response.body":
            self._held = None
            page = b"" if message.get("more_body") else message["body"]
            held["headers"] += page_headers(page, dict(held["headers"]))
            await self._send(held)
        await self._send(message)


def _tell_what(router: Litestar, scope: Any, error: LedgerError) -> None:
    """Leave what was refused, and why, where the router would: that is what is counted."""
    note(scope, **known_of(error))
    with suppress(HTTPException):
        route = router.asgi_router.handle_routing(
            path=normalize_path(scope["path"]), method=scope["method"]
        )
        scope["path_template"] = route[-1]


async def _send_problem(
    answer: _Answer, error: LedgerError, headers: Mapping[bytes, bytes]
) -> None:
    sent_id = headers.get(b"x-request-id")
    status, told, body = problem(error, request_id(sent_id.decode("latin-1") if sent_id else None))
    await _send(answer, status, [(b"content-type", PROBLEM_TYPE.encode()), *raw(told)], body)


async def _send(answer: _Answer, status: int, headers: RawHeaders, body: bytes) -> None:
    length = [(b"content-length", str(len(body)).encode())] if body else []
    await answer({"type": "http.response.start", "status": status, "headers": [*headers, *length]})
    await answer({"type": "http.response.body", "body": body, "more_body": False})
