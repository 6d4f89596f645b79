"""The knee: the highest rate that keeps within named bounds, found by raising the rate.

Pure: it is given a function that measures a rate.
"""

from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from bench.load.figures import Percentiles

_STEPS_MAX = 40
_STEP_DOWN = 0.9


class Measured(Protocol):
    """What is judged of a run."""

    @property
    def steady_latency(self) -> Percentiles:
        """Latencies after the ramp."""

    @property
    def error_share(self) -> float:
        """Errors of all that were due."""

    @property
    def achieved_share(self) -> float:
        """The achieved rate of the target."""


class Bounds(NamedTuple):
    """What a rate must keep to count as good."""

    p99_ms: float = 200.0
    error_share: float = 0.01
    achieved_share: float = 0.97

    @property
    def text(self) -> str:
        """The bounds as a sentence's part."""
        return (
            f"p99 at most {self.p99_ms:g} ms, errors at most {self.error_share:.1%},"
            f" achieved rate at least {self.achieved_share:.0%} of the target"
        )

    def passed_by(self, figures: Measured) -> list[str]:
        """Which bounds a run went past, with the figure that did."""
        p99_ms = figures.steady_latency.p99_us / 1_000
        return [
            text
            for holds, text in (
                (p99_ms <= self.p99_ms, f"p99 {p99_ms:.0f} ms"),
                (figures.error_share <= self.error_share, f"errors {figures.error_share:.1%}"),
                (
                    figures.achieved_share >= self.achieved_share,
                    f"achieved {figures.achieved_share:.1%}",
                ),
            )
            if not holds
        ]


class Search(NamedTuple):
    """Where to look: from the first rate up by a factor, then between good and bad."""

    first: float = 1_000.0
    most: float = 40_000.0
    growth: float = 1.5
    refinements: int = 3
    tries: int = 2
    confirmations: int = 4


class Attempt(NamedTuple):
    """One rate that was tried; good when it went past no bound."""

    per_second: float
    passed_bounds: tuple[str, ...]

    @property
    def is_good(self) -> bool:
        """Tell whether the rate kept within all bounds."""
        return not self.passed_bounds


class Knee(NamedTuple):
    """Every attempt in order, and the last good rate; None when none was good."""

    attempts: tuple[Attempt, ...]
    last_good: float | None
    first_bad: float | None


Measure = Callable[[float], Awaitable[list[str]]]


async def find_knee(measure: Measure, confirm: Measure, search: Search) -> Knee:
    """Find the knee; `measure` and `confirm` return which bounds a rate went past.

    A rate that fails is tried again before it counts as bad: one bad moment of a shared machine is
    not the service's. What is found has to hold once more, or the next lower rate is taken.
    """
    attempts: list[Attempt] = []

    async def is_good(per_second: float) -> bool:
        for _ in range(search.tries):
            passed = await measure(per_second)
            attempts.append(Attempt(per_second, tuple(passed)))
            if not passed:
                return True
        return False

    good, bad = await _bracket(is_good, search)
    if good is not None and bad is not None:
        for _ in range(search.refinements):
            middle = _rounded((good + bad) / 2)
            if middle in (good, bad):
                break
            if await is_good(middle):
                good = middle
            else:
                bad = middle
    for _ in range(search.confirmations if good is not None else 0):
        passed = await confirm(good or 0.0)
        attempts.append(Attempt(good or 0.0, tuple(passed)))
        if not passed:
            return Knee(tuple(attempts), good, bad)
        good, bad = _rounded((good or 0.0) * _STEP_DOWN), good
    return Knee(tuple(attempts), None, bad)


async def _bracket(
    is_good: Callable[[float], Awaitable[bool]], search: Search
) -> tuple[float | None, float | None]:
    """Raise the rate until it is bad; the last good and the first bad one."""
    good, rate = None, min(search.first, search.most)
    for _ in range(_STEPS_MAX):
        if not await is_good(rate):
            return good, rate
        if rate == search.most:
            return rate, None
        good, rate = rate, min(_rounded(rate * search.growth), search.most)
    return good, None


def _rounded(rate: float) -> float:
    """A rate that people can read: to fifties, below a thousand to tens."""
    grain = 50 if rate >= 1_000 else 10
    return float(round(rate / grain) * grain) or rate
