"""Prometheus metrics: the ledger's state, gathered when it is asked for, and what was counted."""

import contextlib
from collections.abc import Iterator, Sequence

from litestar import Response, get
from litestar.datastructures import State
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from app.api.observer import RequestObserver
from app.errors import Unavailable
from app.events.model import SinkLag
from app.infra.http import documented
from app.infra.telemetry import CONTENT_TYPE, exposition
from app.ledger.codes import Mode
from app.ledger.model import LedgerHealth
from app.web.counts import Counted

_MODES = (*(mode.value for mode in Mode), "unknown")


def _state(health: LedgerHealth) -> Iterator[Metric]:
    """Describe one answer of the health check."""
    mode = GaugeMetricFamily("subbalance_mode", "Who decides, as 1", labels=["mode"])
    for name in _MODES:
        mode.add_metric([name], float(name == health.mode))
    up = GaugeMetricFamily("subbalance_component_up", "Whether a part works", labels=["part"])
    for name, part in health.components.items():
        up.add_metric([name], float(part.ok))
    yield from (mode, up)
    yield _gauge("ready", "Whether a transaction sent now would be decided", health.ready)
    yield _gauge("epoch", "The ruling epoch as this instance knows it", health.epoch)
    yield _gauge(
        "settler_lag_seconds", "Age of the oldest pending movement", health.settler_lag_ms / 1e3
    )
    yield _gauge("queue_items", "Requests that are in no batch yet", health.queue_items)
    check = health.consistency
    if check is not None:
        yield _gauge("verification_mismatches", "What the latest check found", check.mismatch_count)
        yield _gauge("verification_complete", "Whether it left nothing out", check.complete)
        yield _gauge("verification_duration_seconds", "How long it took", check.duration_ms / 1e3)
        yield _gauge(
            "verification_timestamp_seconds", "When it ended", check.verified_at.timestamp()
        )


def _told(sinks: Sequence[SinkLag]) -> Iterator[Metric]:
    """Describe how events get away, sink by sink."""
    what = "How long the oldest event waits that the sink was not told"
    lag = GaugeMetricFamily("subbalance_events_lag_seconds", what, labels=["sink"])
    what = "Events the sink was told, those it was told again counted again"
    told = CounterMetricFamily("subbalance_events_told", what, labels=["sink"])
    for each in sinks:
        lag.add_metric([each.sink], each.lag_s)
        told.add_metric([each.sink], each.told)
    yield from (lag, told)


def counted(observer: RequestObserver) -> Counted:
    """Read for the dashboard what this process counted."""
    instruments = observer.instruments
    decided = instruments.decided()
    return Counted(
        decided.get("accepted", 0),
        decided.get("replayed", 0),
        instruments.refused(),
        observer.problems(),
        observer.write_times(),
    )


def _gauge(name: str, what: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"subbalance_{name}", what, value=float(value))


@get(
    "/metrics",
    summary="Metrics for Prometheus",
    responses=documented(200, str, (405, 500), media_type=CONTENT_TYPE),
)
async def get_metrics(state: State) -> Response[bytes]:
    """Show the ledger's state, the latest consistency check, how events get away, and what this
    process counted and timed, in Prometheus' text format.
    """
    # A media type that is text would be given its character set a second time.
    return Response(await metrics_of(state), headers={"content-type": CONTENT_TYPE})


async def metrics_of(state: State) -> bytes:
    """Gather everything that an API process has to show."""
    health, observer = await state.ledger.health(), state.observer
    # The observer first: it hands on what it has kept of requests to the instruments.
    metrics = [*_state(health), *observer.collect(), *observer.instruments.collect()]
    with contextlib.suppress(Unavailable):
        metrics += _told(await state.events.lags())
    return exposition(metrics)
