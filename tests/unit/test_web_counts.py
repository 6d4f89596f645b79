"""What the dashboard makes of a process's counters, by the clock of the test."""

import asyncio

import pytest

from app import limits
from app.infra.telemetry import SECONDS, Histogram
from app.web.counts import Counted, Counts, percentile_ms
from tests.conftest import eventually


class Process:
    """A process that counts what it is told to."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.accepted = self.refused = 0
        self.took = Histogram(SECONDS)

    def read(self) -> Counted:
        refused = {"insufficient_available": self.refused} if self.refused else {}
        return Counted(self.accepted, 0, refused, {}, list(self.took.counts))


def counts_of(process: Process) -> Counts:
    return Counts(process.read, lambda: process.now)


def test_rates_are_of_the_last_seconds_while_somebody_looks() -> None:
    process = Process()
    counts = counts_of(process)
    for _ in range(30):
        process.now += limits.LIVE_SAMPLE_S
        process.accepted += 5
        figures = counts.look()
        assert figures is not None
        assert figures.window_s <= limits.LIVE_WINDOW_S
        assert figures.now.accepted - figures.before.accepted == 5 * figures.window_s
    assert figures.window_s == limits.LIVE_WINDOW_S


def test_who_looks_again_after_long_gets_the_last_second_and_not_the_time_between() -> None:
    process = Process()
    counts = counts_of(process)
    for _ in range(5):
        process.now += limits.LIVE_SAMPLE_S
        counts.look()
    process.now += 3_600
    process.accepted = 3_600
    first = counts.look()
    process.now += limits.LIVE_SAMPLE_S
    process.accepted += 7
    second = counts.look()
    assert first is not None
    assert second is not None
    assert (first.window_s, first.before.accepted) == (3_600, 0), "said to be of so long"
    assert second.window_s == limits.LIVE_SAMPLE_S
    assert second.now.accepted - second.before.accepted == 7


def test_looking_twice_at_once_changes_nothing() -> None:
    process = Process()
    counts = counts_of(process)
    process.now += 3
    process.accepted = 12
    assert counts.look() == counts.look()


def test_refusals_of_the_last_hour_are_those_and_no_more() -> None:
    process = Process()
    counts = counts_of(process)

    def refused_last_hour() -> int:
        figures = counts.look()
        assert figures is not None
        return figures.refused_last_hour

    for minute in range(90):
        process.refused += 1
        assert refused_last_hour() == min(minute + 1, limits.REFUSAL_MINUTES + 1)
        process.now += 60
        counts.note_minute()
    for _ in range(limits.REFUSAL_MINUTES + 1):
        counts.note_minute()
    assert refused_last_hour() == 0
    assert process.refused == 90


async def test_minutes_are_noted_whether_somebody_looks_or_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.web.counts._MINUTE_S", 0.001)
    process = Process()
    counts = counts_of(process)
    process.refused = 9
    noting = asyncio.create_task(counts.note_minutes())

    def is_over() -> bool:
        figures = counts.look()
        return figures is not None and figures.refused_last_hour == 0

    await eventually(is_over)
    noting.cancel()


def test_where_nothing_is_counted_nothing_is_said() -> None:
    counts = Counts(None)
    counts.note_minute()
    assert counts.look() is None


@pytest.mark.parametrize(
    ("took_ms", "share", "wanted_ms"),
    [
        ([3] * 99 + [400], 0.5, (2.5, 5)),
        ([3] * 99 + [400], 0.99, (2.5, 5)),
        ([3] * 98 + [400] * 2, 0.99, (250, 500)),
        ([0.01], 0.99, (0, 0.1)),
    ],
)
def test_a_percentile_is_between_the_bounds_of_what_it_is_of(
    took_ms: list[float], share: float, wanted_ms: tuple[float, float]
) -> None:
    histogram = Histogram(SECONDS)
    histogram.observe_all([each / 1_000 for each in took_ms])
    found = percentile_ms(histogram.counts, share)
    assert found is not None
    assert wanted_ms[0] < found <= wanted_ms[1]


def test_what_is_not_known_has_no_percentile() -> None:
    nothing = [0] * (len(SECONDS) + 1)
    assert percentile_ms(nothing, 0.5) is None
    assert percentile_ms([*nothing[:-1], 1], 0.5) is None, "longer than what is told apart"
