"""Every Redis and Valkey that can be had, each with the scripts loaded."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from app.infra.embedded import EmbeddedRedis, find_redis_binaries, start_redis
from app.infra.redis import RedisIdentity, open_redis, read_identity
from app.infra.scripts import LuaScripts


@pytest.fixture(scope="session", params=find_redis_binaries(), ids=lambda path: Path(path).name)
def server(request: pytest.FixtureRequest, servers_folder: Path) -> Iterator[EmbeddedRedis]:
    """One server for each binary on this machine."""
    folder = servers_folder / f"lua-{request.param_index}"
    server = start_redis(folder, binary=request.param)
    yield server
    server.stop()


OWN = ("0", "99")
WITH_FLIGHTS = {"admit", "admit_groups", "confirm", "flights", "inspect", "stop", "reload"}


class Scripts:
    """The scripts on one server, with the epoch 1 open."""

    def __init__(self, redis: Redis, identity: RedisIdentity) -> None:
        self.redis = redis
        self.scripts = LuaScripts(redis)
        self.identity = f"{identity.run_id} {identity.replication_id} token"
        self.epoch_key = "subbalance:{0}:epoch:1"
        self.flight_key = "subbalance:{0}:1:flight"
        self.number = 0

    async def call(
        self, name: str, accounts: list[str], *arguments: str, identity: str = ""
    ) -> object:
        """Call a script under the test's epoch; `accounts` are short names."""
        before = [self.epoch_key, self.flight_key] if name in WITH_FLIGHTS else [self.epoch_key]
        keys = [*before, *(self.account(name) for name in accounts)]
        return await self.scripts.call(name, keys, [identity or self.identity, *arguments])

    async def numbered(
        self, name: str, accounts: list[str], *arguments: str, identity: str = ""
    ) -> object:
        """Call a script as the next sending of slot `s`."""
        self.number += 1
        sent = ("s", str(self.number), *arguments)
        return await self.call(name, accounts, *sent, identity=identity)

    async def load(
        self,
        account: str,
        available: str,
        pending_debit: str = "0",
        stop: str = "",
        entries: str = "0",
    ) -> object:
        figures = (available, available, "0", pending_debit, "0", stop, entries)
        return await self.call("load", [account], *figures)

    async def stop(self, account: str, attempt: str = "7") -> object:
        return await self.numbered("stop", [account], attempt)

    async def reload(
        self, account: str, *shown: str, attempt: str = "7", outcome: str = "decided"
    ) -> object:
        """End a change; `shown` are what is available and the stop, nothing where undone."""
        return await self.numbered("reload", [account], attempt, outcome, *(shown or ("", "")))

    async def admit(
        self,
        account: str,
        *changes: str,
        attempt: str = "1",
        balance_max: str = str(9 * 10**18),
        extent: str = "each",
        journaled: str = "0",
        expected: str = "",
    ) -> list[str]:
        """Admit changes on one account; returns a word for each."""
        names = " ".join("-" for _ in changes)
        reply = await self.numbered(
            "admit",
            [account],
            attempt,
            balance_max,
            extent,
            *OWN,
            journaled,
            names,
            expected,
            str(len(changes)),
            *changes,
        )
        return words_of(reply, len(changes))

    async def admit_groups(
        self,
        accounts: dict[str, list[str]],
        groups: str,
        *,
        attempt: str = "1",
        balance_max: str = str(9 * 10**18),
        own: tuple[str, str] = OWN,
        names: str = "",
    ) -> object:
        """Admit changes by account, in groups of their positions; returns the reply."""
        items = [part for each in accounts.values() for part in (str(len(each)), *each)]
        names = names or " ".join("-" for each in accounts.values() for _ in each)
        sent = (attempt, balance_max, groups, *own, "0", names, *items)
        return await self.numbered("admit_groups", list(accounts), *sent)

    async def confirm(self, account: str, outcome: str, *others: str, attempt: str = "1") -> object:
        return await self.numbered("confirm", [account], attempt, outcome, *others)

    async def fields(self, account: str) -> dict[str, str]:
        return await self.redis.hgetall(self.account(account))

    async def attempts(self) -> set[str]:
        """The attempts in flight."""
        return set(await self.redis.hkeys(self.flight_key))

    @staticmethod
    def account(name: str) -> str:
        return f"subbalance:{{0}}:1:account:{name}"


def words_of(reply: object, count: int) -> list[str]:
    """Turn admit's answer into a word for each item."""
    assert isinstance(reply, list)
    assert reply[0] == "done", reply
    words = ["admitted"] * count
    for position, word in zip(reply[1], reply[2], strict=True):
        words[position - 1] = word
    return words


@pytest.fixture
async def scripts(server: EmbeddedRedis) -> AsyncIterator[Scripts]:
    """An empty server with an open epoch."""
    async with open_redis(server.url, 5_000, 4) as redis:
        await redis.flushall()
        scripts = Scripts(redis, await read_identity(redis))
        assert await scripts.call("open", []) == "done"
        yield scripts
        await asyncio.sleep(0)
