"""The proxy loses, holds back and redirects exactly what it is told to."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.chaos.proxy import HOST, Fate, Phase, Proxy, Trap, Verdict, proxied
from tests.chaos.wire import PostgresConversation, RedisConversation
from tests.conftest import eventually

WAIT_S = 3.0
GET = b"*2\r\n$3\r\nGET\r\n$1\r\nx\r\n"
EVALSHA = b"*3\r\n$7\r\nEVALSHA\r\n$3\r\nabc\r\n$1\r\n0\r\n"
LOAD = b"*3\r\n$6\r\nSCRIPT\r\n$4\r\nLOAD\r\n$14\r\n-- admit: text\r\n"


class Echo:
    """A server that remembers what it was sent and answers `+OK`."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            self.received.append(data)
            writer.write(b"+OK\r\n")
        writer.close()


@asynccontextmanager
async def echo() -> AsyncIterator[Echo]:
    server = Echo()
    listening = await asyncio.start_server(server.serve, HOST, 0)
    server.port = listening.sockets[0].getsockname()[1]
    yield server
    listening.close()


@asynccontextmanager
async def behind(server: Echo) -> AsyncIterator[Proxy]:
    async with proxied(server.port, lambda: RedisConversation({})) as proxy:
        yield proxy


async def ask(proxy: Proxy, request: bytes = GET, timeout_s: float = WAIT_S) -> bytes:
    """Send over a new connection; empty when it was cut."""
    reader, writer = await asyncio.open_connection(HOST, proxy.port)
    try:
        writer.write(request)
        async with asyncio.timeout(timeout_s):
            return await reader.read(100)
    except ConnectionError:
        return b""
    finally:
        writer.close()


def trap(verdict: Verdict, phase: Phase = Phase.EXECUTED) -> Trap:
    return Trap(frozenset({"get"}), phase, lambda: verdict)


async def test_without_faults_it_passes_everything_on() -> None:
    async with echo() as server, behind(server) as proxy:
        assert await ask(proxy) == b"+OK\r\n"
        assert proxy.calls == {"get": 1}


@pytest.mark.parametrize(("phase", "received"), [(Phase.SENT, []), (Phase.EXECUTED, [GET])])
async def test_a_cut_at_a_point_loses_the_request_or_only_its_reply(
    phase: Phase, received: list[bytes]
) -> None:
    async with echo() as server, behind(server) as proxy:
        proxy.arm(trap(Verdict(Fate.CUT), phase))
        assert await ask(proxy) == b""
        assert server.received == received
        assert await ask(proxy) == b"+OK\r\n"


async def test_a_dropped_reply_leaves_its_connection_open() -> None:
    async with echo() as server, behind(server) as proxy:
        proxy.arm(trap(Verdict(Fate.DROP)))
        with pytest.raises(TimeoutError):
            await ask(proxy, timeout_s=0.1)
        assert server.received == [GET]


@pytest.mark.parametrize("phase", Phase)
async def test_nothing_follows_what_was_dropped_and_nobody_gets_another_s_reply(
    phase: Phase,
) -> None:
    """Two calls share a connection, and the first or its reply is lost."""
    async with echo() as server, behind(server) as proxy:
        proxy.arm(trap(Verdict(Fate.DROP), phase))
        reader, writer = await asyncio.open_connection(HOST, proxy.port)
        for _ in range(2):
            writer.write(GET)
            await asyncio.sleep(0.05)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.1)
        assert len(b"".join(server.received)) == (0 if phase is Phase.SENT else 2 * len(GET))
        writer.close()
        assert await ask(proxy) == b"+OK\r\n"


async def test_a_request_held_back_arrives_although_its_sender_has_gone() -> None:
    async with echo() as server, behind(server) as proxy:
        proxy.arm(trap(Verdict(Fate.HOLD, 0.2), Phase.SENT))
        with pytest.raises(TimeoutError):
            await ask(proxy, timeout_s=0.05)
        proxy.cut()
        assert server.received == []
        await eventually(lambda: server.received, WAIT_S)
        assert server.received == [GET]


async def test_it_refuses_goes_elsewhere_and_heals() -> None:
    async with echo() as server, echo() as other, behind(server) as proxy:
        proxy.refuses = True
        assert await ask(proxy) == b""
        proxy.heal()
        proxy.retarget(other.port)
        assert await ask(proxy) == b"+OK\r\n"
        assert (server.received, other.received) == ([], [GET])
        proxy.block()
        with pytest.raises(TimeoutError):
            await ask(proxy, timeout_s=0.05)
        proxy.heal()
        assert await ask(proxy) == b"+OK\r\n"


def test_a_script_is_known_by_its_name_once_it_was_loaded() -> None:
    names: dict[bytes, str] = {}
    conversation = RedisConversation(names)
    assert conversation.requested(EVALSHA) == ["script"]
    assert conversation.replied(b"-NOSCRIPT no\r\n") == ["script"]
    assert conversation.requested(LOAD) == ["script_load"]
    assert conversation.replied(b"$3\r\nabc\r\n") == ["script_load"]
    assert conversation.requested(EVALSHA[:20]) == []
    assert RedisConversation(names).requested(EVALSHA) == ["admit"]
    assert conversation.requested(EVALSHA[20:] + GET) == ["admit", "get"]
    assert conversation.replied(b"*1\r\n:1\r\n$1\r\ny") == ["admit"]
    assert conversation.replied(b"\r\n") == ["get"]


def message(kind: bytes, body: bytes) -> bytes:
    return kind + (len(body) + 4).to_bytes(4, "big") + body


def test_an_execution_is_known_by_the_function_its_statement_calls() -> None:
    conversation = PostgresConversation()
    assert conversation.requested((8).to_bytes(4, "big") + (196_608).to_bytes(4, "big")) == []
    assert conversation.replied(message(b"R", b"\0\0\0\0") + message(b"Z", b"I")) == ["startup"]
    parse = message(b"P", b"s1\0SELECT outcome FROM journal_batch_v1($1)\0\0\0")
    assert conversation.requested(parse + message(b"H", b"")) == []
    assert conversation.replied(message(b"1", b"")) == []
    execute = message(b"B", b"\0s1\0rest") + message(b"E", b"\0\0\0\0\0") + message(b"S", b"")
    assert conversation.requested(execute[:-1]) == []
    assert conversation.requested(execute[-1:]) == ["journal_batch"]
    assert conversation.replied(message(b"C", b"SELECT 1\0")) == []
    assert conversation.replied(message(b"Z", b"I")) == ["journal_batch"]
    assert conversation.requested(message(b"Q", b"SELECT 1\0")) == ["other"]
