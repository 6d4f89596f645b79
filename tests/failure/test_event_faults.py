"""Events under faults: whoever fails, everything is told, in order for each account, and nobody
else waits.
"""

import asyncio
import contextlib
import itertools
import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest

from app.bootstrap import Services, WorkerServices, open_services, open_worker_services
from app.events.courier import Courier, SinkFailed
from app.events.model import BEGINNING, Cursor, Position
from app.ledger.codes import Mode
from app.settings import Settings
from tests.conftest import eventually, serving
from tests.failure.modes import rule_by
from tests.integration.test_transactions import request
from tests.receiver import (
    WEBHOOKS,
    Message,
    Receiver,
    all_events,
    by_account,
    journal_ids,
    receiving,
    telling,
    telling_here,
    webhook,
)

STREAM = "subbalance:events"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return telling_here(settings, webhook_timeout_ms=150, webhook_tries=20, webhook_dead_max=50)


@pytest.fixture
async def receiver() -> Any:
    async with receiving() as receiver:
        yield receiver


def in_stream(redis_client: Any) -> list[dict[str, Any]]:
    """The events in the stream, each where it is first."""
    events: dict[str, Any] = {}
    for _, fields in redis_client.xrange(STREAM):
        event = json.loads(fields["event"])
        assert fields["id"] == event["id"]
        assert fields["sequence"] == event["sequence"]
        events.setdefault(event["id"], event)
    return list(events.values())


async def lag_of(api: httpx.AsyncClient, sink: str) -> float:
    """How far behind a sink is."""
    text = (await api.get("/metrics")).text
    name = f'subbalance_events_lag_seconds{{sink="{sink}"}} '
    line = next(line for line in text.splitlines() if line.startswith(name))
    return float(line.rpartition(" ")[2])


async def expected(database: Any) -> dict[str, list[str]]:
    return {account: sorted(ids) for account, ids in (await journal_ids(database)).items()}


def sorted_ids(found: dict[str, list[str]]) -> dict[str, list[str]]:
    return {account: sorted(ids) for account, ids in found.items()}


async def post_some(services: Services, seed: int, count: int) -> None:
    """Move money on five accounts from ten sides at once, in a fixed order on each side."""
    choose = random.Random(seed)

    async def one(turns: list[tuple[str, str]]) -> None:
        for account_id, direction in turns:
            await services.ledger.post_transaction(request(account_id, "1", direction))

    sides = [
        [(choose.choice("ABCDE"), choose.choice(["debit", "credit"])) for _ in range(count)]
        for _ in range(10)
    ]
    await asyncio.gather(*(one(side) for side in sides))


@pytest.mark.parametrize("seed", [1, 2])
async def test_everything_is_told_in_order_whatever_fails(
    settings: Settings,
    services: Services,
    worker: WorkerServices,
    database: Any,
    redis_client: Any,
    receiver: Receiver,
    open_account: Any,
    seed: int,
) -> None:
    choose = random.Random(seed)
    started = asyncio.Event()

    def behave(_message: Message) -> int | None:
        started.set()
        return choose.choices([200, 500, None, 0], [20, 2, 1, 1])[0]

    receiver.behave = behave
    for account_id in "ABCDE":
        await open_account(account_id, "10000")
    async with serving(settings) as api:
        made = await webhook(api, receiver.url())
        await api.post(f"{WEBHOOKS}/{made['webhook_id']}/replay", json={"from": BEGINNING.text})

        async def tell_with_interruptions() -> None:
            while True:
                async with telling(worker):
                    await asyncio.sleep(choose.uniform(0.05, 0.5))

        async def settle_again_and_again() -> None:
            while True:
                await worker.settler.settle()
                await asyncio.sleep(choose.uniform(0.01, 0.1))

        loops = [
            asyncio.create_task(tell_with_interruptions()),
            asyncio.create_task(settle_again_and_again()),
        ]
        for mode in (Mode.REDIS, Mode.POSTGRES, Mode.REDIS):
            await rule_by(services, database, mode)
            await post_some(services, seed, 12)
        await asyncio.wait_for(started.wait(), 10)
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        await worker.settler.settle()
        told = await all_events(api)
        wanted = by_account(told)
        assert sorted_ids(wanted) == await expected(database)
        assert sum(len(ids) for ids in wanted.values()) == 2 * (3 * 10 * 12 + 5)

        receiver.behave = lambda _message: 200
        async with telling(worker):
            await eventually(lambda: len(receiver.ids()) == len(told), 30)
            await eventually(lambda: len(in_stream(redis_client)) == len(told), 30)
    assert by_account(in_stream(redis_client)) == wanted
    assert {account: receiver.ids(account) for account in wanted} == wanted
    assert {each.event_id: each.event for each in receiver.taken} == {
        each["id"]: each for each in told
    }


