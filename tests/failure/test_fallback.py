"""Redis is gone, hangs, or is cut off from one instance: the ledger goes on, and goes back."""

import asyncio
from typing import Any

import httpx
import msgspec
import pytest

from app import errors
from app.bootstrap import Services, WorkerServices, open_services
from app.infra.embedded import EmbeddedPostgres, EmbeddedRedis, start_postgres
from app.infra.migrations import migrate
from app.infra.postgres import open_pool
from app.ledger.codes import Mode
from app.ledger.model import Acceptance, AccountRequest
from app.settings import Settings
from tests.conftest import OpenAccount, eventually, serving
from tests.failure.conftest import Behind, reservations
from tests.failure.modes import accepted_in, mode_of, recover
from tests.failure.proxy import proxied
from tests.integration.test_controls import CONTROL
from tests.integration.test_transactions import outcomes, request


async def test_a_killed_redis_is_only_seen_as_another_mode_and_its_return_as_well(
    services: Services,
    worker: WorkerServices,
    open_account: OpenAccount,
    redis_server: EmbeddedRedis,
    database: Any,
) -> None:
    await open_account("A", "100.00")
    assert accepted_in(await outcomes(services, [request("A", "1")])) == {"redis"}
    redis_server.kill()
    try:
        flying = [request("A", "1", idempotency_key=f"k{number}") for number in range(20)]
        assert accepted_in(await outcomes(services, flying)) == {"postgres"}
        with pytest.raises(errors.InsufficientAvailable) as refused:
            await services.ledger.post_transaction(request("A", "79.01"))
        assert refused.value.members == {"requested": "79.01", "available": "79.00"}
        again = await services.ledger.post_transaction(request("A", "1", idempotency_key="k0"))
        assert (again.replayed, again.transaction.mode) == (True, Mode.POSTGRES)
        health = await services.ledger.health()
        assert (health.ready, health.mode) == (True, "postgres")
        assert not health.components["redis"].ok
        await worker.settler.settle()
    finally:
        redis_server.start()
    await recover(worker, services)
    assert accepted_in(await outcomes(services, [request("A", "79")])) == {"redis"}
    with pytest.raises(errors.InsufficientAvailable):
        await services.ledger.post_transaction(request("A", "0.01"))
    modes = await database.fetch("SELECT mode FROM ledger_epochs ORDER BY epoch")
    assert [row["mode"] for row in modes] == ["redis", "postgres", "redis"]
    assert (await services.ledger.verify()).is_clean


async def test_requests_in_flight_when_redis_dies_are_decided_all_the_same(
    services: Services, open_account: OpenAccount, redis_server: EmbeddedRedis, database: Any
) -> None:
    await open_account("A", "1000.00")
    await services.ledger.post_transaction(request("A", "1"))
    calls = [
        asyncio.create_task(
            services.ledger.post_transaction(request("A", "1", idempotency_key=f"k{number}"))
        )
        for number in range(300)
    ]
    await asyncio.sleep(0)
    redis_server.kill()
    try:
        results = await asyncio.gather(*calls, return_exceptions=True)
    finally:
        redis_server.start()
    assert "postgres" in accepted_in(results)
    assert await database.fetchval("SELECT count(*) FROM sub_balances WHERE type = 'debit'") == 301
    assert (await services.ledger.balance("A")).available_minor == 69_900


async def test_a_redis_that_hangs_is_done_without_and_nothing_is_left_in_it(
    behind: Behind, redis_client: Any, worker: WorkerServices
) -> None:
    services = behind.services
    behind.redis.stall()
    results = await outcomes(services, [request("A", "0.10") for _ in range(20)])
    assert accepted_in(results) == {"postgres"}
    behind.redis.resume()
    await recover(worker, services)
    assert accepted_in(await outcomes(services, [request("A", "0.10")])) == {"redis"}
    await eventually(lambda: not reservations(redis_client) or worker_swept(worker))
    assert (await services.ledger.balance("A")).available_minor == 790


async def worker_swept(worker: WorkerServices) -> bool:
    await worker.sweeper.step()
    return False


async def test_one_instance_without_redis_moves_all_and_none_spends_twice(
    settings: Settings, redis_client: Any, database: Any
) -> None:
    async with proxied(settings.redis.url) as (url, redis):
        cut_off = msgspec.structs.replace(
            settings, redis=msgspec.structs.replace(settings.redis, url=url, timeout_ms=300)
        )
        async with open_services(settings) as near, open_services(cut_off) as far:
            await near.ledger.open_account(
                AccountRequest(account_id="A", currency="USD", exponent=2, opening_minor=10_000)
            )
            await outcomes(near, [request("A", "1")])
            await outcomes(far, [request("A", "1")])
            redis.refuse()
            both = await asyncio.gather(
                outcomes(near, [request("A", "1") for _ in range(80)]),
                outcomes(far, [request("A", "1") for _ in range(80)]),
            )
            results = [result for part in both for result in part]
            accepted = [result for result in results if isinstance(result, Acceptance)]
            refused = [r for r in results if isinstance(r, errors.InsufficientAvailable)]
            assert (len(accepted), len(refused)) == (98, 62)
            await eventually(lambda: {mode_of(near), mode_of(far)} == {Mode.POSTGRES}, 3)
            assert (await near.ledger.balance("A")).available_minor == 0
    assert await database.fetchval("SELECT count(*) FROM ledger_epochs") == 2


