"""One request sent to two instances: both may reserve, the journal lets one of them through.

Where the money is there only once, the second learns what became of the first. It is never told
that its account is short of what the first is about to spend.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.exceptions import TimeoutError as RedisTimeoutError

from app import errors
from app.bootstrap import Services, WorkerServices, open_services
from app.ledger.model import Acceptance
from app.settings import Settings
from tests.conftest import OpenAccount, eventually
from tests.failure.conftest import Behind, pipeline_of, put_in_flight, reservations
from tests.integration.test_transactions import outcomes, request

ADMIT, CONFIRM = b"9000000000000000000", b"journaled"


@pytest.fixture
async def other(settings: Settings) -> AsyncIterator[Services]:
    """A second instance."""
    async with open_services(settings) as services:
        yield services


async def post(
    services: Services, amount: str, direction: str = "debit", **more: Any
) -> Acceptance:
    more = {"idempotency_key": "k", **more}
    return await services.ledger.post_transaction(request("A", amount, direction, **more))


async def account(redis_client: Any) -> dict[str, str]:
    (key,) = redis_client.keys("subbalance:*:account:A")
    return redis_client.hgetall(key)


@asynccontextmanager
async def held_before_its_journal(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[[], None]]:
    """Hold an instance between admit and journal; yields what lets it go on."""
    journal = pipeline_of(services)._journal
    write, going = journal.write, asyncio.Event()

    async def wait_and_write(*arguments: Any, **more: Any) -> Any:
        await going.wait()
        return await write(*arguments, **more)

    monkeypatch.setattr(journal, "write", wait_and_write)
    try:
        yield going.set
    finally:
        going.set()


def sleeps_before_it_tells(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], None]:
    """Let an instance sleep between journal and confirm; returns what wakes it."""
    admission, going = pipeline_of(services)._admission, asyncio.Event()
    confirm = admission.confirm

    async def wait_and_confirm(*arguments: Any) -> None:
        await going.wait()
        await confirm(*arguments)

    monkeypatch.setattr(admission, "confirm", wait_and_confirm)
    return going.set


def after_its_decision(
    services: Services, monkeypatch: pytest.MonkeyPatch, happens: Callable[[], Awaitable[None]]
) -> None:
    """Let something happen when Redis has decided an instance's next batch, before it goes on."""
    admission = pipeline_of(services)._admission
    admit = admission.admit

    async def admit_and_wait(*arguments: Any, **more: Any) -> Any:
        admittance = await admit(*arguments, **more)
        monkeypatch.setattr(admission, "admit", admit)
        await happens()
        return admittance

    monkeypatch.setattr(admission, "admit", admit_and_wait)


async def test_the_second_sending_waits_for_the_first_and_is_never_told_it_is_short(
    behind: Behind, other: Services, redis_client: Any, database: Any
) -> None:
    """The first is cut off from PostgreSQL between its admission and its journal."""
    behind.postgres.stall()
    first = asyncio.create_task(post(behind.services, "10"))
    await eventually(lambda: reservations(redis_client))
    assert (await account(redis_client))["available"] == "0"
    second = asyncio.create_task(post(other, "10"))
    await asyncio.sleep(0.3)
    assert not second.done()
    behind.postgres.resume()
    answers = await asyncio.gather(first, second)
    assert [answer.replayed for answer in answers] == [False, True]
    assert answers[0].transaction.transaction_id == answers[1].transaction.transaction_id
    assert await database.fetchval("SELECT count(*) FROM sub_balances WHERE type = 'debit'") == 2
    with pytest.raises(errors.InsufficientAvailable):
        await post(other, "10", idempotency_key="another")


