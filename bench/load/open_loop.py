"""The open loop: who is due is sent, whether or not earlier ones were answered.

Pure: it is told the time and hands out numbers, so that a test can run it by a clock of its own.
"""

from array import array
from collections import deque
from collections.abc import Iterator
from typing import Protocol

NEVER_NS = 2**63 - 1
_US = 1_000
_UINT32_MAX = 2**32 - 1


class Lane(Protocol):
    """A connection that carries one request at a time."""

    def send(self, index: int, due_ns: int) -> None:
        """Send a request that was due at an instant."""


class OpenLoop:
    """Gives due requests to free lanes; what finds none waits, in a bounded backlog.

    A request past the backlog's bound is never sent. `lateness_us` is how late this loop itself
    came to a request; waiting for a lane is not in it, but counts as the request's latency.
    """

    def __init__(self, instants: Iterator[int], backlog_max: int) -> None:
        """Begin with no lanes; `instants` are nanoseconds in rising order."""
        self.free: list[Lane] = []
        self.backlog: deque[tuple[int, int]] = deque()
        self.lateness_us = array("I")
        self.not_sent: list[int] = []
        self.sent_count = 0
        self._instants = instants
        self._backlog_max = backlog_max
        self._index = 0
        self.due_ns = next(instants, NEVER_NS)

    @property
    def is_over(self) -> bool:
        """Tell whether every request has come due."""
        return self.due_ns == NEVER_NS

    def advance(self, now_ns: int) -> None:
        """Take every request that is due; the free lane used last goes first, it is warm."""
        while self.due_ns <= now_ns:
            index, due_ns = self._index, self.due_ns
            self._index += 1
            self.due_ns = next(self._instants, NEVER_NS)
            self.lateness_us.append(min((now_ns - due_ns) // _US, _UINT32_MAX))
            if self.free:
                self.sent_count += 1
                self.free.pop().send(index, due_ns)
            elif len(self.backlog) < self._backlog_max:
                self.backlog.append((index, due_ns))
            else:
                self.not_sent.append(index)

    def release(self, lane: Lane) -> None:
        """A lane is free: it takes the oldest of the backlog, or waits for what comes due."""
        if self.backlog:
            self.sent_count += 1
            lane.send(*self.backlog.popleft())
        else:
            self.free.append(lane)

    def stop(self) -> int:
        """Let nothing more come due; returns how many requests came due at all."""
        self._instants, self.due_ns = iter(()), NEVER_NS
        return self._index

    def give_up(self) -> None:
        """Send nothing more of the backlog."""
        self.not_sent += [index for index, _ in self.backlog]
        self.backlog.clear()
