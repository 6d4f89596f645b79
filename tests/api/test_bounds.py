"""What a connection may cost, on both ways in; and what came before a bound is answered."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest

from app import limits
from app.main import server_config
from app.settings import Settings
from tests.api.ways import ALIVE, GOOD, PROBE, Wire, bare, hot
from tests.conftest import eventually, listening, port_of

POST = b"POST /api/v1/transaction HTTP/1.1"
PLAIN = GOOD.replace(b"@@@", b"A")


@pytest.fixture(params=[True, False], ids=["lane", "router"])
async def port(
    settings: Settings, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[int]:
    """A service whose patience is short."""
    monkeypatch.setattr(limits, "HEAD_READ_S", 0.4)
    monkeypatch.setattr(limits, "BODY_READ_S", 0.4)
    monkeypatch.setattr(limits, "BODY_ABANDONED_S", 0.8)
    monkeypatch.setattr(limits, "ANSWER_STALLED_S", 0.5)
    http = msgspec.structs.replace(settings.http, direct_route=request.param)
    async with listening(server_config(msgspec.structs.replace(settings, http=http))) as server:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port_of(server)}") as client:
            account = {"account_id": "A", "opening_balance": "100.00"}
            assert (await client.post("/api/v1/accounts", json=account)).status_code == 201
        yield port_of(server)
        await eventually(lambda: not server.server_state.tasks)


async def told(port: int, data: bytes) -> tuple[int, str] | None:
    """Send some bytes; the status and code that come back before the end, None if nothing does."""
    async with await Wire.to(port) as wire:
        await wire.send(data)
        answer = await wire.answer()
        if answer is None:
            return None
        assert dict(answer.headers)["connection"] == "close", answer
        assert await wire.answer() is None
        return answer.status, msgspec.json.decode(answer.body)["code"]


TOO_MUCH = {
    "a long target": (b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\n", 414, "request_target_too_long"),
    "many headers": (
        bare(b"GET / HTTP/1.1", *[b"X-%d: y" % number for number in range(200)]),
        431,
        "headers_too_large",
    ),
    "large headers": (
        bare(b"GET / HTTP/1.1", *[b"X-%d: %b" % (n, b"y" * 4_000) for n in range(10)]),
        431,
        "headers_too_large",
    ),
    "a header without an end": (b"GET / HTTP/1.1\r\nX: " + b"y" * 60_000, 431, "headers_too_large"),
    "a trailer without an end": (
        bare(POST, b"Host: h", b"Transfer-Encoding: chunked") + b"0\r\nX: " + b"y" * 60_000,
        431,
        "headers_too_large",
    ),
    "many trailers": (
        bare(POST, b"Host: h", b"Transfer-Encoding: chunked")
        + b"0\r\n"
        + b"".join(b"X-%d: y\r\n" % number for number in range(200)),
        431,
        "headers_too_large",
    ),
    "a chunk's extension without an end": (
        bare(POST, b"Host: h", b"Transfer-Encoding: chunked") + b"5;" + b"y" * 60_000,
        431,
        "headers_too_large",
    ),
    "a half head": (POST + b"\r\nHost: h\r\n", 408, "head_timeout"),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00", 400, "malformed_http"),
    "a bad chunk": (
        bare(POST, b"Host: h", b"Transfer-Encoding: chunked") + b"zz\r\n",
        400,
        "malformed_http",
    ),
}


async def test_too_large_too_slow_and_wrong_end_with_a_problem(port: int) -> None:
    for name, (data, status, code) in TOO_MUCH.items():
        assert await told(port, data) == (status, code), name


async def test_who_says_nothing_is_let_go(port: int) -> None:
    assert await told(port, b"") is None


async def test_a_byte_at_a_time_does_not_keep_a_connection(port: int) -> None:
    for drip in (b"GET / HTTP/1.1\r\nX: " + b"y" * 500, b"\r\n" * 500):
        async with await Wire.to(port) as wire:
            async with asyncio.timeout(10):
                answered = asyncio.create_task(wire.answer())
                for number in range(len(drip)):
                    if answered.done():
                        break
                    await wire.send(drip[number : number + 1])
                    await asyncio.wait({answered}, timeout=0.05)
                answer = await answered
            assert answer is None or answer.status == 408


async def test_a_body_that_drips_is_refused_and_then_let_go(port: int) -> None:
    head = bare(POST, b"Host: h", b"Content-Type: application/json", b"Content-Length: 500")
    for raw in (head, head.replace(POST, b"GET /health/live HTTP/1.1")):
        async with await Wire.to(port) as wire, asyncio.timeout(10):
            await wire.send(raw)
            answer = await wire.answer()
            assert answer is not None
            assert answer.status in {200, 408}
            last = asyncio.create_task(wire.answer())
            while not last.done():
                await wire.send(b" ")
                await asyncio.wait({last}, timeout=0.05)
            assert await last is None


async def test_who_does_not_read_its_answers_is_let_go(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    page = bare(b"GET /schema-assets/swagger-ui-bundle.js HTTP/1.1", b"Host: h")
    with pytest.raises(ConnectionError):
        async with asyncio.timeout(20):
            for _ in range(20):
                writer.write(page)
            while True:
                writer.write(b"\r\n")
                await writer.drain()
                await asyncio.wait([asyncio.ensure_future(asyncio.sleep(0.05))])
    writer.transport.abort()


async def test_what_came_before_is_answered_first(port: int) -> None:
    good = hot(body=PLAIN)
    for bad, code in (
        (b"\x00\x00\r\n\r\n", "malformed_http"),
        (b"GET /" + b"a" * 9_000, "request_target_too_long"),
        (bare(POST, b"Host: h", b"Transfer-Encoding: chunked") + b"zz\r\n", "malformed_http"),
    ):
        async with await Wire.to(port) as wire:
            await wire.send(good + good + bad)
            answers = await wire.answers(4)
        assert [answer.status for answer in answers[:2]] == [201, 201], code
        assert len(answers) == 3
        assert msgspec.json.decode(answers[2].body)["code"] == code


async def test_only_so_many_requests_wait_in_line(port: int) -> None:
    async with await Wire.to(port) as wire:
        await wire.send(PROBE * (limits.PIPELINE_MAX * 3))
        answers = await wire.answers(limits.PIPELINE_MAX * 3)
    *alive, last = answers
    assert all(answer.body == ALIVE for answer in alive)
    assert limits.PIPELINE_MAX <= len(alive) <= limits.PIPELINE_MAX + 2
    assert msgspec.json.decode(last.body)["code"] == "pipeline_too_deep"
    async with await Wire.to(port) as wire:
        await wire.send(PROBE * limits.PIPELINE_MAX)
        assert len(await wire.answers(limits.PIPELINE_MAX)) == limits.PIPELINE_MAX
