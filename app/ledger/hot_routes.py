"""The writes that have a short way in beside the router: how each is read, begun and answered.

Both ways answer from the same parts: the fast lane in its own way, the router by `answer_hot`.
"""

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from litestar import Response
from litestar.exceptions.http_exceptions import RequestEntityTooLarge

from app import errors
from app.infra.http import JSON, HttpRequest, note, read_in_time
from app.ledger.parameters import REPLAYED
from app.ledger.service import LedgerService


class Sent(NamedTuple):
    """What a client sent: two headers as they came, and the body."""

    content_type: str
    key_header: str | None
    body: bytes


class HotRoute(NamedTuple):
    """One of them. `begin` raises what can be refused at once, what is wrong with the form before
    anything is asked of the ledger. A caller that cancels what it gives takes nothing back that
    is under way; its result says whether it is `replayed`.
    """

    path: str
    begin: Callable[[LedgerService, Sent], "asyncio.Future[Any]"]
    # The body of the 201, and what a line in the log says of it.
    body_of: Callable[[Any], bytes]
    known_of: Callable[[Any], dict[str, Any]]
    # A refusal of what was sent in this body as its client is told.
    refusal: Callable[[errors.LedgerError, bytes], errors.LedgerError]

    @property
    def endpoint(self) -> str:
        """Its name in metrics, logs and traces."""
        return f"POST {self.path}"


async def read_body(request: HttpRequest) -> bytes:
    """Read a body in bounded time. Raises `BodyTooLarge`, `BodyTimeout`, `BodyIncomplete`."""
    try:
        return await read_in_time(request.body())
    except RequestEntityTooLarge as exc:
        raise errors.BodyTooLarge from exc


def sent_in(request: HttpRequest, body: bytes) -> Sent:
    """Take what counts of a request whose body was read."""
    headers = request.headers
    return Sent(headers.get("content-type", ""), headers.get("idempotency-key"), body)


async def answer_hot(
    route: HotRoute, request: HttpRequest, ledger: LedgerService
) -> Response[bytes]:
    """Decide a request that came by the router."""
    body = b""
    try:
        body = await read_body(request)
        accepted = await route.begin(ledger, sent_in(request, body))
    except errors.LedgerError as error:
        raise route.refusal(error, body) from error
    note(request.scope, **route.known_of(accepted))
    return Response(
        route.body_of(accepted),
        status_code=201,
        headers=REPLAYED if accepted.replayed else None,
        media_type=JSON,
    )