async def test_where_there_is_enough_for_both_the_journal_lets_one_through(
    services: Services,
    other: Services,
    open_account: OpenAccount,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await open_account("A", "10.00")
    await post(services, "1", idempotency_key="warm")
    await eventually(lambda: not reservations(redis_client))
    async with held_before_its_journal(services, monkeypatch) as go_on:
        first = asyncio.create_task(post(services, "4"))
        await eventually(lambda: reservations(redis_client))
        assert not (await post(other, "4")).replayed
        go_on()
        assert (await first).replayed
    await eventually(lambda: not reservations(redis_client))
    fields = await account(redis_client)
    assert (fields["available"], fields["pending_debit"]) == ("500", "500")
    assert (await services.ledger.verify()).is_clean


async def test_a_first_sending_that_ends_after_the_second_was_found_short_is_its_answer(
    services: Services,
    other: Services,
    open_account: OpenAccount,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is journaled and confirmed after the decision, before the second looks itself up."""
    await open_account("A", "10.00")
    await post(services, "1", idempotency_key="warm")
    await post(other, "1", idempotency_key="warm")
    await eventually(lambda: not reservations(redis_client))
    async with held_before_its_journal(services, monkeypatch) as go_on:
        first = asyncio.create_task(post(services, "9"))
        await eventually(lambda: reservations(redis_client))

        async def let_the_first_end() -> None:
            go_on()
            await first
            await eventually(lambda: not reservations(redis_client))

        after_its_decision(other, monkeypatch, let_the_first_end)
        assert (await post(other, "9")).replayed


async def test_a_redis_that_forgot_what_is_in_flight_refuses_nothing(
    services: Services,
    other: Services,
    open_account: OpenAccount,
    redis_client: Any,
    database: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is flushed after the second was found short; the epoch still rules in PostgreSQL."""
    await open_account("A", "10.00")
    await post(services, "1", idempotency_key="warm")
    await post(other, "1", idempotency_key="warm")
    await eventually(lambda: not reservations(redis_client))

    async def flush() -> None:
        redis_client.flushall()

    async with held_before_its_journal(services, monkeypatch) as go_on:
        first = asyncio.create_task(post(services, "9"))
        await eventually(lambda: reservations(redis_client))
        after_its_decision(other, monkeypatch, flush)
        second = asyncio.create_task(post(other, "9"))
        await asyncio.wait([second], timeout=2)
        go_on()
        answers = await asyncio.gather(first, second)
    assert sorted(answer.replayed for answer in answers) == [False, True]
    assert await database.fetchval("SELECT count(*) FROM sub_balances WHERE type = 'debit'") == 2


async def test_requests_without_a_key_do_not_wait_for_each_other(
    services: Services, open_account: OpenAccount, redis_client: Any
) -> None:
    """Another instance has one in flight; this one is short of funds and must be told so."""
    await open_account("A", "10.00")
    await post(services, "1", idempotency_key=None)
    await eventually(lambda: not reservations(redis_client))
    (key,) = redis_client.keys("subbalance:*:account:A")
    put_in_flight(redis_client, key, 1, -100)
    with pytest.raises(errors.InsufficientAvailable):
        await asyncio.wait_for(post(services, "9", idempotency_key=None), 1)


async def test_a_request_waits_for_a_dead_sending_until_the_reaper_has_come_by(
    services: Services,
    worker: WorkerServices,
    open_account: OpenAccount,
    redis_client: Any,
) -> None:
    """A dead process's reservation may yet be journaled by a late message, until it is void."""
    await open_account("A", "10.00")
    await post(services, "1", idempotency_key="warm")
    await eventually(lambda: not reservations(redis_client))
    (key,) = redis_client.keys("subbalance:*:account:A")
    put_in_flight(redis_client, key, 1, -900, "0:key:k")
    call = asyncio.create_task(post(services, "9"))
    await asyncio.sleep(0.3)
    assert not call.done()
    now = 0.0
    worker.reaper._clock = lambda: now
    await worker.reaper.step()
    now = 60.0
    assert (await worker.reaper.step()).released == 1
    assert not (await call).replayed


async def test_what_its_own_dead_sending_gave_back_meanwhile_is_no_refusal(
    services: Services,
    worker: WorkerServices,
    open_account: OpenAccount,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The reaper comes by right after the decision that the account is short."""
    await open_account("A", "10.00")
    await post(services, "1", idempotency_key="warm")
    await eventually(lambda: not reservations(redis_client))
    (key,) = redis_client.keys("subbalance:*:account:A")
    put_in_flight(redis_client, key, 1, -900, "0:key:k")
    now = 0.0
    worker.reaper._clock = lambda: now
    await worker.reaper.step()
    now = 60.0

    async def reap() -> None:
        assert (await worker.reaper.step()).released == 1

    after_its_decision(services, monkeypatch, reap)
    assert not (await post(services, "9")).replayed


async def test_what_was_in_flight_at_the_decision_is_told_again_with_it(
    behind: Behind,
    worker: WorkerServices,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Decided, its reply lost; the dead sending is given back before the decision is told again."""
    (key,) = redis_client.keys("subbalance:*:account:A")
    put_in_flight(redis_client, key, 1, -900, "0:key:k")
    now = 0.0
    worker.reaper._clock = lambda: now
    await worker.reaper.step()
    now = 60.0
    scripts = pipeline_of(behind.services)._admission._scripts
    call, lost = scripts.call, 0

    async def lose_the_first_reply(name: str, *arguments: Any) -> Any:
        nonlocal lost
        answer = await call(name, *arguments)
        if name == "admit" and not lost:
            lost += 1
            assert (await worker.reaper.step()).released == 1
            raise RedisTimeoutError
        return answer

    monkeypatch.setattr(scripts, "call", lose_the_first_reply)
    # One batch, so that the decision is remembered for the one that was admitted.
    requests = [request("A", "1"), request("A", "9", idempotency_key="k")]
    answers = await outcomes(behind.services, requests)
    assert lost == 1
    assert [type(answer) for answer in answers] == [Acceptance, Acceptance], answers


# Parts of bulk requests that are named as a whole.


async def post_part(
    services: Services, *amounts: str, atomic: bool = False
) -> list[Acceptance | errors.LedgerError]:
    asked = [request("A", amount) for amount in amounts]
    return await services.ledger.post_transactions(asked, "k", atomic=atomic)


@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "each"])
@pytest.mark.parametrize("opening", ["11.00", "16.00"], ids=["all_short", "some_short"])
async def test_a_part_is_not_refused_what_its_own_other_sending_holds(
    services: Services,
    other: Services,
    open_account: OpenAccount,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
    opening: str,
    atomic: bool,
) -> None:
    """The first sending holds the money, and is slow; the second must wait for it."""
    await open_account("A", opening)
    await post(services, "1", idempotency_key="warm")
    await post(other, "1", idempotency_key="warm")
    await eventually(lambda: not reservations(redis_client))
    async with held_before_its_journal(services, monkeypatch) as go_on:
        first = asyncio.create_task(post_part(services, "6", "4", atomic=atomic))
        await eventually(lambda: reservations(redis_client))
        second = asyncio.create_task(post_part(other, "6", "4", atomic=atomic))
        await asyncio.wait([second], timeout=0.3)
        go_on()
        answers = await asyncio.gather(first, second)
    assert [type(answer) for part in answers for answer in part] == [Acceptance] * 4, answers
    await eventually(lambda: not reservations(redis_client))
    assert (await services.ledger.verify()).is_clean


async def test_a_repeated_credit_is_answered_when_it_can_be_spent(
    services: Services,
    other: Services,
    open_account: OpenAccount,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both instances reserve; the first journals it and sleeps before it has told Redis."""
    await open_account("A", "10.00")
    await post(services, "1", idempotency_key="warm")
    await post(other, "1", idempotency_key="warm")
    await eventually(lambda: not reservations(redis_client))
    tell_now = sleeps_before_it_tells(services, monkeypatch)
    async with held_before_its_journal(other, monkeypatch) as go_on:
        second = asyncio.create_task(post(other, "4", "credit"))
        await eventually(lambda: reservations(redis_client))
        first = asyncio.create_task(post(services, "4", "credit"))
        await eventually(lambda: len(reservations(redis_client)) == 2)
        await eventually(lambda: _is_journaled(services))
        go_on()
        assert (await second).replayed
        spendable = int((await account(redis_client))["available"])
        tell_now()
        assert not (await first).replayed
    assert spendable == 1_300
    await eventually(lambda: not reservations(redis_client))
    fields = await account(redis_client)
    assert (int(fields["available"]), fields["incoming"]) == (spendable, "0")


async def _is_journaled(services: Services) -> bool:
    return (await services.ledger.balance("A")).pending_credit_minor == 1_400


# Copies of messages that were sent again, or whose outcome somebody else has told.


async def test_a_late_copy_of_an_admission_that_was_refused_does_nothing(
    behind: Behind, redis_client: Any
) -> None:
    behind.redis.hold(ADMIT)
    with pytest.raises(errors.InsufficientAvailable):
        await post(behind.services, "20")
    assert behind.redis.held_count == 1
    await post(behind.services, "10", "credit", idempotency_key="more")
    before = await account(redis_client)
    await behind.redis.deliver()
    assert reservations(redis_client) == []
    assert await account(redis_client) == before


async def test_a_late_copy_of_an_admission_for_an_account_that_was_not_loaded_does_nothing(
    behind: Behind, redis_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its account was not loaded when it was sent again, and could not be loaded then."""
    (key,) = redis_client.keys("subbalance:*:account:A")
    (epoch,) = redis_client.keys("subbalance:*:epoch:*")
    fields, loaded = redis_client.hgetall(key), f"loaded:{key}"
    redis_client.delete(key)
    redis_client.hdel(epoch, loaded)

    async def unreachable(*_arguments: Any) -> Any:
        raise errors.PostgresUnavailable

    async def untold(*_arguments: Any) -> None:
        """Telling Redis that nothing is reserved would make the copy stale as well."""

    pipeline = pipeline_of(behind.services)
    monkeypatch.setattr(pipeline._store, "accounts_to_load", unreachable)
    monkeypatch.setattr(pipeline._admission, "release", untold)
    behind.redis.hold(ADMIT)
    results = await outcomes(behind.services, [request("A", "4")])
    assert isinstance(results[0], errors.LedgerError)
    assert behind.redis.held_count == 1
    redis_client.hset(key, mapping=fields)
    redis_client.hset(epoch, loaded, "1")
    await behind.redis.deliver()
    assert reservations(redis_client) == []
    assert await account(redis_client) == fields


@pytest.mark.parametrize("direction", ["debit", "credit"])
async def test_a_late_copy_of_an_admission_that_was_told_again_moves_nothing_twice(
    behind: Behind,
    worker: WorkerServices,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
    direction: str,
) -> None:
    """It arrives when somebody else has confirmed the attempt, and before its process does."""
    tell_now = sleeps_before_it_tells(behind.services, monkeypatch)
    # Executed with its reply lost, then delayed, then told again.
    behind.redis.lose_reply_to(ADMIT)
    behind.redis.hold(ADMIT)
    call = asyncio.create_task(post(behind.services, "4", direction))
    expected = 1_400 if direction == "credit" else 600
    now = 0.0
    worker.reaper._clock = lambda: now

    async def is_journaled() -> bool:
        return (await behind.services.ledger.balance("A")).available_minor == expected

    await eventually(is_journaled)
    await worker.reaper.step()
    now = 60.0
    assert (await worker.reaper.step()).confirmed == 1
    assert (await account(redis_client))["available"] == str(expected)
    assert behind.redis.held_count == 1
    await behind.redis.deliver()
    assert reservations(redis_client) == []
    tell_now()
    assert not (await call).replayed
    fields = await account(redis_client)
    assert (fields["available"], fields["incoming"]) == (str(expected), "0")
