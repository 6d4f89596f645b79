"""Late copies of admissions that were refused, given up, or told again reserve nothing."""

import asyncio
from typing import Any

import pytest

from app import errors
from app.bootstrap import WorkerServices
from tests.conftest import eventually
from tests.failure.conftest import (
    Behind,
    Clock,
    account_fields,
    account_key,
    pipeline_of,
    reaped_later,
    reservations,
)
from tests.failure.interruptions import sleeps_before_it_tells
from tests.failure.proxy import ADMIT
from tests.failure.test_twins import post
from tests.integration.test_transactions import outcomes, request


async def test_a_late_copy_of_an_admission_that_was_refused_does_nothing(
    behind: Behind, redis_client: Any
) -> None:
    behind.redis.hold(ADMIT)
    with pytest.raises(errors.InsufficientAvailable):
        await post(behind.services, "20")
    assert behind.redis.held_count == 1
    await post(behind.services, "10", "credit", idempotency_key="more")
    before = account_fields(redis_client)
    await behind.redis.deliver()
    assert reservations(redis_client) == []
    assert account_fields(redis_client) == before


async def test_a_late_copy_of_an_admission_for_an_account_that_was_not_loaded_does_nothing(
    behind: Behind, redis_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its account was not loaded when it was sent again, and could not be loaded then."""
    key = account_key(redis_client)
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
    assert account_fields(redis_client) == fields


@pytest.mark.parametrize("direction", ["debit", "credit"])
async def test_a_late_copy_of_an_admission_that_was_told_again_moves_nothing_twice(
    behind: Behind,
    worker: WorkerServices,
    clock: Clock,
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

    async def is_journaled() -> bool:
        return (await behind.services.ledger.balance("A")).available_minor == expected

    await eventually(is_journaled)
    assert (await reaped_later(worker, clock)).confirmed == 1
    assert account_fields(redis_client)["available"] == str(expected)
    assert behind.redis.held_count == 1
    await behind.redis.deliver()
    assert reservations(redis_client) == []
    tell_now()
    assert not (await call).replayed
    fields = account_fields(redis_client)
    assert (fields["available"], fields["incoming"]) == (str(expected), "0")
