"""Wakes an event loop at an instant of the monotonic clock, finer than the loop's own timers.

The event loop's timers count milliseconds; a request a millisecond late would show in its latency.
Where the kernel has no timerfd, the loop's own timers have to do.
"""

import asyncio
import contextlib
import ctypes
import os
import struct
import time
from collections.abc import Callable

_NANOSECONDS = 1_000_000_000
_CLOCK_MONOTONIC, _ABSOLUTE = 1, 1
_ITIMERSPEC = struct.Struct("qqqq")


class ClockTimer:
    """One timer; setting it again replaces what was set."""

    def __init__(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        """Call `wake` from the loop whenever the timer is due."""
        self._loop, self._wake = loop, wake
        self._later: asyncio.TimerHandle | None = None
        self._number = -1
        self._set_time: Callable[..., int] | None = None
        with contextlib.suppress(OSError, AttributeError):
            library = ctypes.CDLL(None, use_errno=True)
            self._number = library.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
            self._set_time = library.timerfd_settime if self._number >= 0 else None
        if self._set_time is not None:
            loop.add_reader(self._number, self._ring)

    def set(self, due_ns: int) -> None:
        """Wake at an instant; one that has passed wakes at once."""
        if self._set_time is not None:
            due = _ITIMERSPEC.pack(0, 0, *divmod(max(due_ns, 1), _NANOSECONDS))
            self._set_time(self._number, _ABSOLUTE, due, None)
            return
        if self._later is not None:
            self._later.cancel()
        delay_s = max(0, due_ns - time.monotonic_ns()) / _NANOSECONDS
        self._later = self._loop.call_later(delay_s, self._wake)

    def close(self) -> None:
        """Wake no more."""
        if self._set_time is not None:
            self._loop.remove_reader(self._number)
            os.close(self._number)
            self._set_time = None
        elif self._later is not None:
            self._later.cancel()

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._number, 8)
        self._wake()
