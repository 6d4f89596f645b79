"""Reservations whose process died are ended within a bounded time, and never a journaled one."""

import asyncio
import contextlib
from typing import Any

import asyncpg
import pytest

from app import errors
from app.bootstrap import Services, WorkerServices
from app.ledger.model import Acceptance
from app.ledger.reaper import ReapedCount
from tests.conftest import OpenAccount, eventually
from tests.failure.conftest import (
    AGE_S,
    Clock,
    account_fields,
    account_key,
    is_settled_down,
    reaped_later,
    reservations,
)
from tests.failure.interruptions import (
    dying_at_its_journal,
    held_before_its_journal,
    void_before_its_journal,
)
from tests.integration.test_transactions import request


async def left_over(
    services: Services, monkeypatch: pytest.MonkeyPatch, *requests: Any, journaled: bool
) -> None:
    """Leave what a process leaves that dies before or after its journal call."""
    with dying_at_its_journal(services, monkeypatch, journaled=journaled):
        calls = (services.ledger.post_transaction(each) for each in requests)
        await asyncio.gather(*calls, return_exceptions=True)


def available(redis_client: Any, account_id: str) -> int:
    fields = account_fields(redis_client, account_id)
    assert fields["incoming"] == "0"
    return int(fields["available"])


async def test_a_reservation_that_was_never_journaled_is_released(
    services: Services,
    worker: WorkerServices,
    clock: Clock,
    open_account: OpenAccount,
    redis_client: Any,
    database: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await open_account("A", "10.00")
    requests = [request("A", "4", idempotency_key="k"), request("A", "3", "credit")]
    await left_over(services, monkeypatch, *requests, journaled=False)
    assert len(reservations(redis_client)) == 2
    assert await worker.reaper.step() == ReapedCount()
    clock.now = AGE_S - 0.1
    assert await worker.reaper.step() == ReapedCount()
    clock.now = AGE_S
    assert await worker.reaper.step() == ReapedCount(confirmed=0, released=2)
    assert reservations(redis_client) == []
    assert redis_client.keys("subbalance:*:flight") == []
    assert available(redis_client, "A") == 1_000
    assert await database.fetchval("SELECT count(*) FROM journal_batches WHERE status = 'VOID'")
    again = await services.ledger.post_transaction(request("A", "4", idempotency_key="k"))
    assert not again.replayed


async def test_a_journaled_reservation_is_confirmed(
    services: Services,
    worker: WorkerServices,
    clock: Clock,
    open_account: OpenAccount,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await open_account("A", "10.00")
    requests = [request("A", "4", idempotency_key="k"), request("A", "3", "credit")]
    await left_over(services, monkeypatch, *requests, journaled=True)
    assert await reaped_later(worker, clock) == ReapedCount(confirmed=2, released=0)
    assert available(redis_client, "A") == 900
    assert (await services.ledger.balance("A")).available_minor == 900
    assert (await services.ledger.verify()).is_clean


async def test_a_duplicate_inside_a_journaled_attempt_is_released(
    services: Services,
    worker: WorkerServices,
    clock: Clock,
    open_account: OpenAccount,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await open_account("A", "10.00")
    await services.ledger.post_transaction(request("A", "4", idempotency_key="k"))
    await eventually(lambda: is_settled_down(services))
    requests = [request("A", "4", idempotency_key="k"), request("A", "1", idempotency_key="l")]
    await left_over(services, monkeypatch, *requests, journaled=True)
    assert available(redis_client, "A") == 100
    assert await reaped_later(worker, clock) == ReapedCount(confirmed=1, released=1)
    assert available(redis_client, "A") == 500


async def test_a_live_request_that_hits_its_tombstone_is_decided_again(
    services: Services,
    worker: WorkerServices,
    clock: Clock,
    open_account: OpenAccount,
    redis_client: Any,
    database_url: str,
) -> None:
    """Its journal call is held up for longer than the reaper waits."""
    await open_account("A", "10.00")
    await services.ledger.post_transaction(request("A", "1"))
    holder = await asyncpg.connect(database_url)
    await holder.execute("SELECT pg_advisory_lock(7301, 0)")
    call = asyncio.create_task(services.ledger.post_transaction(request("A", "4")))
    await eventually(lambda: reservations(redis_client))
    assert await reaped_later(worker, clock) == ReapedCount(confirmed=0, released=1)
    await holder.execute("SELECT pg_advisory_unlock(7301, 0)")
    await holder.close()
    assert not (await call).replayed
    await eventually(lambda: not reservations(redis_client))
    assert available(redis_client, "A") == 500
    assert (await services.ledger.balance("A")).available_minor == 500


async def test_what_a_late_copy_reserves_under_a_tombstone_is_released_as_well(
    services: Services,
    worker: WorkerServices,
    clock: Clock,
    open_account: OpenAccount,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await open_account("A", "10.00")
    await left_over(services, monkeypatch, request("A", "4"), journaled=False)
    key = account_key(redis_client)
    (flight,) = redis_client.keys("subbalance:*:flight")
    before, attempts = redis_client.hgetall(key), redis_client.hgetall(flight)
    await worker.reaper.step()
    clock.now = AGE_S
    await worker.reaper.step()
    redis_client.hset(key, mapping=before)
    redis_client.hset(flight, mapping=attempts)
    await worker.reaper.step()
    clock.now = 2 * AGE_S
    assert await worker.reaper.step() == ReapedCount(confirmed=0, released=1)
    assert available(redis_client, "A") == 1_000


@pytest.mark.reliability(reap_age_ms=200)
async def test_a_paused_instance_that_comes_back_doubles_nothing(
    services: Services,
    other: Services,
    worker: WorkerServices,
    open_account: OpenAccount,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It reserved, slept while the reaper released, and goes on to its journal."""
    await open_account("A", "10.00")
    await services.ledger.post_transaction(request("A", "1"))

    async def reaped() -> bool:
        return (await worker.reaper.step()).released == 1

    async with held_before_its_journal(services, monkeypatch) as wake:
        asleep = asyncio.create_task(services.ledger.post_transaction(request("A", "9")))
        await eventually(lambda: reservations(redis_client))
        await eventually(reaped)
        await other.ledger.post_transaction(request("A", "9"))
        wake()
        with pytest.raises(errors.InsufficientAvailable):
            await asleep
    assert (await services.ledger.balance("A")).available_minor == 0
    assert (await services.ledger.verify()).is_clean


@pytest.mark.reliability(breaker_timeout_ms=100)
async def test_what_is_reserved_while_the_reaper_works_is_given_back_whole_and_once(
    services: Services,
    worker: WorkerServices,
    clock: Clock,
    open_account: OpenAccount,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The record changes between the reaper's look and its release: it must look again."""
    for name in ("A", "B"):
        await open_account(name, "10.00")
        await services.ledger.post_transaction(request(name, "1"))
    await eventually(lambda: not reservations(redis_client))
    await left_over(services, monkeypatch, request("A", "4"), journaled=False)
    (flight,) = redis_client.keys("subbalance:*:flight")
    ((attempt_id, seen),) = redis_client.hgetall(flight).items()
    other = account_key(redis_client, "B")
    store = worker.reaper._store
    void_attempt = store.void_attempt

    async def void_and_reserve(voided_id: int) -> bool:
        is_void = await void_attempt(voided_id)
        refused, key, _, names = seen.split("\n")
        record = "\n".join((refused, f"{other} {key}", "1 -100 1 -400", f"{names} -"))
        redis_client.hset(flight, attempt_id, record)
        redis_client.hincrby(other, "available", -100)
        redis_client.hincrby(other, "pending_debit", 100)
        return is_void

    monkeypatch.setattr(store, "void_attempt", void_and_reserve)
    await worker.reaper.step()
    clock.now = AGE_S
    with pytest.raises(errors.RedisUnavailable):
        await worker.reaper.step()
    monkeypatch.setattr(store, "void_attempt", void_attempt)

    async def reaped() -> bool:
        with contextlib.suppress(errors.RedisUnavailable):
            return (await worker.reaper.step()).released == 2
        return False

    await eventually(reaped)
    assert reservations(redis_client) == []
    assert available(redis_client, "A") == 900
    assert available(redis_client, "B") == 900


async def test_a_durable_credit_that_redis_was_not_told_of_can_be_spent(
    services: Services,
    open_account: OpenAccount,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its process died after the journal; no reaper has come by yet."""
    await open_account("A", "1.00")
    credit = request("A", "10", "credit", idempotency_key="credit")
    await left_over(services, monkeypatch, credit, journaled=True)
    assert (await services.ledger.balance("A")).available_minor == 1_100
    assert not (await services.ledger.post_transaction(request("A", "11"))).replayed
    with pytest.raises(errors.InsufficientAvailable):
        await services.ledger.post_transaction(request("A", "0.01"))


async def test_a_credit_that_is_not_durable_yet_covers_nothing(
    services: Services, open_account: OpenAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    await open_account("A", "1.00")
    await left_over(services, monkeypatch, request("A", "10", "credit"), journaled=False)
    with pytest.raises(errors.InsufficientAvailable) as refused:
        await services.ledger.post_transaction(request("A", "2"))
    assert refused.value.members["available"] == "1.00"


async def test_an_attempt_that_meets_its_tombstone_gives_back_what_it_holds(
    services: Services,
    worker: WorkerServices,
    open_account: OpenAccount,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It reserved again after the reaper had released what it saw."""
    await open_account("A", "10.00")
    void_before_its_journal(services, worker, monkeypatch)
    await services.ledger.post_transaction(request("A", "4"))
    await eventually(lambda: not reservations(redis_client))
    assert available(redis_client, "A") == 600
    assert redis_client.keys("subbalance:*:flight") == []


@pytest.mark.parametrize("extent", ["all", "each"])
async def test_a_part_that_meets_its_tombstone_gives_back_what_it_holds(
    services: Services,
    worker: WorkerServices,
    open_account: OpenAccount,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
    extent: str,
) -> None:
    """The tombstone was for what the reaper saw; the part is decided anew, and once."""
    await open_account("A", "10.00")
    void_before_its_journal(services, worker, monkeypatch)
    asked = [request("A", "4"), request("A", "1"), request("A", "2", "credit")]
    answers = await services.ledger.post_transactions(asked, "k", atomic=extent == "all")
    assert all(isinstance(answer, Acceptance) for answer in answers)
    await eventually(lambda: not reservations(redis_client))
    assert available(redis_client, "A") == 700
    assert redis_client.keys("subbalance:*:flight") == []


@pytest.mark.parametrize("atomic", [True, False])
async def test_a_part_that_is_a_repetition_gives_back_what_it_holds(
    services: Services, open_account: OpenAccount, redis_client: Any, atomic: bool
) -> None:
    await open_account("A", "10.00")
    asked = [request("A", "4"), request("A", "1")]
    first, again = [
        await services.ledger.post_transactions(asked, "k", atomic=atomic) for _ in range(2)
    ]
    assert [answer.replayed for answer in [*first, *again]] == [False] * 2 + [True] * 2  # type: ignore[union-attr]
    await eventually(lambda: not reservations(redis_client))
    assert available(redis_client, "A") == 500
