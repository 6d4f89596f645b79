"""Answers put together from whatever pieces arrive."""

import pytest

from bench.load.response import ProtocolError, Response, ResponseParser

BODY = b'{"success":true}'
ANSWER = (
    b"HTTP/1.1 201 Created\r\ncontent-length: 16\r\ncontent-type: application/json\r\n"
    b"idempotency-replayed: true\r\n\r\n" + BODY
)
WHOLE = Response(201, BODY, True, False)
WRONG = [
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 1e9\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 999999999999\r\n\r\n",
    b"HTTP/1.1 abc OK\r\ncontent-length: 0\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab",
    ANSWER + ANSWER,
    b"x" * 20_000,
]


@pytest.mark.parametrize("at", range(1, len(ANSWER)))
def test_an_answer_may_be_cut_anywhere(at: int) -> None:
    parser = ResponseParser()
    assert parser.feed(ANSWER[:at]) is None
    assert parser.feed(ANSWER[at:]) == WHOLE
    assert parser.feed(ANSWER) == WHOLE


def test_an_answer_may_come_byte_by_byte() -> None:
    parser = ResponseParser()
    *first, last = (ANSWER[at : at + 1] for at in range(len(ANSWER)))
    assert {parser.feed(byte) for byte in first} == {None}
    assert parser.feed(last) == WHOLE


def test_a_long_body_may_come_in_many_pieces() -> None:
    body = bytes(range(256)) * 4_000
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    parser, pieces = (
        ResponseParser(),
        [answer[at : at + 65_536] for at in range(0, len(answer), 65_536)],
    )
    found = [parser.feed(piece) for piece in pieces]
    assert found[:-1] == [None] * (len(pieces) - 1)
    assert found[-1] == Response(200, body, False, False)


HEADS = [
    (b"503 X\r\nCONTENT-LENGTH:0\r\nConnection: close", (503, False, True)),
    (b"201 X\r\nIdempotency-Replayed: TRUE\r\nContent-Length: 0", (201, True, False)),
    (b"201 X\r\nx-note: content-length: 9\r\ncontent-length: 0", (201, False, False)),
    (b"409 X\r\nidempotency-replayed: false\r\ncontent-length: 0", (409, False, False)),
]


@pytest.mark.parametrize(("head", "found"), HEADS)
def test_names_of_headers_are_read_in_any_case(head: bytes, found: tuple[int, bool, bool]) -> None:
    status, replayed, closes = found
    answer = b"HTTP/1.1 " + head + b"\r\n\r\n"
    assert ResponseParser().feed(answer) == Response(status, b"", replayed, closes)


@pytest.mark.parametrize("answer", WRONG)
def test_what_is_no_answer_is_an_error(answer: bytes) -> None:
    with pytest.raises(ProtocolError):
        ResponseParser().feed(answer)


def test_a_body_that_looks_like_a_header_is_a_body() -> None:
    body = b"\r\nidempotency-replayed: true\r\n\r\n"
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    assert ResponseParser().feed(answer) == Response(200, body, False, False)
