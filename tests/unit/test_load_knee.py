"""The search for the knee, with a function in place of a service."""

from collections.abc import Awaitable, Callable
from types import SimpleNamespace

import pytest

from bench.load.figures import Percentiles
from bench.load.knee import Bounds, Search, find_knee

SEARCH = Search(first=1_000, most=40_000, growth=2, refinements=5)


def capacity(limit: float, tried: list[float]) -> Callable[[float], Awaitable[list[str]]]:
    async def measure(per_second: float) -> list[str]:
        tried.append(per_second)
        return [] if per_second <= limit else ["p99 999 ms"]

    return measure


@pytest.mark.parametrize("limit", [1_000, 1_234, 3_999, 4_000, 12_345, 39_000, 40_000, 90_000])
async def test_the_knee_lies_between_the_last_good_and_the_first_bad_rate(limit: float) -> None:
    tried: list[float] = []
    measure = capacity(limit, tried)
    knee = await find_knee(measure, measure, SEARCH)
    assert knee.last_good is not None
    assert knee.last_good <= limit
    assert knee.last_good >= 0.9 * min(limit, SEARCH.most)
    assert knee.first_bad is None or knee.first_bad > limit
    assert [attempt.per_second for attempt in knee.attempts] == tried
    assert knee.attempts[-1] == (knee.last_good, ())


async def test_a_bad_rate_is_tried_again_before_it_counts() -> None:
    tried: list[float] = []

    async def measure(per_second: float) -> list[str]:
        tried.append(per_second)
        return ["errors 5.0%"] if tried.count(per_second) == 1 else []

    knee = await find_knee(measure, capacity(1e9, []), Search(first=1_000, most=4_000, growth=2))
    assert tried == [1_000, 1_000, 2_000, 2_000, 4_000, 4_000]
    assert (knee.last_good, knee.first_bad) == (4_000, None)


async def test_without_a_good_rate_there_is_no_knee() -> None:
    knee = await find_knee(capacity(10, []), capacity(10, []), SEARCH)
    assert (knee.last_good, knee.first_bad) == (None, 1_000)


async def test_what_does_not_hold_when_confirmed_is_lowered() -> None:
    knee = await find_knee(capacity(8_000, []), capacity(7_300, []), SEARCH)
    assert knee.last_good == 7_200
    assert knee.first_bad == 8_000
    knee = await find_knee(capacity(8_000, []), capacity(1_000, []), SEARCH)
    assert knee.last_good is None


@pytest.mark.parametrize(
    ("p99_us", "errors", "achieved", "passed"),
    [
        (200_000, 0.01, 0.97, []),
        (201_000, 0.0, 1.0, ["p99 201 ms"]),
        (1_000, 0.02, 1.0, ["errors 2.0%"]),
        (1_000, 0.0, 0.9, ["achieved 90.0%"]),
        (300_000, 0.5, 0.5, ["p99 300 ms", "errors 50.0%", "achieved 50.0%"]),
    ],
)
def test_each_bound_is_named_by_what_went_past_it(
    p99_us: int, errors: float, achieved: float, passed: list[str]
) -> None:
    measured = SimpleNamespace(
        steady_latency=Percentiles(1, 0, 0, p99_us, p99_us),
        error_share=errors,
        achieved_share=achieved,
    )
    assert Bounds().passed_by(measured) == passed
