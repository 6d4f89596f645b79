"""OpenTelemetry spans: one for a request, one for a batch with links to its requests, one for each
step. Nothing of OpenTelemetry is imported unless traces are wanted.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from app.errors import InvalidSettings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, SpanContext

_SERVER_ERROR = 500
# So many requests of a batch are linked to it; OpenTelemetry drops more by itself.
_LINKS_MAX = 128


class Tracing:
    """Makes the spans of one process."""

    def __init__(self, provider: "TracerProvider") -> None:
        """`provider` knows where spans go."""
        from opentelemetry import context, propagate, trace  # noqa: PLC0415  only if wanted

        self._context, self._propagate, self._trace = context, propagate, trace
        self._provider = provider
        self._tracer = provider.get_tracer("sub-balance")
        self._requests: dict[Any, SpanContext] = {}

    @property
    def remembered_count(self) -> int:
        """How many requests' spans wait for their batch."""
        return len(self._requests)

    def request(self, name: str, traceparent: str | None) -> "Span":
        """Begin a request's span, in the trace that its client names."""
        carrier = {} if traceparent is None else {"traceparent": traceparent}
        context = self._propagate.extract(carrier, self._context.Context())
        kind = self._trace.SpanKind.SERVER
        return self._tracer.start_span(name, context=context, kind=kind)

    def under(self, span: "Span") -> AbstractContextManager[Any]:
        """Make a request's span the one that what happens belongs to."""
        return self._trace.use_span(span, record_exception=False, set_status_on_exception=False)

    def end(self, span: "Span", status: int, request_id: str, code: str | None) -> None:
        """End a request's span."""
        span.set_attribute("http.response.status_code", status)
        span.set_attribute("subbalance.request_id", request_id)
        if code is not None:
            span.set_attribute("subbalance.code", code)
        if status >= _SERVER_ERROR:
            span.set_status(self._trace.StatusCode.ERROR)
        span.end()

    def remember(self, waiter: Any) -> None:
        """Remember, until its future is done, which request's span something was queued under."""
        span_context = self._trace.get_current_span().get_span_context()
        if span_context.is_valid and waiter not in self._requests:
            self._requests[waiter] = span_context
            waiter.future.add_done_callback(lambda _: self._requests.pop(waiter, None))

    def batch(self, kind: str, waiters: Iterable[Any]) -> AbstractContextManager[Any]:
        """Run a batch under a span of its own that is linked to those of its requests."""
        contexts = [self._requests[each] for each in waiters if each in self._requests]
        return self._tracer.start_as_current_span(
            f"batch {kind}",
            context=self._context.Context(),
            links=[self._trace.Link(each) for each in contexts[:_LINKS_MAX]],
            attributes={"subbalance.requests": len(contexts)},
        )

    def step(self, name: str) -> AbstractContextManager[Any]:
        """Run a step under a span below the one that is current."""
        return self._tracer.start_as_current_span(name)

    def close(self) -> None:
        """Send what is left; bounded by the exporter's time-out."""
        self._provider.shutdown()


@contextmanager
def open_tracing(endpoint: str, process: str) -> Iterator[Tracing | None]:
    """Send spans to an OTLP endpoint over HTTP; without one there is no tracing.

    Raises `InvalidSettings` where OpenTelemetry is not installed.
    """
    if not endpoint:
        yield None
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as exc:
        raise InvalidSettings(
            "OTEL_EXPORTER_OTLP_ENDPOINT needs OpenTelemetry: pip install 'sub-balance[traces]'"
        ) from exc
    provider = TracerProvider(resource=Resource.create({"service.name": f"sub-balance-{process}"}))
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracing = Tracing(provider)
    try:
        yield tracing
    finally:
        tracing.close()