async def test_a_worker_that_dies_before_its_cursor_moves_tells_again_and_skips_nothing(
    services: Services,
    worker: WorkerServices,
    redis_client: Any,
    open_account: Any,
    settings: Settings,
    monkeypatch: Any,
) -> None:
    for account_id in "AB":
        await open_account(account_id, "10")
    courier = worker.couriers[0]

    async def dies(*_: Any) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(courier._store, "move", dies)
    with contextlib.suppress(asyncio.CancelledError):
        await courier.step()
    assert redis_client.xlen(STREAM) == 2
    async with open_worker_services(settings) as next_worker:
        await next_worker.couriers[0].step()
        assert not await next_worker.couriers[0].step()
    assert redis_client.xlen(STREAM) == 4
    assert [event["account_id"] for event in in_stream(redis_client)] == ["A", "B"]


async def test_of_two_workers_one_moves_the_cursor_and_it_never_goes_back(
    services: Services, worker: WorkerServices, settings: Settings, open_account: Any
) -> None:
    await open_account("A", "10")
    async with open_worker_services(settings) as other:
        first, second = worker.couriers[0], other.couriers[0]
        stale = await first._store.cursor("redis")
        assert stale is not None
        await second.step()
        moved = await second._store.cursor("redis")
        assert moved is not None
        assert moved.position > stale.position
        assert await first._store.move("redis", stale, stale.position, None) is None
        assert await second._store.cursor("redis") == moved


async def test_a_dead_webhook_delays_neither_the_others_nor_posting(
    services: Services,
    worker: WorkerServices,
    settings: Settings,
    redis_client: Any,
    receiver: Receiver,
    open_account: Any,
) -> None:
    await open_account("A", "1000")
    receiver.behave = lambda message: None if message.path == "/dead" else 200
    async with serving(settings) as api:
        await webhook(api, receiver.url("/dead"))
        await webhook(api, receiver.url("/well"))
        async with telling(worker):
            loop = asyncio.get_running_loop()
            for _ in range(20):
                began = loop.time()
                await services.ledger.post_transaction(request("A", "1"))
                assert loop.time() - began < 1
            await eventually(lambda: len(receiver.ids(path="/well")) == 20)
            await eventually(lambda: len(in_stream(redis_client)) == 21)
            assert receiver.ids(path="/dead") == []
            assert {each.event_id for each in receiver.messages if each.path == "/dead"} == {
                receiver.ids()[0]
            }


async def test_a_flushed_redis_is_told_again(
    services: Services,
    worker: WorkerServices,
    redis_client: Any,
    open_account: Any,
    settings: Settings,
) -> None:
    for account_id in "ABC":
        await open_account(account_id, "10")
    async with telling(worker):
        await eventually(lambda: redis_client.xlen(STREAM) == 3)
        before = in_stream(redis_client)
        redis_client.flushall()
        await eventually(lambda: redis_client.xlen(STREAM) == 3)
        assert in_stream(redis_client) == before
        await open_account("D", "10")
        await eventually(lambda: redis_client.xlen(STREAM) == 4)
    assert [event["account_id"] for event in in_stream(redis_client)] == ["A", "B", "C", "D"]


