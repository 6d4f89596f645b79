"""The circuit breaker: tells when a part is to be done without. It knows no money."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pybreaker


class BreakerOpen(Exception):
    """The part failed too often in a row; it was not asked."""


class Breaker:
    """Counts failures in a row; open, it lets one call through when its time-out has passed.

    Disabled, it lets every call through, and one failure is enough to be called open.
    """

    def __init__(self, failures_max: int, timeout_s: float, *, enabled: bool = True) -> None:
        """Begin closed."""
        # Nothing is excluded: an excluded exception would count as a success, and a trial call
        # that was cancelled tells nothing.
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=failures_max if enabled else 1,
            reset_timeout=timeout_s if enabled else 0,
            throw_new_error_on_trip=False,
        )

    @property
    def is_open(self) -> bool:
        """Tell whether the part is to be done without."""
        return bool(self._breaker.current_state != pybreaker.STATE_CLOSED)

    @property
    def state(self) -> str:
        """closed, open or half-open."""
        return str(self._breaker.current_state)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Run one call under the breaker; raises `BreakerOpen` instead of running it."""
        try:
            with self._breaker.calling():
                yield
        except pybreaker.CircuitBreakerError as exc:
            raise BreakerOpen(str(exc)) from exc

    @contextmanager
    def forgive(self) -> Iterator[None]:
        """Run one call whose failure counts only if the caller says so: a lost connection fails all
        the calls on it, and is one failure. Open, it is `guard`.
        """
        if self.is_open:
            with self.guard():
                yield
            return
        yield
        if self._breaker.fail_counter:
            with suppress(BreakerOpen), self.guard():
                pass

    def count(self, failure: Exception) -> None:
        """Count a failure that was forgiven."""
        with suppress(type(failure), BreakerOpen), self.guard():
            raise failure

    def close(self) -> None:
        """Begin again: the part is known to work."""
        self._breaker.close()
