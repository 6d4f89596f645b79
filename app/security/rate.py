"""How often a caller may ask: a token bucket for each, in this process, in bounded memory."""

import ipaddress
import math
import time
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from app import limits

_IPV6_PREFIX = 64


class Quota(NamedTuple):
    """What is left of a caller's bucket after a request."""

    allowed: bool
    remaining: int
    full_in_s: int
    retry_after_s: int


class RateLimit:
    """Buckets of `requests` tokens that fill evenly within `seconds`.

    A bucket is kept as one number: when it will be full again. The one that was used longest ago is
    forgotten where there are too many: it is the likeliest to be full.
    """

    def __init__(
        self, requests: int, seconds: int, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        """`now_s` is a clock that never goes back."""
        self.policy = f'"default";q={requests};w={seconds}'
        self._requests = requests
        self._window_s = float(seconds)
        self._token_s = seconds / requests
        self._now_s = now_s
        self._full_at_s: dict[str, float] = {}

    def take(self, caller: str) -> Quota:
        """Take one token out of a caller's bucket, if there is one."""
        now_s = self._now_s()
        full_at_s = max(self._full_at_s.pop(caller, now_s), now_s)
        lacking_s = full_at_s - now_s
        allowed = lacking_s + self._token_s <= self._window_s * (1 + 1e-9)
        if allowed:
            lacking_s += self._token_s
        self._full_at_s[caller] = now_s + lacking_s
        if len(self._full_at_s) > limits.RATE_CALLERS_MAX:
            del self._full_at_s[next(iter(self._full_at_s))]
        left = int((self._window_s - lacking_s) / self._token_s + 1e-6)
        wait_s = lacking_s + self._token_s - self._window_s
        return Quota(allowed, max(left, 0), math.ceil(lacking_s), max(1, math.ceil(wait_s)))


@lru_cache(maxsize=4_096)
def caller_at(address: str) -> str:
    """Name who is at an address; whoever has one of IPv6 has its whole /64."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return f"address {address}"
    if isinstance(parsed, ipaddress.IPv6Address):
        parsed = parsed.ipv4_mapped or ipaddress.ip_network((parsed, _IPV6_PREFIX), False)[0]
    return f"address {parsed}"
