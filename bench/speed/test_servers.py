"""The calls to Redis and PostgreSQL, each with its round trip."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from app import limits
from app.infra.scripts import LuaScripts
from app.ledger.store import QUERIES
from bench.compare.recording import (
    ADMIT,
    JOURNAL_QUERY,
    Admissions,
    Recording,
    ScriptCall,
    as_another,
)
from bench.speed.conftest import Servers, per_item

_attempts = itertools.count(2**60)
_CHUNK = (limits.SETTLE_BATCHES_MAX, limits.SETTLE_ENTRIES_MAX)


class Sender:
    """Sends recorded calls again, each as another attempt's."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording

    async def admit(self, scripts: LuaScripts, admissions: Iterator[ScriptCall]) -> None:
        """Admit, and confirm the batch before."""
        call = next(admissions)
        reply = await scripts.call(ADMIT, call.keys, call.arguments)
        assert reply[0] == "done"

    async def journal(self, connection: Any) -> None:
        """Journal as another attempt under other keys."""
        (arguments,) = self._recording.journals
        attempt = next(_attempts)
        changed = as_another(arguments, attempt, f"speed:{attempt}")
        row = await connection.fetchrow(JOURNAL_QUERY.sql, *changed)
        assert row["outcome"] == "journaled"


def test_admit(benchmark: Any, servers: Servers, size: int, recording: Recording) -> None:
    """The script of a batch of debits, with its round trip."""
    stage, sender = servers.stage, Sender(recording)
    scripts = LuaScripts(stage.opened(stage.redis_client(servers.settings.redis.url)))
    names = [name for name, _ in scripts.contracts[ADMIT].argument_names]
    admissions = iter(Admissions(recording, names))
    stage.wait(sender.admit(scripts, admissions))
    per_item(benchmark, size)
    benchmark(lambda: stage.wait(sender.admit(scripts, admissions)))


def test_journal(benchmark: Any, servers: Servers, size: int, recording: Recording) -> None:
    """Journal a batch and commit."""
    stage, sender = servers.stage, Sender(recording)
    connection = stage.connection(servers.settings.postgres.url)
    per_item(benchmark, size)
    benchmark(lambda: stage.wait(sender.journal(connection)))


@pytest.mark.parametrize("batches", [1, 100])
def test_settle_a_chunk(
    benchmark: Any, servers: Servers, size: int, recording: Recording, batches: int
) -> None:
    """Settle so many batches in one SQL transaction."""
    stage, sender = servers.stage, Sender(recording)
    connection = stage.connection(servers.settings.postgres.url)

    async def fill() -> None:
        while (await settle())["outcome"] == "settled":
            pass
        for _ in range(batches):
            await sender.journal(connection)

    async def settle() -> Any:
        return await connection.fetchrow(QUERIES["settle_chunk"], *_CHUNK)

    def setup() -> None:
        stage.wait(fill())

    per_item(benchmark, size * batches)
    settled = benchmark.pedantic(lambda: stage.wait(settle()), setup=setup, rounds=5)
    assert (settled["batches"], settled["entries"]) == (batches, size * batches)
