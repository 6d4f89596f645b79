"""Hostile bytes on both ways in, seeded: afterwards the service stands, has leaked nothing, has
logged nothing unexpected, and no money has moved that nobody moved.
"""

import asyncio
import contextlib
import gc
import logging
import os
import random
from collections.abc import AsyncIterator, Callable

import httpx
import msgspec
import pytest

from app import limits
from app.main import server_config
from app.settings import Settings
from tests.api.test_ways import NOT_HTTP, TO_THE_ROUTER, mutated
from tests.api.ways import GOOD, PATH, PROBE, TAG, bare, hot
from tests.conftest import eventually, listening, port_of

SEED = 20_261_121
ATTACKS = 600
AT_ONCE = 30
LISTENING_S = 0.15
OPENING = "1000.00"
POST = b"POST " + PATH + b" HTTP/1.1"
CHUNKED = bare(POST, b"Host: h", b"Content-Type: application/json", b"Transfer-Encoding: chunked")
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
# None of these may move money: the account is one that is not there, or the length is wrong.
HARMLESS = GOOD.replace(TAG, b"NOBODY")


def lengths(draw: random.Random) -> bytes:
    """Lengths that lie, and two ways to frame at once."""
    length = draw.choice(
        (b"0", b"1", b"50", b"52", b"9999999", b"-1", b"1e3", b"0x33", b"", b"51 51")
    )
    more = draw.choice((b"X: y", b"Transfer-Encoding: chunked", b"Content-Length: 51"))
    lines = [b"Host: h", b"Content-Type: application/json", b"Content-Length: " + length, more]
    draw.shuffle(lines)
    return bare(POST, *lines) + HARMLESS


def chunks(draw: random.Random) -> bytes:
    """Chunks of every wrong kind."""
    sizes = (b"5", b"-5", b"ffffffffffffffff", b"5;a=b", b"5 ", b"g", b"", b"00000000000000000005")
    parts = [draw.choice(sizes) + b"\r\nabcde\r\n" for _ in range(draw.randint(1, 4))]
    return CHUNKED + b"".join(parts) + draw.choice((b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b""))


def heads(draw: random.Random) -> bytes:
    """Heads that are long, many, unended or of odd bytes."""
    kind = draw.randrange(4)
    if kind == 0:
        return b"GET /" + bytes(draw.randrange(33, 256) for _ in range(draw.randrange(20_000)))
    if kind == 1:
        return bare(POST, *[b"X-%d: y" % n for n in range(draw.randrange(50, 400))]) + HARMLESS
    if kind == 2:
        return POST + b"\r\nX: " + b"y" * draw.randrange(60_000)
    name = bytes(draw.randrange(256) for _ in range(draw.randrange(1, 40)))
    return hot(name + b": " + name[::-1], body=HARMLESS)


def garbage(draw: random.Random) -> bytes:
    """Bytes of no meaning, TLS among them."""
    some = bytes(draw.randrange(256) for _ in range(draw.randrange(1, 3_000)))
    return draw.choice((some, HELLO + some, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", PROBE + some))


def lines(draw: random.Random) -> bytes:
    """Good and bad requests in one line."""
    kinds = [PROBE, hot(body=HARMLESS), CHUNKED + b"2\r\n{}\r\n0\r\n\r\n", *KNOWN]
    return b"".join(draw.choice(kinds) for _ in range(draw.randint(2, 150)))


def mutants(draw: random.Random) -> bytes:
    """A request with small changes; a changed account is no account that is there."""
    return mutated(draw, hot(b"Idempotency-Key: k%d" % draw.randrange(10**9), body=HARMLESS))


KNOWN = [raw.replace(TAG, b"NOBODY") for raw in (*NOT_HTTP.values(), *TO_THE_ROUTER.values())]
ATTACK: list[Callable[[random.Random], bytes]] = [
    lengths,
    chunks,
    heads,
    garbage,
    lines,
    mutants,
    lambda draw: draw.choice(KNOWN),
]


@pytest.fixture(params=[True, False], ids=["lane", "router"])
async def service(
    settings: Settings, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[int, httpx.AsyncClient, set[object]]]:
    """A service that is asked first what it is to answer last."""
    for name in ("HEAD_READ_S", "BODY_READ_S"):
        monkeypatch.setattr(limits, name, 0.5)
    monkeypatch.setattr(limits, "BODY_ABANDONED_S", 0.8)
    http = msgspec.structs.replace(settings.http, direct_route=request.param)
    async with listening(server_config(msgspec.structs.replace(settings, http=http))) as server:
        url = f"http://127.0.0.1:{port_of(server)}"
        async with httpx.AsyncClient(base_url=url) as client:
            account = {"account_id": "A", "opening_balance": OPENING}
            assert (await client.post("/api/v1/accounts", json=account)).status_code == 201
            yield port_of(server), client, server.server_state.connections  # type: ignore[misc]


async def attack(port: int, draw: random.Random) -> None:
    """Send hostile bytes in one of several ways and go without a word."""
    data = draw.choice(ATTACK)(draw)
    manner = draw.randrange(5)
    cuts = sorted(draw.randrange(len(data) + 1) for _ in range(draw.choice((0, 0, 2, 8))))
    with contextlib.suppress(OSError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            writer.write(data[start:end])
            await asyncio.sleep(0)
        if manner == 0:
            writer.transport.abort()
            return
        if manner == 1:
            writer.write_eof()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LISTENING_S):
                while await reader.read(65_536):
                    continue
        writer.transport.abort()


def open_files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


async def test_hostile_bytes_leave_the_service_as_it_was(
    service: tuple[int, httpx.AsyncClient, set[object]], caplog: pytest.LogCaptureFixture
) -> None:
    port, client, connections = service
    print("seed", SEED)
    draw = random.Random(SEED)
    await client.get("/health/live")
    await eventually(lambda: len(connections) == 1)
    tasks, files = len(asyncio.all_tasks()), open_files()
    with caplog.at_level(logging.WARNING):
        for _ in range(ATTACKS // AT_ONCE):
            seeds = [draw.randrange(2**62) for _ in range(AT_ONCE)]
            await asyncio.gather(*(attack(port, random.Random(seed)) for seed in seeds))
    assert (await client.get("/health/live")).json() == {"status": "alive"}
    await eventually(lambda: len(connections) == 1)
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
    await eventually(lambda: open_files() <= files)
    loud = [
        record for record in caplog.records if record.levelno >= logging.ERROR or record.exc_info
    ]
    assert [record.getMessage() for record in loud] == []
    balance = (await client.get("/api/v1/balance/A")).json()
    assert balance["available_balance"] == OPENING
    verified = (await client.get("/api/v1/verify")).json()
    assert verified["status"] == "verified", verified
    moved = {"account_id": "A", "amount": "1.00", "type": "debit"}
    assert (await client.post("/api/v1/transaction", json=moved)).status_code == 201
