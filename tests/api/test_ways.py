"""The fast lane and the router answer alike: the same bytes go both ways, over real sockets.

What is compared is everything but names that are drawn and the time: status, headers, and the body
field by field in order.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest

from app import limits
from app.api.fast_lane import FastLane
from app.main import server_config
from app.settings import Settings
from tests.api.test_bad_input import ROWS
from tests.api.ways import (
    GOOD,
    HOLD,
    PATH,
    TAG,
    TRANSACTION,
    TRANSFER,
    Wire,
    Write,
    bare,
    comparable,
    conversation,
    hot,
)
from tests.conftest import eventually, listening, port_of
from tests.integration.test_controls import CONTROL

START = b"POST " + PATH + b" HTTP/1.1"
HOST = b"Host: h"
JSON = b"Content-Type: application/json"
LENGTH = b"Content-Length: %d" % len(GOOD)
keyed = TRANSACTION.keyed
OPENING = "1000000.00"
SEED = 20_260_121
MUTANTS = 400
MUTANTS_AT_ONCE = 40
PIPELINES = 60
# Completes a body that a mutant's Content-Length makes too long; empty lines between requests.
FILLER = b"\r\n" * 4_096


class Way(NamedTuple):
    """One way into the service, and the word that stands for the tag on it."""

    port: int
    word: bytes

    async def talk(self, raw: bytes, tail: bytes = b"") -> list[Any]:
        """Everything comparable that comes back for some bytes, to the end."""
        heard = await conversation(self.port, raw.replace(TAG, self.word), tail)
        return [comparable(answer, self.word) for answer in heard]

    async def ask(self, *requests: bytes) -> list[Any]:
        """The comparable answers to requests that are sent one after the other."""
        async with await Wire.to(self.port) as wire:
            told = []
            for raw in requests:
                await wire.send(raw.replace(TAG, self.word))
                told.append(comparable(await wire.answer(), self.word))
            return told


class Ways(NamedTuple):
    """Both ways into one ledger."""

    lane: Way
    router: Way
    shared: FastLane

    async def same(self, raw: bytes, name: str) -> int:
        """Require the same answers to some bytes; returns how many requests the lane took."""
        before = self.shared.taken_count
        by_lane, by_router = await self.lane.talk(raw), await self.router.talk(raw)
        assert by_lane == by_router, name
        return self.shared.taken_count - before

    async def same_balance(self) -> str:
        """Require that both ways moved the same; returns what is available."""
        request = bare(b"GET /api/v1/balance/@@@ HTTP/1.1", HOST)
        texts = []
        for way in (self.lane, self.router):
            async with await Wire.to(way.port) as wire:
                await wire.send(request.replace(TAG, way.word))
                answer = await wire.answer()
                assert answer is not None
                texts.append(msgspec.json.decode(answer.body)["available_balance"])
        assert texts[0] == texts[1]
        return texts[0]


@pytest.fixture
async def ways(settings: Settings) -> AsyncIterator[Ways]:
    """Two servers on one ledger, one with the lane and one without, and an account for each."""
    without = msgspec.structs.replace(settings.http, direct_route=False)
    with_lane = server_config(settings)
    without_lane = server_config(msgspec.structs.replace(settings, http=without))
    shared = getattr(with_lane.http, "__self__", None)
    assert isinstance(shared, FastLane)
    async with listening(with_lane) as one, listening(without_lane) as other:
        both = Ways(Way(port_of(one), b"LAN"), Way(port_of(other), b"ROU"), shared)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port_of(other)}") as client:
            for word in ("LAN", "ROU", "BANK"):
                body = {"account_id": word, "opening_balance": OPENING}
                assert (await client.post("/api/v1/accounts", json=body)).status_code == 201
            body = {"account_id": "EURO", "currency": "EUR"}
            assert (await client.post("/api/v1/accounts", json=body)).status_code == 201
        yield both


async def test_every_refusal_is_the_same_and_the_lane_gives_it(ways: Ways) -> None:
    for row in ROWS:
        headers = {"content-type": "application/json", **row.headers}
        lines = [f"{name}: {value}".encode() for name, value in headers.items()]
        body = row.body.replace(b'"A"', b'"@@@"')
        head = bare(START, HOST, *lines, b"Content-Length: %d" % len(body))
        assert await ways.same(head + body, row.name) == 1, row.name
    assert await ways.same_balance() == OPENING


ACCEPTED_OR_DECIDED = {
    "plain": hot(),
    "a credit": hot(body=GOOD.replace(b"debit", b"credit")),
    "everything": hot(
        b"Idempotency-Key: all-@@@",
        body=GOOD[:-1] + b',"reference":"r\\u00e9","metadata":{"b":"2","a":"1"}}',
    ),
    "with a key": keyed(1),
    "again": keyed(1),
    "again, quoted": hot(b'Idempotency-Key: "k000001-@@@"'),
    "the key for another": keyed(1, body=GOOD.replace(b"1.00", b"2.00")),
    "too much": hot(body=GOOD.replace(b"1.00", b"9999999999.00")),
    "a request id": hot(b"X-Request-ID: mine-7"),
    "a harmful request id": hot(b"X-Request-ID: a b"),
    "a refused request id": hot(b"X-Request-ID: mine-8", body=b"{}"),
}


async def test_every_decision_is_the_same(ways: Ways) -> None:
    for name, raw in ACCEPTED_OR_DECIDED.items():
        assert await ways.same(raw, name) == 1, name
    assert await ways.same_balance() != OPENING


ON_THE_LANE = {
    "names in capitals": hot(b"IDEMPOTENCY-KEY: caps-@@@").replace(b"Content-", b"CONTENT-"),
    "nothing after the colon": hot(b"Idempotency-Key:tight-@@@", b"X-Empty:"),
    "blanks around a value": hot(b"Idempotency-Key:   \t loose-@@@ \t "),
    "keep-alive": hot(b"Connection: keep-alive"),
    "Keep-Alive, TE": hot(b"Connection: Keep-Alive, TE", b"TE: trailers"),
    "two keys": hot(b"Idempotency-Key: first-@@@", b"Idempotency-Key: second-@@@"),
    "two types": hot(b"Content-Type: text/plain"),
    "two request ids": hot(b"X-Request-ID: one", b"X-Request-ID: two"),
    "bytes above ASCII": hot(b"Idempotency-Key: \xe9\xff-@@@", b"X-Other: \xe9"),
    "an encoding it does not undo": hot(b"Content-Encoding: gzip"),
    "another expectation": hot(b"Expect: miracles"),
    "empty lines first": b"\r\n\r\n" + hot(),
    "zeros before the length": bare(START, HOST, JSON, b"Content-Length: 000%d" % len(GOOD)) + GOOD,
    "blanks around the length": bare(START, HOST, JSON, b"Content-Length:  51 ") + GOOD,
    "two blanks": hot(start=b"POST  " + PATH + b" HTTP/1.1"),
    "no type": bare(START, HOST, LENGTH) + GOOD,
    "no length": bare(START, HOST, JSON),
    "no host": bare(START, JSON, LENGTH) + GOOD,
    "a hundred headers": hot(*[b"X-%d: y" % number for number in range(100)]),
}


UUID_8 = b'"id":"01980000-0000-8000-8000-000000000001"'
# Of a transfer and of a hold, by what is written instead of something in the good body.
REFUSED = {
    "nothing": lambda _good: b"",
    "cut off": lambda good: good[:-2],
    "an array": lambda _good: b"[]",
    "unknown field": lambda good: good.replace(b"{", b'{"amout":"1",'),
    "no amount": lambda good: good.replace(b'"amount":"1.00",', b"").replace(
        b',"amount":"1.00"', b""
    ),
    "account as a number": lambda good: good.replace(b'"BANK"', b"5"),
    "no account": lambda good: good.replace(b'"@@@"', b'""'),
    "external": lambda good: good.replace(b'"BANK"', b'"external:USD"'),
    "to itself": lambda good: good.replace(b'"BANK"', b'"@@@"'),
    "unknown payer": lambda good: good.replace(b'"@@@"', b'"NOBODY"'),
    "unknown receiver": lambda good: good.replace(b'"BANK"', b'"NOBODY"'),
    "another currency": lambda good: good.replace(b'"BANK"', b'"EURO"'),
    "zero": lambda good: good.replace(b"1.00", b"0"),
    "float": lambda good: good.replace(b'"1.00"', b"1.5"),
    "too precise": lambda good: good.replace(b"1.00", b"1.001"),
    "too much": lambda good: good.replace(b"1.00", b"9999999999.00"),
    "id of version 8": lambda good: good.replace(b"{", b"{" + UUID_8 + b","),
    "large body": lambda good: good[:-1] + b',"reference":"%b"}' % (b"x" * limits.BODY_BYTES_MAX),
}
DECIDED: dict[str, Callable[[Write], bytes]] = {
    "plain": lambda write: write.asked(),
    "with a key": lambda write: write.keyed(1),
    "again": lambda write: write.keyed(1),
    "the key for another": lambda write: write.keyed(1, write.good.replace(b"1.00", b"2.00")),
    "everything": lambda write: write.asked(
        b"X-Request-ID: mine-7",
        body=write.good[:-1] + b',"reference":"r\\u00e9","metadata":{"b":"2","a":"1"}}',
    ),
    "a bad key": lambda write: write.asked(b"Idempotency-Key: a b"),
    "another type": lambda write: write.asked().replace(b"application/json", b"text/plain"),
}


@pytest.mark.parametrize("write", [TRANSFER, HOLD])
async def test_transfers_and_holds_are_refused_the_same(ways: Ways, write: Write) -> None:
    for name, body_of in REFUSED.items():
        body = body_of(write.good)
        assert body != write.good, name
        for _ in range(2):  # the second time its accounts are known
            assert await ways.same(write.asked(body=body), name) == 1, name
        answers = await ways.lane.talk(write.asked(body=body))
        assert 400 <= answers[0][0] < 500, (name, answers)
    assert await ways.same_balance() == OPENING


@pytest.mark.parametrize("write", [TRANSFER, HOLD])
async def test_transfers_and_holds_are_decided_the_same(ways: Ways, write: Write) -> None:
    for name, asked in DECIDED.items():
        assert await ways.same(asked(write), name) == 1, name
    assert await ways.same_balance() == "999997.00"


@pytest.mark.parametrize("write", [TRANSACTION, TRANSFER, HOLD])
async def test_without_redis_they_are_decided_the_same(
    ways: Ways, write: Write, database: Any
) -> None:
    await database.execute(CONTROL, "force_postgres")
    for way in (ways.lane, ways.router):
        await eventually(partial(is_decided_by_postgres, way, write))
    for name, asked in DECIDED.items():
        assert await ways.same(asked(write), name) == 1, name
    await database.execute(CONTROL, "read_only")
    for way in (ways.lane, ways.router):
        await eventually(partial(is_refused, way, write))
    assert await ways.same(write.asked(), "closed") == 1


async def told(way: Way, raw: bytes) -> dict[str, Any]:
    answers = await conversation(way.port, raw.replace(TAG, way.word))
    assert answers[0] is not None
    return dict(msgspec.json.decode(answers[0].body))


async def is_decided_by_postgres(way: Way, write: Write) -> bool:
    return (await told(way, write.asked())).get("mode") == "postgres"


async def is_refused(way: Way, write: Write) -> bool:
    return "code" in await told(way, write.asked())


@pytest.mark.parametrize("write", [TRANSFER, HOLD])
async def test_unusual_transfers_and_holds_go_to_the_router(ways: Ways, write: Write) -> None:
    for query in (b"?", b"?a=b", b"?dry_run=true", b"?dry_run=maybe", b"/"):
        line = b"POST %b HTTP/1.1" % (write.path + query)
        assert await ways.same(hot(body=write.good, start=line), str(query)) == 0
    assert await ways.same(write.asked(b"Connection: close"), "close") == 0
    assert await ways.same_balance() == "999997.00"


def chunked(*more: bytes, trailer: bytes = b"") -> bytes:
    head = bare(START, HOST, JSON, *more)
    return head + b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(GOOD), GOOD, trailer)


TO_THE_ROUTER = {
    "HTTP/1.0": hot(start=b"POST " + PATH + b" HTTP/1.0"),
    "HTTP/1.0 kept alive": hot(b"Connection: keep-alive", start=b"POST " + PATH + b" HTTP/1.0"),
    "HTTP/2.0": hot(start=b"POST " + PATH + b" HTTP/2.0"),
    "no version": hot(start=b"POST " + PATH),
    "close": hot(b"Connection: close"),
    "keep-alive, close": hot(b"Connection: keep-alive, close"),
    "expects 100": hot(b"Expect: 100-continue"),
    "h2c": hot(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: A"),
    "websocket": hot(b"Connection: Upgrade", b"Upgrade: websocket"),
    "a query": hot(start=b"POST " + PATH + b"?a=b HTTP/1.1"),
    "an empty query": hot(start=b"POST " + PATH + b"? HTTP/1.1"),
    "absolute form": hot(start=b"POST http://h" + PATH + b" HTTP/1.1"),
    "a slash at the end": hot(start=b"POST " + PATH + b"/ HTTP/1.1"),
    "two slashes": hot(start=b"POST /" + PATH + b" HTTP/1.1"),
    "escaped path": hot(start=b"POST /api/v1/%74ransaction HTTP/1.1"),
    "dots": hot(start=b"POST /api/v1/../v1/transaction HTTP/1.1"),
    "GET": hot(start=b"GET " + PATH + b" HTTP/1.1"),
    "PUT": hot(start=b"PUT " + PATH + b" HTTP/1.1"),
    "OPTIONS": bare(b"OPTIONS " + PATH + b" HTTP/1.1", HOST),
    "chunked": chunked(b"Transfer-Encoding: chunked"),
    "chunked with a trailer": chunked(
        b"Transfer-Encoding: chunked", trailer=b"Idempotency-Key: trailer-@@@\r\n"
    ),
    "a host with a blank": bare(START, b"Host: a b", JSON, LENGTH) + GOOD,
    "a host with bytes above ASCII": bare(START, b"Host: \xe9", JSON, LENGTH) + GOOD,
    "a host with a user": bare(START, b"Host: me@h", JSON, LENGTH) + GOOD,
    "identity": hot(b"Transfer-Encoding: identity"),
}
NOT_HTTP = {
    "chunked and a length": chunked(b"Transfer-Encoding: chunked", LENGTH),
    "two encodings": chunked(b"Transfer-Encoding: chunked, identity"),
    "a bad chunk": chunked(b"Transfer-Encoding: chunked").replace(b"\r\n0\r\n", b"xx0\r\n"),
    "two lengths": hot(LENGTH),
    "two lengths that differ": hot(b"Content-Length: 5"),
    "a list of lengths": bare(START, HOST, JSON, b"Content-Length: 51, 51") + GOOD,
    "negative": bare(START, HOST, JSON, b"Content-Length: -1") + GOOD,
    "signed": bare(START, HOST, JSON, b"Content-Length: +51") + GOOD,
    "hexadecimal": bare(START, HOST, JSON, b"Content-Length: 0x33") + GOOD,
    "fraction": bare(START, HOST, JSON, b"Content-Length: 51.0") + GOOD,
    "huge": bare(START, HOST, JSON, b"Content-Length: 99999999999999999999999") + GOOD,
    "Arabic digits": bare(START, HOST, JSON, "Content-Length: \u0665\u0661".encode()) + GOOD,
    "superscript": bare(START, HOST, JSON, b"Content-Length: 5\xb9") + GOOD,
    "no digits": bare(START, HOST, JSON, b"Content-Length:") + GOOD,
    "folded": hot(b"Idempotency-Key: a", b" b"),
    "lone LF": hot().replace(b"\r\n", b"\n"),
    "lone CR": hot(b"X-A: b\rX-C: d"),
    "NUL in a value": hot(b"X-A: \x00"),
    "no colon": hot(b"X-A"),
    "blank before the colon": hot(b"X-A : b"),
    "length with a blank": bare(START, HOST, JSON, b"Content-Length : 51") + GOOD,
    "empty name": hot(b": b"),
    "a tab": hot(start=b"POST\t" + PATH + b" HTTP/1.1"),
    "lower case": hot(start=b"post " + PATH + b" HTTP/1.1"),
    "http": hot(start=b"POST " + PATH + b" http/1.1"),
    "HTTP/1.2": hot(start=b"POST " + PATH + b" HTTP/1.2"),
    "another method": hot(start=b"XPOST " + PATH + b" HTTP/1.1"),
    "nonsense": b"\x16\x03\x01\x02\x00\x01\x00",
}


async def test_odd_but_whole_requests_are_taken_and_answered_the_same(ways: Ways) -> None:
    for name, raw in ON_THE_LANE.items():
        assert await ways.same(raw, name) == 1, name
    assert await ways.same_balance() != OPENING


async def test_unusual_requests_go_to_the_router(ways: Ways) -> None:
    for name, raw in TO_THE_ROUTER.items():
        assert await ways.same(raw, name) == 0, name
    assert await ways.same_balance() != OPENING


async def test_what_is_not_http_is_refused_the_same(ways: Ways) -> None:
    for name, raw in NOT_HTTP.items():
        await ways.same(raw, name)
        assert await ways.same_balance() == OPENING, name


@pytest.mark.parametrize("write", [TRANSACTION, TRANSFER, HOLD])
async def test_a_request_may_be_cut_at_any_byte(ways: Ways, write: Write) -> None:
    request = write.keyed(7).replace(TAG, b"LAN")
    async with await Wire.to(ways.lane.port) as wire:
        for cut in range(1, len(request)):
            await wire.send(request, [cut])
            answer = await wire.answer()
            assert answer is not None, cut
            assert answer.status == 201, (cut, answer)
    assert ways.shared.taken_count == len(request) - 1


PIPELINED = [
    keyed,
    lambda number: keyed(number, body=GOOD.replace(b"debit", b"credit")),
    lambda number: keyed(number, body=GOOD.replace(b"1.00", b"999999.00")),
    lambda number: keyed(number, body=b"{}"),
    lambda number: hot(b"X-Request-ID: r%d" % number),
    lambda number: hot(b"X-Request-ID: r%d" % number, start=b"POST " + PATH + b"? HTTP/1.1"),
    lambda number: bare(b"GET /api/v1/balance/@@@ HTTP/1.1", HOST),
    lambda number: bare(b"GET /api/v1/nowhere/%d HTTP/1.1" % number, HOST),
    lambda number: keyed(number // 3),
    TRANSFER.keyed,
    HOLD.keyed,
    lambda number: TRANSFER.keyed(number, b"{}"),
    lambda number: HOLD.keyed(number // 3),
]


def told_apart(answers: list[Any]) -> list[Any]:
    """Leave out of balances when they were last changed."""
    return [
        (status, headers, [pair for pair in told if pair[0] != "last_updated"])
        for status, headers, told in answers
    ]


async def test_pipelined_requests_are_answered_in_order_as_if_sent_one_by_one(ways: Ways) -> None:
    print("seed", SEED)
    draw = random.Random(SEED)
    number = 10
    for program in range(PIPELINES):
        requests = []
        for _ in range(draw.randint(2, 9)):
            number += 1
            requests.append(draw.choice(PIPELINED)(number))
        data = b"".join(requests).replace(TAG, ways.lane.word)
        cuts = [draw.randrange(1, len(data)) for _ in range(draw.choice((0, 0, 1, 4)))]
        async with await Wire.to(ways.lane.port) as wire:
            await wire.send(data, cuts)
            answers = await wire.answers(len(requests))
        by_lane = [comparable(answer, ways.lane.word) for answer in answers]
        by_router = await ways.router.ask(*requests)
        assert told_apart(by_lane) == told_apart(by_router), program
    assert ways.shared.taken_count > PIPELINES // 2
    await ways.same_balance()


def mutated(draw: random.Random, raw: bytes) -> bytes:
    """Change a request a little, as a careless or hostile client might."""
    pieces = (b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"\x00", b"0", b"5", b"\xff", b"\r\n\r\n")
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(raw))
        end = min(len(raw), at + draw.randint(1, 12))
        match draw.randrange(6):
            case 0:
                raw = raw[:at] + raw[at + 1 :]
            case 1:
                raw = raw[:at] + draw.choice(pieces) + raw[at:]
            case 2:
                raw = raw[:at] + bytes([draw.randrange(256)]) + raw[at + 1 :]
            case 3:
                raw = raw[:end] + raw[at:]
            case 4:
                raw = raw[:at] + raw[at : at + 1].swapcase() + raw[at + 1 :]
            case _:
                lines = raw.split(b"\r\n")
                here, there = draw.randrange(len(lines)), draw.randrange(len(lines))
                lines[here], lines[there] = lines[there], lines[here]
                raw = b"\r\n".join(lines)
    return raw


@pytest.mark.parametrize("write", [TRANSACTION, TRANSFER, HOLD])
async def test_mutated_requests_are_answered_the_same_or_not_at_all(
    ways: Ways, write: Write
) -> None:
    print("seed", SEED)
    draw = random.Random(SEED)
    mutants = []
    while len(mutants) < MUTANTS:
        number = draw.randrange(10**6)
        line = draw.choice((b"Idempotency-Key: @@@%06d", b"X-Request-ID: m%06d"))
        mutant = mutated(draw, write.asked(line % number))
        if b"y: @@@" in mutant or b"y: " not in mutant:  # else the ways would share a key
            mutants.append(mutant)

    async def compared(raw: bytes) -> None:
        by_lane, by_router = await ways.lane.talk(raw, FILLER), await ways.router.talk(raw, FILLER)
        assert by_lane == by_router, raw

    for start in range(0, MUTANTS, MUTANTS_AT_ONCE):
        await asyncio.gather(*map(compared, mutants[start : start + MUTANTS_AT_ONCE]))
    assert MUTANTS // 4 < ways.shared.taken_count < MUTANTS
