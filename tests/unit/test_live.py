"""Who listens gets the latest snapshot; who is slow misses some, who is stuck is let go."""

import asyncio
import itertools
from typing import Any, cast

import pytest

from app import limits
from app.api.starting import StartingServices
from app.infra.http import STILL_ADMITTED
from app.web.counts import Counts
from app.web.live import LiveFeed
from app.web.schemas import Snapshot
from app.web.snapshot import Sampler, Sources
from app.web.stream import LiveStream
from tests.conftest import eventually

STARTING = StartingServices()


@pytest.fixture
def feed(monkeypatch: pytest.MonkeyPatch) -> LiveFeed:
    """Snapshots of a service that is starting, fifty times a second."""
    monkeypatch.setattr(limits, "LIVE_SAMPLE_S", 0.02)
    sampler = Sampler(lambda: Sources(STARTING.ledger, STARTING.dashboard), Counts(None))
    return LiveFeed(sampler.take)


class Listener:
    """One connection, as the server shows it; it reads while it may."""

    def __init__(self) -> None:
        self.may_read, self.is_gone = asyncio.Event(), asyncio.Event()
        self.may_read.set()
        self.heard: list[bytes] = []
        self.has_ended = False
        self.state: dict[str, Any] = {}

    async def send(self, message: Any) -> None:
        await self.may_read.wait()
        if message["type"] == "http.response.body":
            self.heard.append(message["body"])
            self.has_ended = not message["more_body"]

    async def receive(self) -> Any:
        await self.is_gone.wait()
        return {"type": "http.disconnect"}

    def numbers(self) -> list[int]:
        bodies = [body.split(b'"number":')[1] for body in self.heard if body.startswith(b"data")]
        return [int(body.partition(b",")[0]) for body in bodies]

    def answered_by(self, feed: LiveFeed) -> "asyncio.Task[None]":
        stream = LiveStream(feed)
        return asyncio.create_task(
            stream(cast("Any", {"state": self.state}), self.receive, self.send)
        )


async def test_a_slow_listener_goes_on_with_the_latest(feed: LiveFeed) -> None:
    slow, quick = Listener(), Listener()
    tasks = [each.answered_by(feed) for each in (slow, quick)]
    await eventually(lambda: len(slow.numbers()) >= 2)
    slow.may_read.clear()
    seen = len(slow.numbers())
    await eventually(lambda: len(quick.numbers()) >= seen + 10)
    slow.may_read.set()
    await eventually(lambda: len(slow.numbers()) >= seen + 3)
    numbers = slow.numbers()
    assert numbers == sorted(set(numbers))
    assert max(after - before for before, after in itertools.pairwise(numbers)) >= 5
    slow.is_gone.set()
    quick.is_gone.set()
    await asyncio.gather(*tasks)
    assert feed.listener_count == 0
    assert not feed.is_sampling


async def test_a_listener_that_is_stuck_is_let_go(
    feed: LiveFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LIVE_SEND_S", 0.1)
    stuck = Listener()
    task = stuck.answered_by(feed)
    await eventually(stuck.numbers)
    stuck.may_read.clear()
    await asyncio.wait_for(task, timeout=10)
    assert feed.listener_count == 0


async def test_a_listener_whose_key_stops_working_is_told_no_more(feed: LiveFeed) -> None:
    listener = Listener()
    works = True
    listener.state[STILL_ADMITTED] = lambda: works
    task = listener.answered_by(feed)
    await eventually(lambda: len(listener.numbers()) >= 2)
    works = False
    await asyncio.wait_for(task, timeout=10)
    heard = len(listener.heard)
    assert listener.has_ended
    assert not listener.heard[heard - 1]
    assert feed.listener_count == 0


async def test_listeners_are_ended_when_the_process_stops(feed: LiveFeed) -> None:
    listener = Listener()
    task = listener.answered_by(feed)
    await eventually(listener.numbers)
    feed.end()
    await asyncio.wait_for(task, timeout=10)
    assert listener.has_ended


async def test_what_is_not_known_is_not_made_up(feed: LiveFeed) -> None:
    snapshot: Snapshot = await feed.latest()
    assert snapshot.ledger is None
    assert snapshot.process is None
    assert snapshot.instance.settler_lag_ms is None
    assert not snapshot.instance.ready