async def test_a_redis_that_was_flushed_just_before_it_is_told_has_no_gap(
    services: Services, worker: WorkerServices, redis_client: Any, open_account: Any
) -> None:
    await open_account("A", "10")
    courier = worker.couriers[0]
    await courier.step()
    courier._sink._checked_at = asyncio.get_running_loop().time() + 60  # type: ignore[attr-defined]
    redis_client.flushall()
    await open_account("B", "10")
    with pytest.raises(SinkFailed, match="emptied"):
        await eventually(courier.step)
    assert redis_client.xlen(STREAM) == 0
    async with telling(worker):
        await eventually(lambda: redis_client.xlen(STREAM) == 2)
    assert [event["account_id"] for event in in_stream(redis_client)] == ["A", "B"]


async def test_the_stream_is_bounded_and_its_newest_events_stay(
    settings: Settings, services: Services, redis_client: Any, open_account: Any
) -> None:
    there = telling_here(settings, stream_items=100)
    await open_account("A", "1000")
    await post_as_one(services, 600)
    async with open_worker_services(there) as worker, telling(worker), serving(there) as api:
        told = await all_events(api)
        assert len(told) == 601
        await eventually(lambda: in_stream(redis_client)[-1:] == told[-1:])
    kept = in_stream(redis_client)
    assert 100 <= len(kept) < 400
    assert kept == told[-len(kept) :]


async def post_as_one(services: Services, count: int) -> None:
    requests = [request("A", "1") for _ in range(count)]
    await asyncio.gather(*(services.ledger.post_transaction(each) for each in requests))


async def test_a_redis_that_is_away_gets_everything_when_it_is_back(
    settings: Settings, services: Services, worker: WorkerServices, redis_client: Any,
    open_account: Any,
) -> None:  # fmt: skip
    await open_account("A", "10")
    courier = worker.couriers[0]
    redis_client.set(STREAM, "something else")
    with pytest.raises(SinkFailed):
        await courier.step()
    redis_client.delete(STREAM)
    await courier.step()
    assert [event["account_id"] for event in in_stream(redis_client)] == ["A"]


async def test_a_settlement_is_told_after_what_it_settled_and_in_pages(
    services: Services,
    worker: WorkerServices,
    settings: Settings,
    open_account: Any,
    database: Any,
    monkeypatch: Any,
) -> None:
    monkeypatch.setattr("app.limits.EVENT_PAGE_BATCHES", 7)
    monkeypatch.setattr("app.limits.EVENT_PAGE_ENTRIES", 9)
    for account_id in "ABCDE":
        await open_account(account_id, "1000")
    for turn in range(4):
        await post_some(services, turn, 3)
        await worker.settler.settle()
    feed, position, seen = worker.couriers[0]._feed, BEGINNING, []
    while (page := await feed.page(position)).end != position:
        assert len(page.events) <= 9 + 10
        seen += page.events
        position = page.end
    async with serving(settings) as api:
        assert [event.event_id for event in seen] == [each["id"] for each in await all_events(api)]
    accepted: set[str] = set()
    for event in seen:
        name, _, word = event.event_id.rpartition("-")
        if word == "accepted":
            accepted.add(name)
        else:
            assert name in accepted
    assert len(seen) == 2 * len(accepted) == 2 * (5 + 4 * 30)


async def test_a_settlement_under_way_is_waited_for(
    services: Services, worker: WorkerServices, open_account: Any, database_url: str
) -> None:
    await open_account("A", "10")
    store = worker.couriers[0]._store
    other = await asyncpg.connect(database_url)
    transaction = other.transaction()
    await transaction.start()
    await other.execute("SELECT * FROM settle_chunk_v2(100, 100)")
    settled_at = await other.fetchval("SELECT max(settled_at) FROM settlements")
    assert (await store.watermark()).before < settled_at
    await transaction.commit()
    await other.close()
    assert (await store.watermark()).before > settled_at


async def test_a_clock_that_went_back_costs_no_event(
    services: Services,
    worker: WorkerServices,
    settings: Settings,
    redis_client: Any,
    receiver: Receiver,
    open_account: Any,
) -> None:
    """The cursors stand an hour ahead, as they do when the clock was put back by an hour."""
    async with serving(settings) as api:
        made = await webhook(api, receiver.url())
        store = worker.couriers[0]._store
        for sink in ("redis", f"webhook:{made['webhook_id']}"):
            cursor = await store.cursor(sink)
            assert cursor is not None
            ahead = Position(datetime.now(UTC) + timedelta(hours=1))
            await store.move(sink, cursor, ahead, None)
        await open_account("A", "10")
        async with telling(worker):
            await eventually(lambda: redis_client.xlen(STREAM) and receiver.taken)
        assert [each["account_id"] for each in await all_events(api, cursor=ahead.text)] == ["A"]


