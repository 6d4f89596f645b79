"""A request on the fast lane, with a span; takes the plain one's place where traces are wanted."""

import asyncio
from typing import TYPE_CHECKING, Any

from app import errors
from app.api.fast_lane import HotRequest
from app.ledger.hot_routes import HotRoute
from app.ledger.service import LedgerService

if TYPE_CHECKING:
    from app.api.fast_lane import Connection
    from app.infra.tracing import Tracing


class TracedRequest(HotRequest):
    """A hot request from its head to its answer, under a span."""

    __slots__ = ("_span", "_tracing")

    def __init__(
        self,
        tracing: "Tracing",
        connection: "Connection",
        route: HotRoute,
        headers: dict[bytes, bytes],
    ) -> None:
        """Begin the span."""
        super().__init__(connection, route, headers)
        sent = headers.get(b"traceparent")
        self._tracing = tracing
        self._span = tracing.request(
            route.endpoint, None if sent is None else sent.decode("latin-1")
        )

    def decide(self, ledger: LedgerService) -> None:
        """Decide under the span."""
        with self._tracing.under(self._span), self._tracing.step("validate"):
            super().decide(ledger)

    def _decided(self, decision: "asyncio.Future[Any]") -> None:
        super()._decided(decision)
        if decision.cancelled():
            self._span.end()
        elif decision.exception() is None:
            self._tracing.end(self._span, 201, self._name, None)

    def _answer_problem(self, error: errors.LedgerError) -> None:
        super()._answer_problem(error)
        self._tracing.end(self._span, error.status, self._name, error.code)
