"""The short way to `POST /api/v1/transaction`, in front of the router.

The router costs more per request than deciding one. This layer answers that one path by the same
function as the router's handler; every other request falls through. `SUBBALANCE_DIRECT_ROUTE=false`
takes it out.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from litestar.types import ASGIApp

from app import errors, limits
from app.api.problem import PROBLEM_TYPE, problem, request_id
from app.ledger.routes import TRANSACTION_PATH, answer_transaction
from app.ledger.service import LedgerService

_log = logging.getLogger(__name__)
_JSON = b"application/json"
_Receive = Callable[[], Awaitable[Any]]


class DirectRoute:
    """Answers the hot path itself and hands everything else on."""

    def __init__(self, app: ASGIApp, ledger: Callable[[], LedgerService]) -> None:
        """`ledger` gives the service, or its stand-in while it is not open."""
        self._app = app
        self._ledger = ledger

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        is_hot = (
            scope["type"] == "http"
            and scope["path"] == TRANSACTION_PATH
            and scope["method"] == "POST"
        )
        if not is_hot:
            await self._app(scope, receive, send)
            return
        # Of a header that is there twice the router takes the first, so that is what counts.
        headers = dict(reversed(scope["headers"]))
        sent_id = headers.get(b"x-request-id")
        name = request_id(sent_id.decode("latin-1") if sent_id else None)
        try:
            status, more, body = await _answer(self._ledger(), headers, receive, name)
        except _ClientGone:
            return
        start = [(b"content-length", str(len(body)).encode()), *more]
        await send({"type": "http.response.start", "status": status, "headers": start})
        await send({"type": "http.response.body", "body": body, "more_body": False})


class _ClientGone(Exception):
    """The client went away before its request was complete."""


async def _answer(
    ledger: LedgerService, headers: dict[bytes, bytes], receive: _Receive, name: str
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Read the body, decide, and render; nothing but `_ClientGone` is raised."""
    key = headers.get(b"idempotency-key")
    content_type = headers.get(b"content-type", b"").decode("latin-1")
    try:
        body, replayed = await answer_transaction(
            ledger,
            content_type,
            key.decode("latin-1") if key is not None else None,
            lambda: _read(receive),
        )
    except _ClientGone:
        raise
    except errors.LedgerError as error:
        return _problem(error, name)
    except Exception:
        _log.exception("unexpected error")
        return _problem(errors.InternalError(), name)
    answered = [(b"content-type", _JSON), (b"x-request-id", name.encode())]
    if replayed:
        answered.append((b"idempotency-replayed", b"true"))
    return 201, answered, body


async def _read(receive: _Receive) -> bytes:
    """Read a whole body, bounded."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _ClientGone
        part = message.get("body", b"")
        size += len(part)
        if size > limits.BODY_BYTES_MAX:
            raise errors.BodyTooLarge
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _problem(error: errors.LedgerError, name: str) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    status, headers, body = problem(error, name)
    encoded = [(key.lower().encode(), value.encode()) for key, value in headers.items()]
    return status, [(b"content-type", PROBLEM_TYPE.encode()), *encoded], body
