"""One request sent to two instances: both may reserve, the journal lets one of them through.

Where the money is there only once, the second learns what became of the first. It is never told
that its account is short of what the first is about to spend.
"""

import asyncio
from typing import Any

import pytest
from redis.exceptions import TimeoutError as RedisTimeoutError

from app import errors
from app.bootstrap import Services, WorkerServices
from app.ledger.model import Acceptance
from tests.conftest import OpenAccount, eventually
from tests.failure.conftest import (
    Behind,
    Clock,
    account_fields,
    account_key,
    pipeline_of,
    put_in_flight,
    reaped_later,
    reservations,
)
from tests.failure.interruptions import (
    after_its_decision,
    held_before_its_journal,
    sleeps_before_it_tells,
)
from tests.failure.parts import sent_twice
from tests.integration.test_transactions import outcomes, request


async def post(
    services: Services, amount: str, direction: str = "debit", **more: Any
) -> Acceptance:
    more = {"idempotency_key": "k", **more}
    return await services.ledger.post_transaction(request("A", amount, direction, **more))


async def begin(
    open_account: OpenAccount, redis_client: Any, *instances: Services, opening: str = "10.00"
) -> None:
    """Open the account, and let Redis and each instance know it; each spends 1.00."""
    await open_account("A", opening)
    for instance in instances:
        await post(instance, "1", idempotency_key="warm")
    await eventually(lambda: not reservations(redis_client))


async def test_the_second_sending_waits_for_the_first_and_is_never_told_it_is_short(
    behind: Behind, other: Services, redis_client: Any, database: Any
) -> None:
    """The first is cut off from PostgreSQL between its admission and its journal."""
    behind.postgres.stall()
    first = asyncio.create_task(post(behind.services, "10"))
    await eventually(lambda: reservations(redis_client))
    assert account_fields(redis_client)["available"] == "0"
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
    await begin(open_account, redis_client, services)
    async with held_before_its_journal(services, monkeypatch) as go_on:
        first = asyncio.create_task(post(services, "4"))
        await eventually(lambda: reservations(redis_client))
        assert not (await post(other, "4")).replayed
        go_on()
        assert (await first).replayed
    await eventually(lambda: not reservations(redis_client))
    fields = account_fields(redis_client)
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
    await begin(open_account, redis_client, services, other)
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
    await begin(open_account, redis_client, services, other)

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
    put_in_flight(redis_client, account_key(redis_client), 1, -100)
    with pytest.raises(errors.InsufficientAvailable):
        await asyncio.wait_for(post(services, "9", idempotency_key=None), 1)


async def test_a_request_waits_for_a_dead_sending_until_the_reaper_has_come_by(
    services: Services,
    worker: WorkerServices,
    clock: Clock,
    open_account: OpenAccount,
    redis_client: Any,
) -> None:
    """A dead process's reservation may yet be journaled by a late message, until it is void."""
    await begin(open_account, redis_client, services)
    put_in_flight(redis_client, account_key(redis_client), 1, -900, "0:key:k")
    call = asyncio.create_task(post(services, "9"))
    await asyncio.sleep(0.3)
    assert not call.done()
    assert (await reaped_later(worker, clock)).released == 1
    assert not (await call).replayed


async def test_what_its_own_dead_sending_gave_back_meanwhile_is_no_refusal(
    services: Services,
    worker: WorkerServices,
    clock: Clock,
    open_account: OpenAccount,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The reaper comes by right after the decision that the account is short."""
    await begin(open_account, redis_client, services)
    put_in_flight(redis_client, account_key(redis_client), 1, -900, "0:key:k")
    await worker.reaper.step()
    clock.now = 60.0

    async def reap() -> None:
        assert (await worker.reaper.step()).released == 1

    after_its_decision(services, monkeypatch, reap)
    assert not (await post(services, "9")).replayed


async def test_what_was_in_flight_at_the_decision_is_told_again_with_it(
    behind: Behind,
    worker: WorkerServices,
    clock: Clock,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Decided, its reply lost; the dead sending is given back before the decision is told again."""
    put_in_flight(redis_client, account_key(redis_client), 1, -900, "0:key:k")
    await worker.reaper.step()
    clock.now = 60.0
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
    await begin(open_account, redis_client, services, other, opening=opening)
    asked = (request("A", "6"), request("A", "4"))
    answers = await sent_twice(services, other, redis_client, monkeypatch, *asked, atomic=atomic)
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
    await begin(open_account, redis_client, services, other)
    tell_now = sleeps_before_it_tells(services, monkeypatch)
    async with held_before_its_journal(other, monkeypatch) as go_on:
        second = asyncio.create_task(post(other, "4", "credit"))
        await eventually(lambda: reservations(redis_client))
        first = asyncio.create_task(post(services, "4", "credit"))
        await eventually(lambda: len(reservations(redis_client)) == 2)
        await eventually(lambda: _is_journaled(services))
        go_on()
        assert (await second).replayed
        spendable = int(account_fields(redis_client)["available"])
        tell_now()
        assert not (await first).replayed
    assert spendable == 1_300
    await eventually(lambda: not reservations(redis_client))
    fields = account_fields(redis_client)
    assert (int(fields["available"]), fields["incoming"]) == (spendable, "0")


async def _is_journaled(services: Services) -> bool:
    return (await services.ledger.balance("A")).pending_credit_minor == 1_400