async def test_without_traffic_a_dead_redis_is_noticed(settings: Settings) -> None:
    rules = msgspec.structs.replace(
        settings.reliability, health_interval_ms=50, probe_interval_ms=20
    )
    async with proxied(settings.redis.url) as (url, redis):
        there = msgspec.structs.replace(
            settings,
            redis=msgspec.structs.replace(settings.redis, url=url, timeout_ms=200),
            reliability=rules,
        )
        async with open_services(there) as services:
            assert mode_of(services) is Mode.REDIS
            redis.refuse()
            await eventually(lambda: mode_of(services) is Mode.POSTGRES)


async def test_with_redis_absent_the_service_starts_and_decides(
    settings: Settings, database: Any
) -> None:
    nowhere = msgspec.structs.replace(
        settings, redis=msgspec.structs.replace(settings.redis, url="redis://127.0.0.1:1")
    )
    async with serving(nowhere) as client:
        health = (await client.get("/health/ready")).json()
        assert (health["status"], health["mode"]) == ("degraded", "postgres")
        opening = {"account_id": "A", "opening_balance": "10"}
        assert (await client.post("/api/v1/accounts", json=opening)).status_code == 201
        body = {"account_id": "A", "amount": "4", "type": "debit"}
        answer = await client.post("/api/v1/transaction", json=body)
        assert (answer.status_code, answer.json()["mode"]) == (201, "postgres")


async def test_with_postgres_absent_the_service_waits_and_says_so(
    settings: Settings, postgres_server: EmbeddedPostgres, servers_folder: Any
) -> None:
    late = start_postgres(servers_folder / "late", print, durable=False)
    async with open_pool(late.url, 5_000, 1) as pool, pool.acquire() as connection:
        await migrate(connection)
    late.stop()
    there = msgspec.structs.replace(
        settings, postgres=msgspec.structs.replace(settings.postgres, url=late.url)
    )
    async with serving(there) as client:
        assert (await client.get("/health/live")).status_code == 200
        ready = await client.get("/health/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "unavailable")
        details = (await client.get("/health/detailed")).json()
        assert "PostgreSQL" in details["components"]["postgres"]["detail"]
        body = {"account_id": "A", "amount": "4", "type": "debit"}
        refused = await client.post("/api/v1/transaction", json=body)
        assert (refused.status_code, refused.json()["code"]) == (503, "starting")
        assert int(refused.headers["Retry-After"]) > 0
        late.start()

        async def is_ready() -> bool:
            return (await client.get("/health/ready")).status_code == 200

        await eventually(is_ready)
        opening = {"account_id": "A", "opening_balance": "10"}
        assert (await client.post("/api/v1/accounts", json=opening)).status_code == 201
        assert (await client.post("/api/v1/transaction", json=body)).status_code == 201
    late.stop()


async def test_a_postgres_that_dies_and_comes_back_leaves_no_reservation(
    settings: Settings, servers_folder: Any, redis_client: Any
) -> None:
    mortal = start_postgres(servers_folder / "mortal", print)
    async with open_pool(mortal.url, 5_000, 1) as pool, pool.acquire() as connection:
        await migrate(connection)
    there = msgspec.structs.replace(
        settings,
        postgres=msgspec.structs.replace(settings.postgres, url=mortal.url, timeout_ms=1_000),
        ledger=msgspec.structs.replace(settings.ledger, deadline_ms=1_500),
    )
    async with open_services(there) as services:
        await services.ledger.open_account(
            AccountRequest(account_id="A", currency="USD", exponent=2, opening_minor=10_000)
        )
        await outcomes(services, [request("A", "1")])
        mortal.kill()
        loop = asyncio.get_running_loop()
        started = loop.time()
        requests = [request("A", "1", idempotency_key=f"k{number}") for number in range(20)]
        results = await outcomes(services, requests)
        assert all(isinstance(r, errors.Unavailable | errors.OutcomeUnknown) for r in results)
        assert loop.time() - started < 10
        await asyncio.to_thread(mortal.start)

        async def all_accepted() -> bool:
            answers = await outcomes(services, requests)
            return all(isinstance(answer, Acceptance) for answer in answers)

        await eventually(all_accepted, 20)
        assert (await services.ledger.balance("A")).available_minor == 7_900
        epoch = (await services.ledger.health()).epoch
        await eventually(lambda: not redis_client.exists(f"subbalance:{{0}}:{epoch}:flight"))
        assert (await services.ledger.verify()).is_clean
    mortal.stop()


async def test_transactions_by_http_name_who_decided(
    settings: Settings, database: Any, redis_client: Any
) -> None:
    async with serving(settings) as client:
        opening = {"account_id": "A", "opening_balance": "10"}
        await client.post("/api/v1/accounts", json=opening)
        body = {"account_id": "A", "amount": "4", "type": "debit"}
        first = await send(client, body, "k")
        await database.execute(CONTROL, "force_postgres")
        second = await send(client, body, "l")
        assert (first.json()["mode"], second.json()["mode"]) == ("redis", "postgres")
        replay = await send(client, body, "k")
        assert replay.json() == first.json()


async def send(client: httpx.AsyncClient, body: dict[str, str], key: str) -> httpx.Response:
    return await client.post("/api/v1/transaction", json=body, headers={"Idempotency-Key": key})
