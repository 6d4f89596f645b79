"""The short way to the hot writes, `HOT_ROUTES`: below ASGI and its task for each request.

A hot request that comes whole, from the first byte to the last of what was received, and in the
plainest form is read here; uvicorn's own parser reads anything else, so there is one opinion on
where a request begins and ends. A hot request with nothing unusual about it is answered here, from
the same parts as the router's handler. Every other request goes on to the router as if this were
not there, and so does a hot one that comes while another is being answered: requests of one
connection are decided one after the other, either way. `SUBBALANCE_DIRECT_ROUTE=false` takes the
lane out.
"""

import asyncio
import logging
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle
from uvicorn.server import ServerState

from app import errors, limits
from app.api.answering import JSON_LINES, head_lines, lines, raw
from app.api.connection import BoundedConnection
from app.api.problem import known_of, problem, request_id
from app.api.whole_requests import WholeRequest, is_plain_host, whole_request
from app.ledger.hot_routes import HotRoute, Sent
from app.ledger.routes import HOT_ROUTES
from app.ledger.service import LedgerService
from app.security.guard import Guard

if TYPE_CHECKING:
    from app.api.observer import RequestObserver

_ACCEPTED = STATUS_LINE[201] + JSON_LINES
_REPLAYED = _ACCEPTED + b"idempotency-replayed: true\r\n"
_CLOSES = b"connection: close\r\n"
_log = logging.getLogger(__name__)


