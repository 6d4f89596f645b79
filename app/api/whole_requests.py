"""Reading a hot request that came whole, in the plainest form there is, without a parser."""

import re
from functools import lru_cache
from typing import NamedTuple

from app import limits
from app.ledger.hot_routes import HotRoute
from app.ledger.routes import HOT_ROUTES

_HOT_LINES = {b"POST %b HTTP/1.1\r\n" % path: route for path, route in HOT_ROUTES.items()}
_PLAIN_HOST = re.compile(rb"[0-9A-Za-z._:\[\]-]*")
_HEADER = re.compile(rb"([!#-'*+.^_`|~0-9A-Za-z-]+): ?([\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)")
# With these a request is framed, ended or answered in another way, or may be.
_UNUSUAL = frozenset(
    (b"transfer-encoding", b"expect", b"upgrade", b"te", b"trailer", b"proxy-connection")
)


def is_plain_host(host: bytes) -> bool:
    """Tell whether the router, which refuses some hosts, takes this one for sure."""
    return len(host) <= limits.HOST_BYTES_MAX and _has_plain_form(host)


@lru_cache(maxsize=1_024)
def _has_plain_form(host: bytes) -> bool:
    return _PLAIN_HOST.fullmatch(host) is not None


@lru_cache(maxsize=4_096)
def _header(line: bytes) -> tuple[bytes, bytes] | None:
    """Read a header line of the plainest form: most are the same in each request of a client."""
    match = _HEADER.fullmatch(line)
    return None if match is None else (match[1].lower(), match[2])


class WholeRequest(NamedTuple):
    """A hot request, its headers by their names in lower case."""

    route: HotRoute
    headers: dict[bytes, bytes]
    body: bytes


def whole_request(data: bytes) -> WholeRequest | None:
    """Read the headers and the body of data that is one hot request from its first byte to its
    last, in the plainest form there is, so that no two readers could differ about it.

    None says nothing about the data: the parser is to read it.
    """
    first = data.find(b"\n", 0, limits.PLAIN_LINE_BYTES_MAX) + 1
    route = _HOT_LINES.get(data[:first])
    if route is None:
        return None
    # The line's own end may be the first half of it.
    end = data.find(b"\r\n\r\n", first - 2, limits.PLAIN_HEAD_BYTES_MAX)
    if end < first:
        return None
    lines, body = data[first:end].split(b"\r\n"), data[end + 4 :]
    headers: dict[bytes, bytes] = {}
    for line in lines:
        header = _header(line) if len(line) <= limits.PLAIN_LINE_BYTES_MAX else None
        if header is None:
            return None
        headers[header[0]] = header[1]
    is_plain = (
        len(headers) == len(lines)
        and headers.get(b"content-length") == b"%d" % len(body)
        and headers.get(b"connection", b"keep-alive").lower() == b"keep-alive"
        and _UNUSUAL.isdisjoint(headers)
        and is_plain_host(headers.get(b"host", b""))
    )
    return WholeRequest(route, headers, body) if is_plain else None
