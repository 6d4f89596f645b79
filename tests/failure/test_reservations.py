"""No reservation outlives its request in a process that lives, whatever fails in between."""

import asyncio
from typing import Any

import msgspec
import pytest

from app import errors
from app.bootstrap import Services, open_services
from app.ledger.model import AccountRequest
from app.settings import Settings
from tests.conftest import OpenAccount, eventually
from tests.failure.conftest import account_key, is_settled_down, pipeline_of, reservations
from tests.failure.proxy import proxied
from tests.integration.test_transactions import outcomes, request

BROKEN = errors.InvariantViolation("PostgreSQL refuses a statement: out of memory")


async def refused_by_postgres(*_arguments: Any) -> Any:
    raise BROKEN


async def test_a_failing_lookup_of_duplicates_does_not_keep_the_others_from_redis(
    services: Services,
    open_account: OpenAccount,
    redis_client: Any,
    database: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await open_account("A", "10.00")
    await services.ledger.post_transaction(request("A", "1", idempotency_key="dup"))
    await eventually(lambda: is_settled_down(services))
    monkeypatch.setattr(pipeline_of(services), "_find_accepted", refused_by_postgres)
    batch = [
        request("A", "1", idempotency_key="dup"),
        request("A", "5", "credit", idempotency_key="new"),
    ]
    duplicate, credit = await outcomes(services, batch)
    assert isinstance(duplicate, errors.InvariantViolation)
    assert not credit.replayed
    await eventually(lambda: not reservations(redis_client))
    key = account_key(redis_client)
    assert redis_client.hmget(key, "available", "incoming") == ["1400", "0"]


async def test_a_failing_load_gives_back_what_the_batch_had_reserved(
    services: Services,
    open_account: OpenAccount,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("A", "B"):
        await open_account(name, "10.00")
    await services.ledger.post_transaction(request("A", "1"))
    await services.ledger.pending("B", None, 1)  # known to this process, not to Redis
    monkeypatch.setattr(pipeline_of(services)._store, "accounts_to_load", refused_by_postgres)
    results = await outcomes(services, [request("A", "2", idempotency_key="a"), request("B", "2")])
    assert all(isinstance(result, errors.LedgerError) for result in results)
    await eventually(lambda: not reservations(redis_client))
    monkeypatch.undo()
    again = await services.ledger.post_transaction(request("A", "2", idempotency_key="a"))
    assert not again.replayed
    await services.ledger.post_transaction(request("A", "7"))


async def test_a_lost_account_reserves_nothing_on_the_others(
    services: Services,
    open_account: OpenAccount,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("A", "B"):
        await open_account(name, "10.00")
    await outcomes(services, [request("A", "1"), request("B", "1")])
    redis_client.delete(*redis_client.keys("subbalance:*:account:B"))

    async def unreachable(*_arguments: Any) -> None:
        raise errors.PostgresUnavailable

    monkeypatch.setattr(pipeline_of(services)._mode, "_open", unreachable)
    results = await outcomes(services, [request("A", "2", idempotency_key="a"), request("B", "2")])
    assert all(isinstance(result, errors.Unavailable) for result in results)
    await eventually(lambda: not reservations(redis_client))
    await services.ledger.post_transaction(request("A", "9"))


@pytest.mark.reliability(redis_fallback=False, breaker_timeout_ms=100)
async def test_a_confirm_gets_through_when_redis_is_out_of_memory(
    services: Services,
    open_account: OpenAccount,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await open_account("A", "10.00")
    await services.ledger.post_transaction(request("A", "1"))
    journal = pipeline_of(services)._journal
    write = journal.write

    async def write_and_fill(*arguments: Any, **more: Any) -> Any:
        outcome = await write(*arguments, **more)
        redis_client.config_set("maxmemory", 1)
        return outcome

    monkeypatch.setattr(journal, "write", write_and_fill)
    try:
        await services.ledger.post_transaction(request("A", "1", "credit"))
        await eventually(lambda: not reservations(redis_client))
        with pytest.raises(errors.RedisUnavailable):
            await services.ledger.post_transaction(request("A", "1"))
    finally:
        monkeypatch.undo()
        redis_client.config_set("maxmemory", 0)


async def test_a_repetition_does_not_make_another_request_of_its_batch_refused(
    services: Services, open_account: OpenAccount
) -> None:
    """Until the journal finds it out, the repetition reserves what the other one needs."""
    await open_account("A", "10.00")
    await services.ledger.post_transaction(request("A", "4", idempotency_key="k"))
    await eventually(lambda: is_settled_down(services))
    results = await outcomes(services, [request("A", "4", idempotency_key="k"), request("A", "5")])
    assert [result.replayed for result in results] == [True, False]
    assert (await services.ledger.balance("A")).available_minor == 100


async def test_a_crowd_of_health_checks_refuses_no_money(
    services: Services, open_account: OpenAccount
) -> None:
    await open_account("A", "10.00")
    probes = [asyncio.create_task(services.ledger.health()) for _ in range(300)]
    results = await outcomes(services, [request("A", "0.01") for _ in range(100)])
    assert not [result for result in results if isinstance(result, Exception)]
    assert all(health.ready for health in await asyncio.gather(*probes))


async def test_an_instance_whose_slot_ended_is_not_ready(services: Services) -> None:
    assert (await services.ledger.health()).ready
    services.ledger._batcher._tasks[0].cancel()
    await asyncio.sleep(0)
    health = await services.ledger.health()
    assert not health.ready
    assert not health.components["admission"].ok


@pytest.mark.reliability(redis_fallback=False, breaker_timeout_ms=100)
async def test_a_replica_is_no_error_of_ours(
    services: Services, open_account: OpenAccount, redis_client: Any
) -> None:
    """A failover passes: the client is told to come again."""
    await open_account("A", "10.00")
    await services.ledger.post_transaction(request("A", "1"))
    redis_client.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        with pytest.raises(errors.RedisUnavailable):
            await services.ledger.post_transaction(request("A", "1", idempotency_key="k"))
    finally:
        redis_client.execute_command("REPLICAOF", "NO", "ONE")
    await services.ledger.post_transaction(request("A", "9", idempotency_key="k"))


async def test_stopping_while_postgres_stalls_ends_and_answers_everybody(
    settings: Settings, redis_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.ledger.batcher._STOP_S", 0.5)
    async with proxied(settings.postgres.url) as (url, postgres):
        there = msgspec.structs.replace(
            settings, postgres=msgspec.structs.replace(settings.postgres, url=url, timeout_ms=1_000)
        )
        async with open_services(there) as services:
            await services.ledger.open_account(
                AccountRequest(account_id="A", currency="USD", exponent=2, opening_minor=1_000)
            )
            await services.ledger.post_transaction(request("A", "1"))
            postgres.stall()
            calls = [
                asyncio.create_task(
                    services.ledger.post_transaction(request("A", "1", idempotency_key="k"))
                )
                for _ in range(2)
            ]
            await asyncio.sleep(0)
            batcher = services.ledger._batcher
            await eventually(lambda: batcher.waiting_count == 1)
            await asyncio.wait_for(batcher.stop(), 8)
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(result, errors.LedgerError) for result in results)
            postgres.resume()
