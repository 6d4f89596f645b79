"""The one raw connection to Redis: every caller gets its own reply or an error, in time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.infra.embedded import start_redis
from app.infra.redis import REDIS_ERRORS, open_redis
from app.infra.redis_line import RedisLine
from app.infra.scripts import LuaScripts
from tests.conftest import eventually
from tests.failure.proxy import FaultyProxy, proxied

TIMEOUT_MS = 300
TIMEOUT_S = TIMEOUT_MS / 1_000
LOSSES = 200


class Lined:
    """A line with what it runs on."""

    def __init__(self, redis: Any) -> None:
        self.redis = redis
        self.line = RedisLine(redis)

    @property
    def used_count(self) -> int:
        return len(self.redis.connection_pool._in_use_connections)

    async def echo(self, *texts: str) -> list[Any]:
        calls = (self.line.call("ECHO", text) for text in texts)
        return await asyncio.gather(*calls, return_exceptions=True)


@asynccontextmanager
async def lined(url: str) -> AsyncIterator[Lined]:
    async with open_redis(url, TIMEOUT_MS, connections=4) as redis:
        yield Lined(redis)


@pytest.fixture
async def near(redis_url: str) -> AsyncIterator[Lined]:
    """A line to the test's Redis."""
    async with lined(redis_url) as near:
        yield near


class Behind(Lined):
    """A line behind a proxy."""

    def __init__(self, redis: Any, proxy: FaultyProxy) -> None:
        super().__init__(redis)
        self.proxy = proxy

    def to_client(self) -> asyncio.StreamWriter:
        """The proxy's end of the one connection that the line has."""
        port = self.redis.connection_pool.connection_kwargs["port"]
        (end,) = (
            writer for writer in self.proxy._writers if writer.get_extra_info("sockname")[1] == port
        )
        return end


@pytest.fixture
async def behind(redis_url: str) -> AsyncIterator[Behind]:
    async with (
        proxied(redis_url) as (url, proxy),
        open_redis(url, TIMEOUT_MS, connections=4) as redis,
    ):
        yield Behind(redis, proxy)
        proxy.resume()


async def test_many_calls_at_once_each_get_their_own_reply(near: Lined) -> None:
    texts = [f"{number} ä €" for number in range(2_000)]
    assert await near.echo(*texts) == texts
    assert near.used_count == 1


