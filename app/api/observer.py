"""What is known of each request once it is answered: counted, timed, traced, and logged where it
was refused, failed or slow. Neither way to the ledger knows more of this than two calls.
"""

import logging
from collections.abc import Iterator
from time import monotonic, perf_counter
from typing import Any

from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send
from prometheus_client.core import Metric

from app import errors, limits
from app.infra.http import EVENT_STREAM, noted_of
from app.infra.log import fields
from app.infra.telemetry import Counters, Histograms
from app.ledger.hot_routes import HotRoute
from app.ledger.instruments import Instruments
from app.ledger.routes import HOT_ROUTES
from app.settings import Observation

UNKNOWN = "unknown"
_WRITES = "POST "
_ENDLESS = (b"content-type", EVENT_STREAM.encode())
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_REFUSED, _FAILED = 400, 500
_COUNTED_TOGETHER = 1_000
_log = logging.getLogger(__name__)


class RequestObserver:
    """One API process's requests."""

    def __init__(self, instruments: Instruments, rules: Observation) -> None:
        """`instruments` are the ledger's."""
        self.instruments = instruments
        self.counts = instruments.metrics
        # Whether anything is done about a request that was accepted, slow or not.
        self.is_on = self.counts or rules.access_log
        self._logs_all = rules.access_log
        # A request that took so long gets a line.
        self._line_s = 0.0 if rules.access_log else rules.slow_request_ms / 1_000
        self._seconds = Histograms(
            "subbalance_http_request_seconds", "From a request's head to its answer", "endpoint"
        )
        self._requests = Counters(
            "subbalance_http_requests", "Requests answered", ("endpoint", "status")
        )
        self._problems = Counters("subbalance_problems", "Requests answered so", ("code",))
        self._validate = instruments.steps.of("validate")
        # How long hot requests took that were accepted and are not counted yet, by path.
        self._hot_took: dict[str, list[float]] = {each.path: [] for each in HOT_ROUTES.values()}
        self._hot_checked: list[float] = []
        for route in HOT_ROUTES.values():
            self._seconds.of(route.endpoint)  # there from the start, for who asks how it changes
        self._second, self._lines, self._left_out = 0, 0, 0

    def accepted(
        self, route: HotRoute, began: float, checked: float, request_id: str, acceptance: Any
    ) -> None:
        """Note that a hot request was accepted: kept as it is, and counted with many others."""
        seconds = perf_counter() - began
        self._hot_took[route.path].append(seconds)
        self._hot_checked.append(checked - began)
        if len(self._hot_checked) >= _COUNTED_TOGETHER:
            self._count_hot()
        if seconds >= self._line_s:
            self._write(route.endpoint, 201, seconds, request_id, route.known_of(acceptance))

    def _count_hot(self) -> None:
        checked, self._hot_checked = self._hot_checked, []
        if self.counts and checked:
            self._validate.observe_all(checked)
        for route in HOT_ROUTES.values():
            took, self._hot_took[route.path] = self._hot_took[route.path], []
            if self.counts and took:
                self._seconds.of(route.endpoint).observe_all(took)
                self._requests.add((route.endpoint, "201"), len(took))

    def answered(
        self,
        endpoint: str,
        status: int,
        began: float,
        request_id: str,
        **known: Any,
    ) -> None:
        """Note an answer; `known` is what a log line would have, such as `code`."""
        if status < _REFUSED and not self.is_on:
            return
        seconds = perf_counter() - began
        if self.counts:
            self._seconds.of(endpoint).observe(seconds)
            self._requests.add((endpoint, str(status)))
            if "code" in known:
                self._problems.add((known["code"] or UNKNOWN,))
        if status >= _REFUSED or seconds >= self._line_s:
            self._write(endpoint, status, seconds, request_id, known)

    def refused(self, status: int, began: float, request_id: str, code: str) -> None:
        """Note that a connection was refused what came over it before it was a request."""
        self.answered(UNKNOWN, status, began, request_id, code=code)

    def _write(
        self, endpoint: str, status: int, seconds: float, request_id: str, known: dict[str, Any]
    ) -> None:
        """Log a request; a flood of them is counted instead, and said when it is over."""
        if not _log.isEnabledFor(logging.INFO):
            return
        second = int(monotonic())
        if second != self._second:
            left_out, self._second, self._lines, self._left_out = self._left_out, second, 0, 0
            if left_out:
                _log.info("%s more requests were refused, failed or slow", left_out)
        self._lines += 1
        if self._lines > limits.REQUEST_LINES_PER_SECOND_MAX and not self._logs_all:
            self._left_out += 1
            return
        word = "failed" if status >= _FAILED else "refused" if status >= _REFUSED else "answered"
        about = fields(
            request_id=request_id,
            endpoint=endpoint,
            status=status,
            duration_ms=round(seconds * 1_000, 3),
            **known,
        )
        _log.info("request %s", word, extra=about)

    def observed(self, app: ASGIApp) -> ASGIApp:
        """Note every answer of an application."""

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            await self._serve(app, scope, receive, send)  # type: ignore[arg-type]

        return serve

    async def _serve(self, app: ASGIApp, scope: HTTPScope, receive: Receive, send: Send) -> None:
        began = perf_counter()
        status, request_id, is_endless = 0, "", False

        def note() -> None:
            if not is_endless:
                self._noted(scope, status, began, request_id)

        async def noted(message: Message) -> None:
            nonlocal status, request_id, is_endless
            if message["type"] == "http.response.start":
                status, headers = message["status"], list(message["headers"])
                sent = (value for name, value in headers if name == b"x-request-id")
                request_id = next(sent, b"").decode("latin-1")
                if _ENDLESS in headers:
                    # Its end says when somebody left, and not how long an answer took.
                    note()
                    is_endless = True
            await send(message)

        tracing = self.instruments.tracing
        if tracing is None:
            try:
                await app(scope, receive, noted)
            finally:
                note()
            return
        names = (value for name, value in scope["headers"] if name == b"traceparent")
        sent = next(names, None)
        span = tracing.request(scope["method"], None if sent is None else sent.decode("latin-1"))
        try:
            with tracing.under(span):
                await app(scope, receive, noted)
        finally:
            span.update_name(endpoint_of(scope))
            tracing.end(span, status, request_id, noted_of(scope).get("code"))
            note()

    def _noted(self, scope: HTTPScope, status: int, began: float, request_id: str) -> None:
        if not status:
            return  # its client went away before there was an answer
        known = noted_of(scope)
        if known.get("code") == errors.BodyIncomplete.code:
            return  # nobody is there to be told; what the connection says of it counts by itself
        self.answered(endpoint_of(scope), status, began, request_id, **known)

    def write_times(self) -> list[int]:
        """Tell how many writes were answered, by the time they took, between the bounds of
        `app.infra.telemetry.SECONDS`.
        """
        self._count_hot()
        return self._seconds.counts(_WRITES)

    def problems(self) -> dict[str, int]:
        """Tell how many requests were answered with a problem, by code."""
        return self._problems.by_last_label()

    def collect(self) -> Iterator[Metric]:
        """Describe what was counted."""
        self._count_hot()
        if self.counts:
            yield from (each.collect() for each in (self._seconds, self._requests, self._problems))


def endpoint_of(scope: HTTPScope) -> str:
    """Name a route by its method and template: never by what a client wrote."""
    template = scope.get("path_template")
    is_known = template and scope["method"] in _METHODS
    return f"{scope['method']} {template}" if is_known else UNKNOWN
