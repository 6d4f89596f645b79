"""What Redis does by itself with the money scripts, and PostgreSQL with the journal's insert.

The service's own calls for batches of a thousand are sent again by a client that does nothing else.
"""

import asyncio
import itertools
import socket
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

import asyncpg
import hiredis

from app.infra.scripts import SCRIPTS_FOLDER, LuaScripts, with_includes
from app.settings import load_settings
from bench.compare.bodies import AMOUNT_MINOR
from bench.compare.recording import ADMIT, JOURNAL_QUERY, Admissions, Recording, as_another, record
from bench.compare.stage import Stage

ITEMS = 1_000
ACCOUNTS = (1, 10_000)
KEYS = ("request", "item")
POSTGRES_CONNECTIONS = 2
_BATCHES = 20
_CALLS_IN_FLIGHT = 8
_READ_BYTES = 1 << 20
_ACCOUNT_KEYS = "*:account:*"
_ROWS = "SELECT count(*) FROM journal_entries"


class Ceiling(NamedTuple):
    """Items in a second, alone."""

    server: str
    accounts: int
    keys: str
    per_second: float

    @property
    def name(self) -> str:
        """What it is the ceiling of."""
        plural = "s" * (self.accounts > 1)
        return f"{self.server} alone, {self.accounts:,} account{plural}, a key per {self.keys}"


def ceilings(stage: Stage, seconds: float) -> list[Ceiling]:
    """Measure both servers, on one account and on many, which must be open already."""
    found = []
    for accounts in ACCOUNTS:
        name = f"ceiling_{accounts}"
        environment = {
            **stage.service_settings,
            "DATABASE_URL": stage.make_database(name, stage.schema_database),
            "REDIS_URL": stage.own_redis(),
        }
        settings = load_settings(environment)
        for keys in KEYS:
            recording = stage.wait(record(settings, accounts, ITEMS, _BATCHES, keys))
            redis, postgres = settings.redis.url, settings.postgres.url
            found += [
                Ceiling(
                    "Redis", accounts, keys, stage.wait(_redis_rate(redis, recording, seconds))
                ),
                Ceiling(
                    "PostgreSQL",
                    accounts,
                    keys,
                    stage.wait(_postgres_rate(postgres, recording, seconds)),
                ),
            ]
    return found


async def _redis_rate(url: str, recording: Recording, seconds: float) -> float:
    """Send the script calls again, several at a time, and compare the balances afterwards."""
    async with Stage.redis_client(url) as redis:
        before = await _available(redis)
        commands = await _commands(redis, recording)
        began = time.monotonic()
        calls = _send(url, commands, len(recording.admissions), began + seconds)
        took_s = time.monotonic() - began
        left = before - await _available(redis)
    items = calls * ITEMS
    if left != items * AMOUNT_MINOR:
        raise SystemExit(f"wrong: Redis took {left} for {items} items")
    return items / took_s


async def _available(redis: Any) -> int:
    """Add up what all accounts may spend."""
    pipeline = redis.pipeline(transaction=False)
    async for key in redis.scan_iter(match=_ACCOUNT_KEYS, count=1_000):
        pipeline.hget(key, "available")
    return sum(map(int, await pipeline.execute()))


async def _commands(redis: Any, recording: Recording) -> Iterator[bytes]:
    """Pack the admissions, in order, again and again."""
    source = (SCRIPTS_FOLDER / f"{ADMIT}.lua").read_text(encoding="utf-8")
    digest = await redis.script_load(with_includes(source, SCRIPTS_FOLDER))
    names = [name for name, _ in LuaScripts(redis).contracts[ADMIT].argument_names]
    return (
        _packed("EVALSHA", digest, str(len(keys)), *keys, *arguments)
        for keys, arguments in Admissions(recording, names)
    )


def _send(url: str, commands: Iterator[bytes], multiple: int, deadline: float) -> int:
    """Keep a few calls under way until the deadline, then to a whole multiple of calls."""
    address, reader, sent, answered = urlsplit(url), hiredis.Reader(), 0, 0
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(_packed("SELECT", address.path.lstrip("/")))
        answered -= 1
        while answered < sent or sent % multiple or time.monotonic() < deadline:
            goes_on = sent % multiple or time.monotonic() < deadline
            while goes_on and sent - answered < _CALLS_IN_FLIGHT:
                connection.sendall(next(commands))
                sent += 1
                goes_on = bool(sent % multiple)
            reader.feed(connection.recv(_READ_BYTES))
            while (reply := reader.gets()) is not False:
                if isinstance(reply, hiredis.ReplyError):
                    raise SystemExit(f"wrong: Redis refuses a call: {reply}")
                answered += 1
    return sent


def _packed(*parts: str) -> bytes:
    command: bytes = cast("Any", hiredis.pack_command)(parts)
    return command


async def _postgres_rate(url: str, recording: Recording, seconds: float) -> float:
    """Send the journal calls again on a few connections, and count the rows afterwards."""
    connections = [await asyncpg.connect(url) for _ in range(POSTGRES_CONNECTIONS)]
    first = connections[0]
    before = await first.fetchval(_ROWS)
    start = await first.fetchval("SELECT max(attempt_id) + 1 FROM journal_batches")
    numbers = itertools.count(start)
    began = time.monotonic()
    deadline = began + seconds
    await asyncio.gather(*[_insert(each, recording, numbers, deadline) for each in connections])
    took_s = time.monotonic() - began
    rows: int = await first.fetchval(_ROWS) - before
    for connection in connections:
        await connection.close()
    batches = next(numbers) - start
    if rows != batches * ITEMS:
        raise SystemExit(f"wrong: PostgreSQL has {rows} rows of {batches} batches of {ITEMS}")
    return rows / took_s


async def _insert(
    connection: Any, recording: Recording, numbers: Iterator[int], deadline: float
) -> None:
    """Journal batches one after the other, each as an attempt and under keys of its own."""
    statement, tag = await connection.prepare(JOURNAL_QUERY.sql), str(time.time_ns())
    for arguments in itertools.cycle(recording.journals):
        if time.monotonic() >= deadline:
            return
        number = next(numbers)
        await statement.fetchrow(*as_another(arguments, number, f"{tag}:{number}"))