class FastLane:
    """What the connections of one server share."""

    def __init__(
        self,
        ledger: Callable[[], LedgerService],
        guard: Guard | None = None,
        observer: "RequestObserver | None" = None,
        *,
        connections_max: int = limits.CONNECTIONS_MAX,
        leaves_pages: bool = False,
    ) -> None:
        """`ledger` gives the service, or its stand-in while it is not open.

        With `leaves_pages` what a page in a browser asks goes to the router, which answers it.
        """
        self.ledger = ledger
        self.guard = guard if guard is not None and guard.is_on else None
        self.observer = observer
        self.connections_max = connections_max
        self.leaves_pages = leaves_pages
        self.request: Callable[[Connection, HotRoute, dict[bytes, bytes]], HotRequest] = HotRequest
        self.taken_count = 0

    def connection(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> asyncio.Protocol:
        """Begin a connection; uvicorn takes this as its `http`."""
        return Connection(self, config, server_state, app_state, _loop)


class HotRequest:
    """A request on the lane, from its head to its answer."""

    __slots__ = (
        "_began",
        "_body",
        "_checked",
        "_connection",
        "_headers",
        "_more",
        "_name",
        "_parts",
        "_route",
        "_size",
    )

    def __init__(
        self, connection: "Connection", route: HotRoute, headers: dict[bytes, bytes]
    ) -> None:
        self._began = self._checked = perf_counter()
        sent_id = headers.get(b"x-request-id")
        self._name = request_id(sent_id.decode("latin-1") if sent_id else None)
        self._connection = connection
        self._route = route
        self._headers = headers
        self._parts: list[bytes] = []
        self._size = 0
        self._body = b""
        self._more = b""

    def pass_guard(self, guard: Guard) -> None:
        """Let the guard look at the head; what it refuses is answered as the router would."""
        client = self._connection.client
        address = client[0] if client else None
        try:
            admitted = guard.admit("POST", self._route.path, self._headers, address)
        except errors.LedgerError as error:
            self._answer_problem(error)
        else:
            self._more = lines(raw(admitted.headers))

    def add(self, part: bytes) -> None:
        """Take a part of the body, bounded."""
        self._parts.append(part)
        self._size += len(part)
        if self._size > limits.BODY_BYTES_MAX:
            self.refuse(errors.BodyTooLarge())

    def decide(self, ledger: LedgerService) -> None:
        """Let the ledger decide now that the body is whole; what can be refused at once is."""
        headers, parts = self._headers, self._parts
        self._body = parts[0] if len(parts) == 1 else b"".join(parts)
        key = headers.get(b"idempotency-key")
        try:
            sent = Sent(
                headers.get(b"content-type", b"").decode("latin-1"),
                None if key is None else key.decode("latin-1"),
                self._body,
            )
            decision = self._route.begin(ledger, sent)
        except Exception as error:
            self.refuse(error)
        else:
            self._checked = perf_counter()
            decision.add_done_callback(self._decided)

    def _decided(self, decision: "asyncio.Future[Any]") -> None:
        if decision.cancelled():
            self._connection.transport.close()
            return
        error = decision.exception()
        if error is not None:
            self.refuse(error)
            return
        accepted = decision.result()
        self._answer(_REPLAYED if accepted.replayed else _ACCEPTED, self._route.body_of(accepted))
        observer = self._connection.observer
        if observer is not None and observer.is_on:
            observer.accepted(self._route, self._began, self._checked, self._name, accepted)

    def refuse(self, error: BaseException) -> None:
        """Answer with the problem that an error is."""
        if isinstance(error, errors.LedgerError):
            told = self._route.refusal(error, self._body)
        else:
            _log.error("unexpected error", exc_info=error)
            told = errors.InternalError()
        self._answer_problem(told)

    def _answer_problem(self, error: errors.LedgerError) -> None:
        status, headers, body = problem(error, self._name)
        rest = b"%bcontent-length: %d\r\n\r\n%b" % (self._more, len(body), body)
        self._connection.answer(STATUS_LINE[status] + head_lines(headers), rest)
        observer = self._connection.observer
        if observer is not None:
            observer.answered(
                self._route.endpoint, status, self._began, self._name, **known_of(error)
            )

    def _answer(self, head: bytes, body: bytes) -> None:
        rest = b"%bx-request-id: %b\r\ncontent-length: %d\r\n\r\n%b"
        told = rest % (self._more, self._name.encode(), len(body), body)
        self._connection.answer(head, told)


class Connection(BoundedConnection):
    """One client's connection: the bounded one, with the lane beside it."""

    def __init__(
        self,
        lane: FastLane,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        super().__init__(config, server_state, app_state, loop, lane.connections_max, lane.observer)
        self._lane = lane
        self._reading: HotRequest | None = None
        self._unanswered: HotRequest | None = None
        self._body_timer: asyncio.TimerHandle | None = None
        self._rest_timer: asyncio.TimerHandle | None = None
        self._resting_since: float | None = None
        self._is_parsed = False

    def take_request(self) -> None:
        """Take a hot request; leave any other to the router."""
        # One before it in the same data may have been answered, and this begun the idle time.
        self._unset_keepalive_if_required()
        # Of a header that is there twice the router takes the first, so that is what counts.
        headers = dict(reversed(self.headers))
        route = HOT_ROUTES.get(self.url)
        if route is not None and self._is_hot(headers):
            self._reading = self._begin(route, headers)
        else:
            super().take_request()

    def _begin(self, route: HotRoute, headers: dict[bytes, bytes]) -> HotRequest:
        """Begin a hot request, which the guard may end at once."""
        lane = self._lane
        request = self._unanswered = lane.request(self, route, headers)
        lane.taken_count += 1
        if lane.guard is not None:
            request.pass_guard(lane.guard)
        return request

    def _is_hot(self, headers: dict[bytes, bytes]) -> bool:
        """Tell whether the lane may take the request whose head is read."""
        parser = self.parser
        return (
            parser.get_method() == b"POST"
            and parser.get_http_version() == "1.1"
            and parser.should_keep_alive()
            and not parser.should_upgrade()
            and not self.expect_100_continue
            and b"transfer-encoding" not in headers
            and not (self._lane.leaves_pages and b"origin" in headers)
            and is_plain_host(headers.get(b"host", b""))
            and self._unanswered is None
            and (self.cycle is None or self.cycle.response_complete)
            and not self.flow.write_paused
        )

    def on_body(self, body: bytes) -> None:
        """Collect a hot request's body; what follows an early refusal is dropped."""
        reading = self._reading
        self._untold_bytes = 0
        if reading is None:
            super().on_body(body)
        elif reading is self._unanswered:
            reading.add(body)

    def on_message_complete(self) -> None:
        """Begin the decision."""
        reading = self._reading
        if reading is None:
            super().on_message_complete()
            return
        self.owe_nothing()
        self._stop_reading()
        if reading is self._unanswered:
            reading.decide(self._lane.ledger())

    def data_received(self, data: bytes) -> None:
        """Take a whole plain request at once, or feed the parser; a body that is not whole yet has
        a limited time. A connection that the parser has read from stays with it.
        """
        if not self._is_parsed and self._unanswered is None and not self.flow.write_paused:
            found = whole_request(data)
            if found is not None and not (self._lane.leaves_pages and b"origin" in found.headers):
                self._take_whole(found)
                return
        self._is_parsed = True
        super().data_received(data)
        if self._reading is not None and self._body_timer is None:
            self._body_timer = self.loop.call_later(limits.BODY_READ_S, self._body_is_late)

    def _take_whole(self, found: WholeRequest) -> None:
        self._unset_keepalive_if_required()
        self._owed_since = None
        request = self._begin(found.route, found.headers)
        if request is not self._unanswered:
            return
        request.add(found.body)
        if request is self._unanswered:
            request.decide(self._lane.ledger())

    def _body_is_late(self) -> None:
        if self._reading is not None and self._reading is self._unanswered:
            self._reading.refuse(errors.BodyTimeout())

    def _stop_reading(self) -> None:
        self._reading = None
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    def answer(self, head: bytes, rest: bytes) -> None:
        """Write the answer, unless nobody waits for it any more, and go on to what waits for it."""
        self._unanswered = None
        if self.transport.is_closing():
            return
        self.server_state.total_requests += 1
        self.transport.write(b"".join((head, _CLOSES if self._ending else b"", rest)))
        if self._ending:
            self.transport.close()
        elif self.pipeline:
            super()._start_asgi_task(*self.pipeline.pop())
        elif self._is_refused:
            self.say_refusal()
        else:
            self._rest()

    def _rest(self) -> None:
        """Begin the idle time. Its timer is not made anew for every request: one that ends too soon
        goes on for what is left.
        """
        self._resting_since = self.loop.time()
        if self._rest_timer is None:
            self._rest_timer = self.loop.call_later(self.timeout_keep_alive, self._end_if_rested)

    def _end_if_rested(self) -> None:
        self._rest_timer = None
        if self._resting_since is None:
            return
        left_s = self._resting_since + self.timeout_keep_alive - self.loop.time()
        if left_s > 0:
            self._rest_timer = self.loop.call_later(left_s, self._end_if_rested)
        else:
            self.timeout_keep_alive_handler()

    def _unset_keepalive_if_required(self) -> None:
        """End the idle time: the lane's own, or the one that began after the router's answer."""
        if self._resting_since is None:
            super()._unset_keepalive_if_required()
        self._resting_since = None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Start a request of the router's when the lane's before it is answered."""
        if self._unanswered is None:
            super()._start_asgi_task(cycle, app)
        else:
            self.pipeline.appendleft((cycle, app))

    def is_answering(self) -> bool:
        """Tell whether a request is under way, on the lane or beside it."""
        return self._unanswered is not None or super().is_answering()

    def shutdown(self) -> None:
        """End the connection, after what is being answered."""
        if self._unanswered is not None and not self.pipeline:
            self._ending = True
        else:
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer for the rest of a body; what is being decided goes on."""
        self._stop_reading()
        if self._rest_timer is not None:
            self._rest_timer.cancel()
            self._rest_timer = None
        super().connection_lost(exc)
