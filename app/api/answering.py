"""The headers that answers carry beside their own, on every way out."""

import base64
import hashlib
import re
from collections.abc import Container, Iterable, Mapping

from app.api.problem import PROBLEM_TYPE

RawHeaders = list[tuple[bytes, bytes]]
# An answer is about money unless it says otherwise: nobody keeps it, nobody guesses its type.
NO_STORE: RawHeaders = [(b"cache-control", b"no-store")]
NO_SNIFF: RawHeaders = [(b"x-content-type-options", b"nosniff")]
_PAGE: RawHeaders = [(b"referrer-policy", b"no-referrer"), (b"x-frame-options", b"DENY")]
_POLICY = (
    "default-src 'self'; script-src 'self'{}; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'none';"
    " form-action 'self'; frame-ancestors 'none'"
)
_INLINE_SCRIPT = re.compile(rb"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL)


def lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Write headers as they go over the wire."""
    return b"".join(b"%b: %b\r\n" % pair for pair in headers)


JSON_LINES = lines([(b"content-type", b"application/json"), *NO_STORE, *NO_SNIFF])
_PROBLEM_LINES = lines([(b"content-type", PROBLEM_TYPE.encode()), *NO_STORE, *NO_SNIFF])


def raw(headers: Mapping[str, str]) -> RawHeaders:
    """Write headers as ASGI has them."""
    return [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]


def head_lines(headers: Mapping[str, str]) -> bytes:
    """Write the headers of a problem as they go over the wire."""
    return _PROBLEM_LINES + lines(raw(headers))


def page_headers(page: bytes, given: Container[bytes]) -> RawHeaders:
    """Say what a page may load: what is ours, and the scripts that stand in it. One that says so
    itself, in a header that is `given`, keeps to that.
    """
    if b"content-security-policy" in given:
        return [*_PAGE]
    sources = "".join(
        f" 'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'"
        for script in _INLINE_SCRIPT.findall(page)
    )
    return [*_PAGE, (b"content-security-policy", _POLICY.format(sources).encode())]
