"""Spans: one for a request, one for a batch that is linked to it, one for each step; none unless
they are wanted.
"""

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from app.errors import InvalidSettings
from app.infra.tracing import Tracing, open_tracing
from app.ledger.instruments import Instruments
from app.main import server_config
from app.settings import Settings
from tests.api.test_metrics import open_account, post
from tests.conftest import listening, port_of

ROOT = Path(__file__).resolve().parents[2]
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter: InMemorySpanExporter) -> Tracing:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Tracing(provider)


@pytest.fixture(params=[True, False], ids=["lane", "router"])
async def traced(
    settings: Settings, tracing: Tracing, request: pytest.FixtureRequest
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a service whose spans are kept."""
    http = msgspec.structs.replace(settings.http, direct_route=request.param)
    settings = msgspec.structs.replace(settings, http=http)
    instruments = Instruments("api", metrics=True, tracing=tracing)
    async with listening(server_config(settings, instruments)) as server:
        url = f"http://127.0.0.1:{port_of(server)}"
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            yield client


def named(spans: tuple[ReadableSpan, ...], name: str) -> list[ReadableSpan]:
    return [span for span in spans if span.name == name]


async def test_a_request_its_batch_and_the_steps_have_spans(
    traced: httpx.AsyncClient, exporter: InMemorySpanExporter
) -> None:
    await open_account(traced)
    exporter.clear()
    traced.headers["traceparent"] = f"00-{TRACE}-b7ad6b7169203331-01"
    assert (await post(traced, "10", "credit", "a")).status_code == 201
    assert (await post(traced, "11", "debit", "b")).status_code == 422
    spans = exporter.get_finished_spans()
    accepted, refused = named(spans, "POST /api/v1/transaction")
    assert f"{accepted.context.trace_id:032x}" == TRACE
    assert accepted.attributes["http.response.status_code"] == 201
    assert refused.attributes["subbalance.code"] == "insufficient_available"
    first, second = named(spans, "batch single")
    for batch, request in ((first, accepted), (second, refused)):
        (link,) = batch.links
        assert link.context.trace_id == request.context.trace_id
        assert batch.context.trace_id != request.context.trace_id
    for step in ("admit", "journal", "confirm"):
        span, *_ = [each for each in named(spans, step) if _is_below(each, first)]
        assert first.start_time <= span.start_time <= span.end_time <= first.end_time + 10**9


async def test_a_hold_has_its_own_span(
    traced: httpx.AsyncClient, exporter: InMemorySpanExporter
) -> None:
    await open_account(traced)
    await post(traced, "10", "credit", "a")
    exporter.clear()
    for amount in ("10", "11"):
        await traced.post("/api/v1/holds", json={"account_id": "ACC", "amount": amount})
    accepted, refused = named(exporter.get_finished_spans(), "POST /api/v1/holds")
    assert accepted.attributes["http.response.status_code"] == 201
    assert refused.attributes["subbalance.code"] == "insufficient_available"


def _is_below(span: ReadableSpan, batch: ReadableSpan) -> bool:
    return span.parent is not None and span.parent.span_id == batch.context.span_id


async def test_nothing_is_remembered_of_requests_that_are_answered(
    traced: httpx.AsyncClient, tracing: Tracing
) -> None:
    await open_account(traced)
    await traced.post("/test/accounts", json={"accounts": [{"account_id": "ACC2"}]})
    for number in range(5):
        await post(traced, "2", "credit", f"key-{number}")
        transfer = {"debit_account_id": "ACC", "credit_account_id": "ACC2", "amount": "1"}
        assert (await traced.post("/api/v1/transfers", json=transfer)).status_code == 201
        hold = {"account_id": "ACC", "amount": "1"}
        assert (await traced.post("/api/v1/holds", json=hold)).status_code == 201
        assert (await traced.post("/api/v1/holds", json=hold)).status_code == 422
    assert tracing.remembered_count == 0


def test_what_traces_need_is_not_imported_while_they_are_off() -> None:
    """Of OpenTelemetry; redis-py imports some of its own accord where it is installed."""
    program = (
        "import sys, app.main, app.workers.__main__;"
        "sys.exit(bool({'opentelemetry.sdk.trace', 'opentelemetry.exporter'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_traces_without_opentelemetry_are_refused_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(InvalidSettings, match="traces"), open_tracing("http://127.0.0.1:1", "api"):
        pass


def test_without_an_endpoint_there_is_no_tracing() -> None:
    with open_tracing("", "api") as tracing:
        assert tracing is None