async def test_replies_may_come_in_pieces(behind: Behind, monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte at a time, so also in the middle of a line, of a count and of a character."""

    async def drip(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: asyncio.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while byte := await reader.read(1):
                writer.write(byte)
                await writer.drain()
                await asyncio.sleep(0)

    monkeypatch.setattr(behind.proxy, "_pass_replies", drip)
    texts = [f"{number} ä €" for number in range(50)]
    assert await behind.echo(*texts) == texts
    nested = await behind.line.call("EVAL", "return {1, 'é', {}, {'x', {2}}, false}", "0")
    assert nested == [1, "é", [], ["x", [2]], None]


async def test_a_long_call_and_a_long_reply_arrive_whole(near: Lined) -> None:
    long = "x" * 3_000_000
    assert await near.echo("before", long, "after") == ["before", long, "after"]


async def test_an_error_is_its_caller_s_alone(near: Lined) -> None:
    refuses = near.line.call("EVAL", "return redis.error_reply('ERR not so')", "0")
    calls = (near.line.call("ECHO", "a"), refuses, near.line.call("ECHO", "b"))
    first, error, second = await asyncio.gather(*calls, return_exceptions=True)
    assert (first, second) == ("a", "b")
    assert type(error) is ResponseError
    assert str(error) == "ERR not so"
    assert near.used_count == 1


async def test_an_unknown_script_has_an_error_of_its_own(near: Lined) -> None:
    with pytest.raises(NoScriptError):
        await near.line.call("EVALSHA", "0" * 40, "0")


async def test_scripts_are_loaded_again_after_they_were_flushed(
    near: Lined, redis_client: Any
) -> None:
    scripts = LuaScripts(near.redis)
    for round_number in range(3):
        redis_client.script_flush()
        calls = (scripts.call("open", [f"epoch:{n}"], [f"r x {round_number}"]) for n in range(20))
        assert set(await asyncio.gather(*calls)) <= {"done", "fenced"}
    assert await scripts.call("open", ["epoch:0"], ["r x 0"]) == "done"


async def test_calls_that_redis_does_not_answer_end_in_time(behind: Behind) -> None:
    assert await behind.echo("before") == ["before"]
    behind.proxy.stall()
    loop = asyncio.get_running_loop()
    began = loop.time()
    results = await behind.echo(*map(str, range(50)))
    assert {type(result) for result in results} == {RedisTimeoutError}
    assert TIMEOUT_S <= loop.time() - began < 2 * TIMEOUT_S
    behind.proxy.resume()
    # The replies that were held are nobody's any more.
    assert await behind.echo("after", "that") == ["after", "that"]
    await eventually(lambda: behind.used_count == 1)


async def test_a_later_call_is_not_given_up_before_its_time(behind: Behind) -> None:
    """The oldest reply comes late but in time; the next one's time counts from its sending."""
    assert await behind.echo("before") == ["before"]
    behind.proxy.stall()
    first = asyncio.ensure_future(behind.line.call("ECHO", "first"))
    await asyncio.sleep(TIMEOUT_S * 0.6)
    second = asyncio.ensure_future(behind.line.call("ECHO", "second"))
    await asyncio.sleep(TIMEOUT_S * 0.2)
    behind.proxy.resume()
    assert await first == "first"
    assert await second == "second"
    await asyncio.sleep(TIMEOUT_S)
    assert await behind.echo("third") == ["third"]


async def test_where_no_connection_can_be_made_all_callers_learn_it_in_time(
    behind: Behind,
) -> None:
    """They share one connection, so they must not wait for it one after another."""
    behind.proxy.stall()
    loop = asyncio.get_running_loop()
    began = loop.time()
    results = await behind.echo(*map(str, range(20)))
    assert all(isinstance(result, REDIS_ERRORS) for result in results)
    assert loop.time() - began < 4 * TIMEOUT_S
    behind.proxy.resume()
    assert await behind.echo("after") == ["after"]


async def test_a_caller_that_goes_away_takes_nobody_s_reply(behind: Behind) -> None:
    assert await behind.echo("before") == ["before"]
    behind.proxy.stall()
    calls = [asyncio.ensure_future(behind.line.call("ECHO", str(n))) for n in range(10)]
    await asyncio.sleep(0.05)
    for call in calls[::2]:
        call.cancel()
    behind.proxy.resume()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert results[1::2] == ["1", "3", "5", "7", "9"]
    assert all(isinstance(result, asyncio.CancelledError) for result in results[::2])
    assert behind.used_count == 1


async def test_nonsense_ends_the_connection_and_nothing_else(
    behind: Behind, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await behind.echo("before") == ["before"]
    to_client = behind.to_client()
    behind.proxy.stall()
    calls = [asyncio.ensure_future(behind.line.call("ECHO", str(n))) for n in range(3)]
    await asyncio.sleep(0.05)
    to_client.write(b"nonsense\r\n")
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(result) for result in results} == {RedisConnectionError}
    behind.proxy.resume()
    assert await behind.echo("after") == ["after"]
    await eventually(lambda: behind.used_count == 1)


async def test_a_reply_nobody_asked_for_ends_the_connection(behind: Behind) -> None:
    """Whoever called next would get it."""
    assert await behind.echo("before") == ["before"]
    to_client = behind.to_client()
    to_client.write(b"+surplus\r\n")
    await asyncio.sleep(0.05)
    assert await behind.echo("after") == ["after"]


async def test_what_redis_tells_of_its_own_accord_is_nobody_s_reply(
    near: Lined, redis_client: Any
) -> None:
    """As it may on connections of the third protocol, here of a key that has changed."""
    await near.line.call("HELLO", "3")
    assert await near.line.call("CLIENT", "TRACKING", "ON", "BCAST") == "OK"
    outstanding = asyncio.ensure_future(near.line.call("BLPOP", "list", "0"))
    await asyncio.sleep(0.05)
    redis_client.set("changed", "1")
    await asyncio.sleep(0.05)
    assert not outstanding.done()
    redis_client.rpush("list", "it")
    assert await outstanding == ["list", "it"]
    assert await near.echo("a", "b") == ["a", "b"]


async def test_a_server_that_is_killed_and_comes_back_is_found_again(tmp_path: Path) -> None:
    server = start_redis(tmp_path / "redis")
    try:
        async with lined(server.url) as line:
            assert await line.echo("before") == ["before"]
            outstanding = asyncio.ensure_future(line.line.call("BLPOP", "never", "0"))
            await asyncio.sleep(0.05)
            server.kill()
            with pytest.raises(RedisConnectionError):
                await outstanding
            for _ in range(3):
                results = await line.echo("a", "b")
                assert all(isinstance(result, REDIS_ERRORS) for result in results)
            server.start()
            texts = [str(number) for number in range(20)]
            assert await line.echo(*texts) == texts
            await eventually(lambda: line.used_count == 1)
    finally:
        server.stop()


async def test_starting_over_answers_what_is_outstanding_and_connects_anew(
    near: Lined, redis_client: Any
) -> None:
    before = await near.line.call("CLIENT", "ID")
    outstanding = asyncio.ensure_future(near.line.call("BLPOP", "list", "0"))
    await asyncio.sleep(0.05)
    near.line.start_over()
    after = await near.line.call("CLIENT", "ID")
    assert after != before
    assert not outstanding.done()
    redis_client.rpush("list", "it")
    assert await outstanding == ["list", "it"]
    await eventually(lambda: near.used_count == 1)
    near.line.start_over()
    assert await near.line.call("CLIENT", "ID") not in (before, after)
    await eventually(lambda: near.used_count == 1)


async def test_what_is_outstanding_at_a_start_over_still_ends_in_time(behind: Behind) -> None:
    assert await behind.echo("before") == ["before"]
    outstanding = asyncio.ensure_future(behind.line.call("BLPOP", "never", "0"))
    await asyncio.sleep(0.05)
    behind.line.start_over()
    assert await behind.echo("after") == ["after"]
    with pytest.raises(RedisTimeoutError):
        await outstanding
    assert await behind.echo("still") == ["still"]
    await eventually(lambda: behind.used_count == 1)


@pytest.mark.parametrize("how", ["cut", "start_over", "outstanding"])
async def test_lost_connections_are_given_back(behind: Behind, redis_client: Any, how: str) -> None:
    """The pool has four, so a few that were kept would be noticed at once."""
    for number in range(LOSSES):
        assert await behind.echo(str(number)) == [str(number)]
        if how == "start_over":
            behind.line.start_over()
            continue
        waiting = asyncio.ensure_future(behind.line.call("BLPOP", "never", "0"))
        if how == "outstanding":
            await asyncio.sleep(0)
        behind.proxy.cut()
        with pytest.raises(RedisError):
            await waiting
    await eventually(lambda: behind.used_count <= 1)
    await eventually(lambda: len(redis_client.client_list()) <= 3)


async def test_a_connection_that_dies_while_it_is_taken_over_is_given_back(
    near: Lined, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = near.redis.connection_pool
    get = pool.get_connection

    async def get_a_dying_one() -> Any:
        connection = await get()
        connection._writer.transport.abort()
        return connection

    with monkeypatch.context() as patched:
        patched.setattr(pool, "get_connection", get_a_dying_one)
        for _ in range(20):
            with pytest.raises(RedisConnectionError):
                await near.line.call("ECHO", "it")
    await eventually(lambda: near.used_count == 0)
    assert await near.echo("after") == ["after"]


@pytest.mark.parametrize("how", ["dies", "start_over"])
async def test_a_connection_that_ends_as_soon_as_it_is_made_is_noticed_at_once(
    near: Lined, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Before the first who waited for it has sent anything."""
    pool, loop = near.redis.connection_pool, asyncio.get_running_loop()
    get = pool.get_connection

    async def get_one_that_ends() -> Any:
        connection = await get()
        monkeypatch.setattr(pool, "get_connection", get)
        transport = connection._writer.transport
        loop.call_soon(transport.abort if how == "dies" else near.line.start_over)
        return connection

    monkeypatch.setattr(pool, "get_connection", get_one_that_ends)
    began = loop.time()
    (result,) = await near.echo("it")
    assert result == "it" or type(result) is RedisConnectionError
    assert loop.time() - began < TIMEOUT_S / 2
    assert await near.echo("after") == ["after"]
    await eventually(lambda: near.used_count == 1)


async def test_closing_the_client_ends_what_is_outstanding(redis_url: str) -> None:
    async with lined(redis_url) as near:
        assert await near.echo("before") == ["before"]
        outstanding = asyncio.ensure_future(near.line.call("BLPOP", "never", "0"))
        await asyncio.sleep(0.05)
    with pytest.raises(RedisError):
        await asyncio.wait_for(outstanding, 1)
