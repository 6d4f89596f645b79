"""What the lane reads by itself the parser reads alike, to the last byte."""

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import limits
from app.api import whole_requests
from app.api.whole_requests import whole_request
from app.ledger.routes import HOT_ROUTES

LINES = tuple(b"POST %b HTTP/1.1\r\n" % path for path in HOT_ROUTES)
LINE = LINES[0]
BODY = b'{"account_id":"A","amount":"1","type":"debit"}'
HEADERS = (
    b"Host: 127.0.0.1:8082",
    b"Content-Type: application/json",
    b"Idempotency-Key: k-1",
    b"Content-Length: %d" % len(BODY),
)


def request(*headers: bytes, line: bytes = LINE, body: bytes = BODY) -> bytes:
    return line + b"\r\n".join(headers) + b"\r\n\r\n" + body


class Parsed:
    """What the parser makes of data."""

    def __init__(self, data: bytes) -> None:
        self.url = self.body = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.events: list[str] = []
        self.parser = httptools.HttpRequestParser(self)
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.events.append("begin")

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.events.append("end")


@pytest.mark.parametrize("path", HOT_ROUTES)
def test_a_plain_request_is_read(path: bytes) -> None:
    line = b"POST %b HTTP/1.1\r\n" % path
    lines = (*HEADERS, b"Connection: Keep-Alive", b"X-Request-Id: a b")
    read = whole_request(request(*lines, line=line))
    assert read is not None
    assert read.route is HOT_ROUTES[path]
    assert read.body == BODY
    assert read.headers[b"idempotency-key"] == b"k-1"
    assert read.headers[b"x-request-id"] == b"a b"


@pytest.mark.parametrize("body", [BODY, b""])
def test_what_has_not_come_whole_is_not_read(body: bytes) -> None:
    """Cut inside a header, what follows would be taken for another request."""
    length = b"Content-Length: %d" % len(body)
    for headers in ((length,), (length, *HEADERS[:3]), (*HEADERS[:3], length), HEADERS[:2]):
        whole = request(*headers, b"X-Note: abcGET / HTTP/1.1", body=body)
        assert all(whole_request(whole[:end]) is None for end in range(len(whole)))


def test_what_is_remembered_of_headers_is_bounded() -> None:
    """Line by line, whatever a client sends: none is looked at that is long or far behind."""
    whole_requests._header.cache_clear()
    whole_requests._has_plain_form.cache_clear()
    far = [b"X-%d: a" % number for number in range(limits.PLAIN_HEAD_BYTES_MAX // 6)]
    for odd in (b"X: " + b"a" * limits.PLAIN_LINE_BYTES_MAX, b"\r\n".join(far)):
        assert whole_request(request(odd, *HEADERS)) is None
    assert whole_requests._header.cache_info().currsize == 0
    assert not whole_requests.is_plain_host(b"a" * (limits.HOST_BYTES_MAX + 1))
    assert whole_requests._has_plain_form.cache_info().currsize == 0


# Pieces that requests are made of, and pieces that make readers differ.
ODD_LINES = (
    b"Content-Length: 46",
    b"Content-Length: 0",
    b"Content-Length: 046",
    b"Content-Length : 46",
    b"content-length:46",
    b"Transfer-Encoding: chunked",
    b"Connection: close",
    b"Connection: keep-alive",
    b"Proxy-Connection: close",
    b"Upgrade: h2c",
    b"Expect: 100-continue",
    b"X: a\r\n b",
    b"X-A:",
    b"X-A:  a ",
    b"Host: ",
    b"GET / HTTP/1.1\r\n",
)
ODD_BYTES = (
    b"\r",
    b"\n",
    b" ",
    b"\t",
    b":",
    b"0",
    b"+46",
    b"46",
    b"\x00",
    b"\xff",
    b"\r\n",
    b"\r\n\r\n",
)
PIECES = st.sampled_from(
    [*LINES, BODY, *ODD_BYTES, *[line + b"\r\n" for line in (*HEADERS, *ODD_LINES)]]
)
REST = st.one_of(
    st.lists(PIECES, max_size=9).map(b"".join),
    st.lists(PIECES, max_size=5).map(lambda pieces: b"".join([*pieces, b"\r\n", BODY])),
    st.permutations([header + b"\r\n" for header in HEADERS]).map(
        lambda headers: b"".join([*headers, b"\r\n", BODY])
    ),
)
DATA = st.tuples(st.sampled_from(LINES), REST).map(b"".join)


@given(DATA)
def test_what_is_read_is_what_the_parser_reads(data: bytes) -> None:
    read = whole_request(data)
    if read is None:
        return
    route, headers, body = read
    parsed = Parsed(data)
    assert parsed.events == ["begin", "end"]
    assert (parsed.parser.get_method(), parsed.url) == (b"POST", route.path.encode())
    assert parsed.parser.get_http_version() == "1.1"
    assert parsed.parser.should_keep_alive()
    assert not parsed.parser.should_upgrade()
    assert (dict(parsed.headers), parsed.body) == (headers, body)
    assert len(parsed.headers) == len(headers)
    # Nothing was left over for a next message.
    parsed.parser.feed_data(LINE)
    assert parsed.events == ["begin", "end", "begin"]


@pytest.mark.parametrize(
    "data",
    [
        request(*HEADERS)[:-1],
        request(*HEADERS) + b"G",
        request(*HEADERS) * 2,
        request(*HEADERS, b"Connection: close"),
        request(*HEADERS, b"Proxy-Connection: close"),
        request(*HEADERS, b"Transfer-Encoding: chunked"),
        request(*HEADERS, b"Expect: 100-continue"),
        request(*HEADERS, b"Content-Length: 46"),
        request(*HEADERS, b"X: a\r\n b"),
        request(*HEADERS, b"X:  a"),
        request(*HEADERS, b"X : a"),
        request(*HEADERS, b"X: \xff"),
        request(*HEADERS, b"Host: a,b"),
        request(*HEADERS[:-1], b"Content-Length: +46"),
        request(*HEADERS[:-1], b"Content-Length: 046"),
        request(*HEADERS[:-1]),
        request(*HEADERS, b"X: " + b"a" * limits.PLAIN_HEAD_BYTES_MAX),
        request(*HEADERS, line=b"POST /api/v1/transaction HTTP/1.0\r\n"),
        request(*HEADERS, line=b"POST /api/v1/transaction?a=1 HTTP/1.1\r\n"),
        request(*HEADERS, line=b"GET /api/v1/transaction HTTP/1.1\r\n"),
        LINE + b"\r\n",
        b"",
    ],
)
def test_anything_else_is_left_to_the_parser(data: bytes) -> None:
    assert whole_request(data) is None
