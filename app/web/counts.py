"""What this process counted, as the dashboard shows it: a reader of the counters of `/metrics`, and
of their differences. Nothing is counted here.
"""

import asyncio
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import accumulate
from time import monotonic
from typing import NamedTuple

from app import limits
from app.infra.telemetry import SECONDS

_MINUTE_S = 60


class Counted(NamedTuple):
    """What was counted since the process started; `took` are the answers to writes between the
    bounds of `SECONDS`.
    """

    accepted: int
    replayed: int
    refused: dict[str, int]
    problems: dict[str, int]
    took: list[int]


_NOTHING = Counted(0, 0, {}, {}, [0] * (len(SECONDS) + 1))


class ProcessFigures(NamedTuple):
    """What this process counted since it started and until an earlier look."""

    before: Counted
    now: Counted
    window_s: float
    refused_last_hour: int
    started_at: datetime

    @property
    def took(self) -> list[int]:
        """How long the answers took that were given in between."""
        return [now - before for now, before in zip(self.now.took, self.before.took, strict=True)]


class Counts:
    """One process's counters now, and as they were at earlier looks."""

    def __init__(
        self, read: Callable[[], Counted] | None, clock: Callable[[], float] = monotonic
    ) -> None:
        """`read` is None where nothing is counted; the process begins now."""
        self._read = read
        self._clock = clock
        self._started_at = datetime.now(UTC)
        self._looks: deque[tuple[float, Counted]] = deque([(clock(), _NOTHING)])
        self._minutes: deque[int] = deque([0], maxlen=limits.REFUSAL_MINUTES + 1)

    def look(self) -> ProcessFigures | None:
        """Tell what was counted in all and since about the window's length ago; longer ago only for
        the first to look after a while.
        """
        if self._read is None:
            return None
        now, counted, looks = self._clock(), self._read(), self._looks
        while len(looks) > 1 and looks[0][0] < now - limits.LIVE_WINDOW_S:
            if looks[1][0] > now - limits.LIVE_SAMPLE_S / 2:
                break
            looks.popleft()
        if now - looks[-1][0] >= limits.LIVE_SAMPLE_S / 2:
            looks.append((now, counted))
        at, before = looks[0]
        refused = sum(counted.refused.values()) - self._minutes[0]
        return ProcessFigures(before, counted, now - at, refused, self._started_at)

    def note_minute(self) -> None:
        """Keep what was refused by now, for an hour."""
        if self._read is not None:
            self._minutes.append(sum(self._read().refused.values()))

    async def note_minutes(self) -> None:
        """Do so every minute, whether somebody looks or not; never returns."""
        while True:
            await asyncio.sleep(_MINUTE_S)
            self.note_minute()


def percentile_ms(took: Sequence[int], share: float) -> float | None:
    """Estimate the time within which a share of the answers were given, as Prometheus does: evenly
    between two bounds. None where there are none, or it is above the last bound.
    """
    reached = list(accumulate(took))
    if reached[-1] == 0:
        return None
    rank = share * reached[-1]
    place = bisect_left(reached, rank)
    if place == len(SECONDS):
        return None
    below, lower = (reached[place - 1], SECONDS[place - 1]) if place else (0, 0.0)
    part = (rank - below) / took[place]
    return round((lower + (SECONDS[place] - lower) * part) * 1_000, 3)
