"""When each request is meant to be sent; nothing that happens to a request changes it."""

import math
from collections.abc import Iterator
from typing import NamedTuple

NANOSECONDS = 1_000_000_000


class Schedule(NamedTuple):
    """A steady rate after a linear ramp from zero; both lie within `duration_s`."""

    per_second: float
    duration_s: float
    ramp_s: float = 0.0

    @property
    def ramp_count(self) -> int:
        """How many requests the ramp holds."""
        return min(self.request_count, math.ceil(self.per_second * self.ramp_s / 2))

    @property
    def request_count(self) -> int:
        """How many requests there are; one whose instant is the end is not among them."""
        return math.ceil(round(self.per_second * (self.duration_s - self.ramp_s / 2), 6))

    @property
    def steady_s(self) -> float:
        """How long the full rate lasts."""
        return self.duration_s - self.ramp_s

    def intended_ns(self, number: int) -> int:
        """When a request is meant to be sent, from the start; requests are numbered from 0."""
        in_ramp = self.per_second * self.ramp_s / 2
        if number < in_ramp:
            return round(math.sqrt(2 * number * self.ramp_s / self.per_second) * NANOSECONDS)
        return round((self.ramp_s / 2 + number / self.per_second) * NANOSECONDS)

    def share(self, first: int, stride: int, start_ns: int) -> Iterator[int]:
        """The instants of every `stride`-th request, moved to a start: one process' share."""
        for number in range(first, self.request_count, stride):
            yield start_ns + self.intended_ns(number)


def share_count(count: int, first: int, stride: int) -> int:
    """How many requests a process has that takes every `stride`-th."""
    return len(range(first, count, stride))
