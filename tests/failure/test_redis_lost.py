"""Redis loses its memory, a key, or its scripts while the service runs."""

import asyncio
from typing import Any

import pytest

from app import errors
from app.bootstrap import Services, open_services
from app.infra.embedded import EmbeddedRedis
from tests.conftest import OpenAccount, eventually
from tests.integration.test_transactions import outcomes, request


async def test_after_a_flush_a_new_epoch_begins_from_postgres(
    services: Services, open_account: OpenAccount, redis_client: Any, database: Any
) -> None:
    await open_account("A", "10.00")
    await services.ledger.post_transaction(request("A", "4"))
    redis_client.flushall()
    await services.ledger.post_transaction(request("A", "5"))
    with pytest.raises(errors.InsufficientAvailable):
        await services.ledger.post_transaction(request("A", "1.01"))
    assert await database.fetchval("SELECT epoch FROM ledger_shards") == 2


async def test_a_deleted_account_key_ends_the_epoch(
    services: Services, open_account: OpenAccount, redis_client: Any, database: Any
) -> None:
    await open_account("A", "10.00")
    await services.ledger.post_transaction(request("A", "4"))
    redis_client.delete(*redis_client.keys("subbalance:*:account:A"))
    await services.ledger.post_transaction(request("A", "6"))
    assert (await services.ledger.balance("A")).available_minor == 0
    assert (
        await database.fetchval("SELECT reason FROM ledger_epochs ORDER BY epoch DESC LIMIT 1")
        == "redis lost data, too soon"
    )


async def test_a_script_flush_is_not_noticed(
    services: Services, open_account: OpenAccount, redis_client: Any
) -> None:
    await open_account("A", "10.00")
    for _ in range(3):
        redis_client.script_flush()
        await services.ledger.post_transaction(request("A", "1"))
    assert (await services.ledger.balance("A")).available_minor == 700


async def test_flushes_under_load_lose_and_double_nothing(
    services: Services, open_account: OpenAccount, redis_client: Any, database: Any
) -> None:
    await open_account("A", "1000.00")
    keys = [f"k{number}" for number in range(400)]

    async def flush() -> None:
        for _ in range(10):
            await asyncio.sleep(0.01)
            await asyncio.to_thread(redis_client.flushall)

    async def send(key: str) -> None:
        for _ in range(50):
            try:
                await services.ledger.post_transaction(request("A", "1", idempotency_key=key))
            except errors.Unavailable:
                await asyncio.sleep(0.01)
            else:
                return
        raise AssertionError(f"{key} was never answered")

    flushing = asyncio.create_task(flush())
    await asyncio.gather(*(send(key) for key in keys))
    await flushing
    assert await database.fetchval("SELECT count(*) FROM sub_balances WHERE type = 'debit'") == 400
    assert (await services.ledger.balance("A")).available_minor == 60_000


@pytest.mark.reliability(redis_fallback=False, breaker_timeout_ms=100)
async def test_without_fallback_a_killed_redis_refuses_and_its_return_begins_a_new_epoch(
    services: Services, open_account: OpenAccount, redis_server: EmbeddedRedis, database: Any
) -> None:
    await open_account("A", "10.00")
    await services.ledger.post_transaction(request("A", "4"))
    redis_server.kill()
    try:
        results = await outcomes(services, [request("A", "1") for _ in range(5)])
        assert all(isinstance(result, errors.RedisUnavailable) for result in results)
        assert not (await services.ledger.health()).ready
        assert (await services.ledger.balance("A")).available_minor == 600
    finally:
        redis_server.start()

    async def works() -> bool:
        try:
            await services.ledger.post_transaction(request("A", "1", idempotency_key="k"))
        except errors.Unavailable:
            return False
        return True

    await eventually(works)
    assert (await services.ledger.balance("A")).available_minor == 500
    assert await database.fetchval("SELECT epoch FROM ledger_shards") == 2


async def test_an_epoch_outlives_the_service_and_is_taken_up_again(
    settings: Any, database: Any
) -> None:
    for _ in range(3):
        async with open_services(settings) as services:
            assert (await services.ledger.health()).epoch == 1
    assert await database.fetchval("SELECT count(*) FROM ledger_epochs") == 1


async def test_a_redis_that_may_evict_does_not_decide(
    settings: Any, redis_client: Any, database: Any
) -> None:
    redis_client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        async with open_services(settings) as services:
            health = await services.ledger.health()
            assert (health.mode, health.ready) == ("postgres", True)
            assert "noeviction" in health.components["redis"].detail
    finally:
        redis_client.config_set("maxmemory-policy", "noeviction")
    reason = "SELECT reason FROM ledger_epochs ORDER BY epoch DESC LIMIT 1"
    assert "noeviction" in await database.fetchval(reason)