async def test_the_lag_is_told_of_each_sink_and_falls_to_nothing(
    services: Services,
    worker: WorkerServices,
    settings: Settings,
    receiver: Receiver,
    open_account: Any,
) -> None:
    async with serving(settings) as api:
        made = await webhook(api, receiver.url())
        name = f"webhook:{made['webhook_id']}"
        await open_account("A", "10")
        assert await lag_of(api, "redis") > 0
        assert await lag_of(api, name) > 0

        async def nothing_waits() -> bool:
            return await lag_of(api, "redis") == 0 and await lag_of(api, name) == 0

        async with telling(worker):
            await eventually(nothing_waits)


class _Broken:
    """A sink that fails as often as it is told to."""

    name = "redis"

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.taken: list[str] = []

    async def check(self, cursor: Cursor) -> Position | None:
        return None

    async def put(self, events: Any, cursor: Cursor) -> str | None:
        if self.failures:
            self.failures -= 1
            raise SinkFailed("not now")
        self.taken += [event.event_id for event in events]
        return None


async def test_a_sink_that_fails_is_asked_again_and_misses_nothing(
    services: Services, worker: WorkerServices, open_account: Any
) -> None:
    await open_account("A", "10")
    sink = _Broken(2)
    whole = worker.couriers[0]
    courier = Courier(whole._feed, whole._store, sink)
    task = asyncio.create_task(courier.deliver_always())
    await eventually(lambda: sink.taken)
    await open_account("B", "10")
    await eventually(lambda: len(sink.taken) == 2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(set(sink.taken)) == 2


async def test_between_pages_it_rests_as_long_as_it_worked(
    services: Services, worker: WorkerServices, monkeypatch: Any
) -> None:
    courier = worker.couriers[0]
    now = asyncio.get_running_loop().time
    spans: list[tuple[float, float]] = []

    async def work() -> bool:
        began = now()
        await asyncio.sleep(0.02 * (len(spans) + 1))
        spans.append((began, now()))
        return True

    monkeypatch.setattr(courier, "step", work)
    task = asyncio.create_task(courier.deliver_always())
    await eventually(lambda: len(spans) == 4)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    for (began, ended), (begins, _) in itertools.pairwise(spans):
        assert begins - ended >= (ended - began) * 0.99


async def test_a_loop_ends_although_a_library_swallowed_its_cancellation(
    services: Services, worker: WorkerServices, monkeypatch: Any
) -> None:
    courier, webhooks = worker.couriers[0], worker.webhooks
    swallowed = []

    async def swallow(*_: Any) -> Any:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            swallowed.append(1)
        return False

    monkeypatch.setattr(courier, "step", swallow)
    monkeypatch.setattr(webhooks, "_look", swallow)
    tasks = [asyncio.create_task(each.deliver_always()) for each in (courier, webhooks)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    async with asyncio.timeout(5):
        await asyncio.gather(*tasks, return_exceptions=True)
    assert len(swallowed) == 2


async def test_a_second_life_of_the_loops_works_as_the_first(
    services: Services,
    worker: WorkerServices,
    settings: Settings,
    redis_client: Any,
    receiver: Receiver,
    open_account: Any,
) -> None:
    async with serving(settings) as api:
        await webhook(api, receiver.url())
        for number, account_id in enumerate("AB"):
            await open_account(account_id, "10")
            async with telling(worker):
                await eventually(lambda wanted=number + 1: len(receiver.ids()) == wanted)
                await eventually(lambda wanted=number + 1: redis_client.xlen(STREAM) == wanted)


async def test_many_services_read_the_same_feed(
    services: Services, settings: Settings, open_account: Any
) -> None:
    await open_account("A", "10")
    async with open_services(settings) as other:
        here = await services.events.events(None, None, 10)
        assert await other.events.events(None, None, 10) == here
