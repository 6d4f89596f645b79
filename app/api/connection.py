"""One client's connection with a bound on everything it can make the service wait for or keep.

uvicorn bounds the idle time after an answer. Here are the bounds of the rest: how many connections
there are, how long a head, a body and a client's reading may take, how large a head may be, how
many requests may wait in line. What is refused here is answered as a problem, after the answers to
what came before it, and ends the connection.
"""

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from app import errors, limits
from app.api.answering import head_lines
from app.api.problem import problem, request_id

if TYPE_CHECKING:
    from app.api.observer import RequestObserver

# In the state of a server that is about to end.
LEAVING = "leaving"


class BoundedConnection(HttpToolsProtocol):
    """uvicorn's connection, bounded."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        connections_max: int = limits.CONNECTIONS_MAX,
        observer: "RequestObserver | None" = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.observer = observer
        self._connections_max = connections_max
        # Since when the client owes the rest of a head or a body; None when it owes nothing.
        self._owed_since: float | None = None
        self._is_in_body = False
        self._watch: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        # Bytes since the parser last told of anything, and those of this request's headers.
        self._untold_bytes = 0
        self._head_bytes = 0
        self._header_count = 0
        self._refusal: errors.LedgerError | None = None
        self._is_refused = False
        self._refused_at = 0.0
        self._started: RequestResponseCycle | None = None
        # The next answer is the last one.
        self._ending = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a first head, unless there are too many connections."""
        super().connection_made(transport)
        if len(self.connections) > self._connections_max:
            self.refuse(errors.TooManyConnections())
        else:
            self._owe()
        # One that was accepted before the listener closed may come when all others are told.
        if self.app_state.get(LEAVING):
            self.shutdown()

    def shutdown(self) -> None:
        """End the connection after what is being answered, or else after its next answer: closed at
        once it could cut off a request that is on its way. One that stays idle is closed.
        """
        if self.is_answering():
            super().shutdown()
        else:
            self._ending = True
            self.loop.call_later(limits.LEAVE_S, self._leave)

    def _leave(self) -> None:
        if not self.is_answering() and not self.transport.is_closing():
            self.transport.close()

    def _owe(self) -> None:
        """Begin to wait for the client; one timer at a time looks after all waits."""
        self._owed_since = self.loop.time()
        if self._watch is None:
            self._watch = self.loop.call_later(limits.HEAD_READ_S, self._look)

    def _look(self) -> None:
        """End the connection if the client takes too long; while it is we who wait, it may."""
        self._watch = None
        if self._owed_since is None or self.transport.is_closing():
            return
        now = self.loop.time()
        if self.flow.read_paused or (self.is_answering() and not self._is_in_body):
            self._owed_since = now
        allowed_s = limits.BODY_ABANDONED_S if self._is_in_body else limits.HEAD_READ_S
        left_s = self._owed_since + allowed_s - now
        if left_s > 0:
            self._watch = self.loop.call_later(left_s, self._look)
        elif self._is_in_body or not self._untold_bytes + self._head_bytes:
            self.transport.close()
        else:
            self.refuse(errors.HeadTimeout())

    def data_received(self, data: bytes) -> None:
        """Feed the parser, which may keep only so much of what it tells nothing about."""
        if self._is_refused:
            self.flow.pause_reading()
            return
        if self._owed_since is None:
            self._owe()
        # In pieces, for what follows the last thing the parser tells of in one is not counted.
        for start in range(0, len(data), limits.PARSED_BYTES_MAX):
            if not self._feed(data[start : start + limits.PARSED_BYTES_MAX]):
                return

    def _feed(self, piece: bytes) -> bool:
        """Feed the parser; false when there is nothing more to read."""
        self._untold_bytes += len(piece)
        super().data_received(piece)
        if self._untold_bytes > limits.HEAD_BYTES_MAX:
            self.refuse(errors.HeadersTooLarge())
        return not self._is_refused

    def on_message_begin(self) -> None:
        """Begin to count a request's head."""
        super().on_message_begin()
        self._untold_bytes = self._head_bytes = self._header_count = 0
        self._is_in_body = False
        self._owed_since = self.loop.time()

    def on_url(self, url: bytes) -> None:
        """Take a part of the request's target."""
        super().on_url(url)
        self._untold_bytes = 0
        self._head_bytes += len(url)
        if len(self.url) > limits.REQUEST_TARGET_BYTES_MAX:
            self._stop_parsing(errors.RequestTargetTooLong())

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; what comes after the body counts, and is no header of the request."""
        self._untold_bytes = 0
        self._head_bytes += len(name) + len(value) + 4
        self._header_count += 1
        if self._head_bytes > limits.HEAD_BYTES_MAX or self._header_count > limits.HEADERS_MAX:
            self._stop_parsing(errors.HeadersTooLarge())
        if not self._is_in_body:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Take the request whose head is read, unless too many wait in line."""
        self._untold_bytes = 0
        if len(self.pipeline) >= limits.PIPELINE_MAX:
            self._stop_parsing(errors.PipelineTooDeep())
        self.take_request()
        self._is_in_body = True
        self._owed_since = self.loop.time()

    def take_request(self) -> None:
        """Hand the request to the application."""
        super().on_headers_complete()
        if self._ending:
            self.cycle.keep_alive = False

    def on_chunk_header(self) -> None:
        """Note that a chunk began."""
        self._untold_bytes = 0

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._untold_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Let the application know that the request is whole."""
        self.owe_nothing()
        super().on_message_complete()

    def owe_nothing(self) -> None:
        """Note that the whole request is here."""
        self._untold_bytes = 0
        self._is_in_body = False
        self._owed_since = None

    def _stop_parsing(self, error: errors.LedgerError) -> None:
        """Make the parser stop here; it calls `send_400_response`."""
        self._refusal = error
        raise error

    def is_answering(self) -> bool:
        """Tell whether a request is under way whose answer is not written."""
        started = self._started
        return bool(self.pipeline) or (started is not None and not started.response_complete)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Start a request of the router's."""
        self._started = cycle
        super()._start_asgi_task(cycle, app)

    def refuse(self, error: errors.LedgerError) -> None:
        """Answer with a problem, when what came before is answered, and end the connection."""
        self._refusal = error
        self.send_400_response("")

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  uvicorn's words are replaced
        """Refuse what was last read, after the answers to what came before it."""
        if self._is_refused:
            return
        self._is_refused = True
        self._refused_at = perf_counter()
        self._owed_since = None
        if self._is_in_body:
            self._give_up(self.cycle)
        if self.is_answering():
            self.flow.pause_reading()
        else:
            self.say_refusal()

    def _give_up(self, cycle: RequestResponseCycle | None) -> None:
        """Forget the request whose body turned out wrong: nothing was done of it."""
        self._is_in_body = False
        if cycle is None or cycle.response_complete:
            return
        if cycle.response_started:
            self.transport.close()
        if self.pipeline and self.pipeline[0][0] is cycle:
            self.pipeline.popleft()
        cycle.disconnected = cycle.response_complete = True
        cycle.message_event.set()

    def say_refusal(self) -> None:
        """Write the problem and close."""
        if self.transport.is_closing():
            return
        error = self._refusal or errors.MalformedHttp()
        name = request_id(None)
        status, headers, body = problem(error, name)
        head = STATUS_LINE[status] + head_lines(headers) + b"connection: close\r\n"
        length = b"content-length: %d\r\n\r\n" % len(body)
        self.transport.write(b"".join((head, length, body)))
        self.transport.close()
        if self.observer is not None:
            self.observer.refused(status, self._refused_at, name, error.code)

    def on_response_complete(self) -> None:
        """Go on to what waits in line, or to the refusal of what came after it."""
        super().on_response_complete()
        if self._is_refused and not self.is_answering():
            self.say_refusal()

    def pause_writing(self) -> None:
        """Wait a bounded time for a client that does not read."""
        super().pause_writing()
        if self._stall is None:
            self._stall = self.loop.call_later(limits.ANSWER_STALLED_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Note that the client reads."""
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the waiting."""
        for timer in (self._watch, self._stall):
            if timer is not None:
                timer.cancel()
        self._watch = self._stall = None
        super().connection_lost(exc)
