"""Which pages of other origins a browser may let call the service."""

from collections.abc import Mapping, Sequence

_RawHeaders = list[tuple[bytes, bytes]]
_METHODS = b"GET, POST, PATCH, PUT, DELETE"
_ASKED = (
    b"Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, X-API-Key,"
    b" X-Request-ID"
)
_SHOWN = (
    b"ETag, Idempotency-Replayed, Link, Location, RateLimit, RateLimit-Policy, Retry-After,"
    b" X-Request-ID"
)
_KEPT_S = b"600"
_ANY = b"*"


class Cors:
    """The origins that may; a key is sent by the page itself, so cookies never come into it."""

    def __init__(self, origins: Sequence[str]) -> None:
        """`*` stands for every origin."""
        self._origins = frozenset(origin.encode() for origin in origins)

    def headers(self, headers: Mapping[bytes, bytes]) -> _RawHeaders:
        """Say whether the page that asks may read the answer."""
        if _ANY in self._origins:
            return [
                (b"access-control-allow-origin", _ANY),
                (b"access-control-expose-headers", _SHOWN),
            ]
        vary: _RawHeaders = [(b"vary", b"Origin")]
        origin = headers.get(b"origin")
        if origin not in self._origins or origin is None:
            return vary
        return [
            *vary,
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", _SHOWN),
        ]

    def is_preflight(self, method: str, headers: Mapping[bytes, bytes]) -> bool:
        """Tell whether a browser asks what it may ask."""
        return (
            method == "OPTIONS"
            and b"origin" in headers
            and b"access-control-request-method" in headers
        )

    def preflight_headers(self, headers: Mapping[bytes, bytes]) -> _RawHeaders:
        """Say what a page may send; nothing to a page that may not."""
        if _ANY not in self._origins and headers.get(b"origin") not in self._origins:
            return []
        return [
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", _ASKED),
            (b"access-control-max-age", _KEPT_S),
        ]
