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
from app.infra.postgres import POSTGRES_ERRORS, open_pool
from app.ledger.codes import Mode
from app.ledger.model import Acceptance
from app.settings import Settings
from tests.conftest import OpenAccount, eventually, serving
from tests.failure.conftest import Behind, Processes, pipeline_of, reservations
from tests.failure.proxy import proxied
from tests.integration.test_transactions import outcomes, request


def mode_of(services: Services) -> Mode:
    return pipeline_of(services)._mode.current.mode


def accepted_in(results: list[Any]) -> set[str]:
    assert all(isinstance(result, Acceptance) for result in results), results
    return {result.transaction.mode.value for result in results}


async def recover(worker: WorkerServices, services: Services) -> None:
    """Probe until Redis decides again and the instance has learnt it."""

    async def is_back() -> bool:
        await worker.recovery.step()
        return mode_of(services) is Mode.REDIS

    await eventually(is_back)


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
            from app.ledger.model import AccountRequest

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


async def test_the_other_instances_learn_of_a_switch_without_traffic(
    settings: Settings, services: Services
) -> None:
    async with open_services(settings) as other:
        keeper = pipeline_of(other)._mode
        keeper._breaker._breaker.open()
        assert await keeper.fall_back(keeper.epoch)
        await eventually(lambda: mode_of(services) is Mode.POSTGRES, 3)


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
    from app.ledger.model import AccountRequest

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


async def test_a_process_that_idles_inside_a_journal_call_delays_a_switch_only_so_long(
    services: Services, settings: Settings, open_account: OpenAccount, database: Any
) -> None:
    """It holds the fence and sleeps; the server ends its session after the stated bound."""
    await open_account("A", "10.00")
    await services.ledger.post_transaction(request("A", "1"))
    keeper = pipeline_of(services)._mode
    ruling = keeper.current
    async with open_pool(settings.postgres.url, 5_000, 1) as pool:
        connection = await pool.acquire()
        await connection.execute("BEGIN")
        outcome = await connection.fetchval(
            "SELECT outcome FROM journal_batch_v2(0::smallint, $1, $2, 77, ARRAY[1::bigint],"
            " ARRAY[5::bigint], NULL, NULL, NULL, '{}', '{}', '{}')",
            ruling.epoch,
            ruling.token,
        )
        assert outcome == "journaled"
        keeper._breaker._breaker.open()
        async with asyncio.timeout(4):
            assert await keeper.fall_back(ruling.epoch)
        with pytest.raises(POSTGRES_ERRORS):
            await connection.execute("COMMIT")
        pool.terminate()
    assert not await database.fetchval("SELECT count(*) FROM journal_batches WHERE attempt_id = 77")
    answer = await services.ledger.post_transaction(request("A", "1"))
    assert answer.transaction.mode is Mode.POSTGRES


@pytest.mark.reliability(stable_after_ms=60_000)
async def test_a_redis_that_does_not_last_is_trusted_more_slowly_each_time(
    services: Services, worker: WorkerServices
) -> None:
    keeper = pipeline_of(services)._mode
    waits = []
    for _ in range(3):
        keeper._breaker._breaker.open()
        assert await keeper.fall_back(keeper.epoch)
        waits.append(await worker.recovery._wait_ms())
        opened = await keeper.open_redis(keeper.epoch, "redis is back")
        assert opened is not None
    assert waits == [1_000, 2_000, 4_000]


async def test_a_redis_that_lasts_is_trusted_at_once(
    services: Services, worker: WorkerServices, database: Any
) -> None:
    keeper = pipeline_of(services)._mode
    await database.execute("SET session_replication_role = replica")
    await database.execute("UPDATE ledger_epochs SET opened_at = opened_at - interval '1 hour'")
    keeper._breaker._breaker.open()
    assert await keeper.fall_back(keeper.epoch)
    assert await worker.recovery._wait_ms() == 0


async def test_keys_of_ended_epochs_are_removed_and_no_others(
    services: Services,
    worker: WorkerServices,
    open_account: OpenAccount,
    redis_client: Any,
) -> None:
    await open_account("A", "10.00")
    await services.ledger.post_transaction(request("A", "1"))
    redis_client.set("somebody:else", "1")
    keeper = pipeline_of(services)._mode
    await keeper.open_redis(keeper.epoch, "another")
    await services.ledger.post_transaction(request("A", "1"))
    epoch = keeper.epoch
    await eventually(worker.sweeper.step)
    left = set(redis_client.keys("*"))
    assert "somebody:else" in left
    ours = {key for key in left if key.startswith("subbalance:")}
    assert ours
    assert all(f":{epoch}" in key for key in ours)
    assert (await services.ledger.verify()).is_clean


async def test_two_workers_and_two_instances_open_one_epoch_each_time(
    settings: Settings, services: Services, database: Any
) -> None:
    keepers = [pipeline_of(services)._mode]
    async with open_services(settings) as other:
        keepers.append(pipeline_of(other)._mode)
        for keeper in keepers:
            keeper._breaker._breaker.open()
        epoch = keepers[0].epoch
        assert all(await asyncio.gather(*(keeper.fall_back(epoch) for keeper in keepers)))
        opened = await asyncio.gather(
            *(keeper.open_redis(epoch + 1, "redis is back") for keeper in keepers)
        )
        assert sum(ruling is not None for ruling in opened) == 1
    assert await database.fetchval("SELECT count(*) FROM ledger_epochs") == 3


async def test_the_worker_takes_over_from_one_that_was_paused(
    settings: Settings, processes: Processes, database: Any
) -> None:
    import signal

    leads = (
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 7303 AND granted"
    )
    first = processes.start("app.workers")
    await eventually(lambda: database.fetchval(leads), 20)
    holder = "SELECT pid FROM pg_locks WHERE classid = 7303 AND granted"
    before = await database.fetchval(holder)
    processes.start("app.workers")
    first.process.send_signal(signal.SIGSTOP)

    async def taken_over() -> bool:
        return await database.fetchval(holder) not in (None, before)

    await eventually(taken_over, 30)


async def test_transactions_by_http_name_who_decided(
    settings: Settings, database: Any, redis_client: Any
) -> None:
    async with serving(settings) as client:
        opening = {"account_id": "A", "opening_balance": "10"}
        await client.post("/api/v1/accounts", json=opening)
        body = {"account_id": "A", "amount": "4", "type": "debit"}
        first = await send(client, body, "k")
        await database.execute(
            "SELECT control_ledger_v1(0::smallint, 'force_postgres', 'test', 'test')"
        )
        second = await send(client, body, "l")
        assert (first.json()["mode"], second.json()["mode"]) == ("redis", "postgres")
        replay = await send(client, body, "k")
        assert replay.json() == first.json()


async def send(client: httpx.AsyncClient, body: dict[str, str], key: str) -> httpx.Response:
    return await client.post("/api/v1/transaction", json=body, headers={"Idempotency-Key": key})


async def test_a_redis_whose_epoch_is_over_refuses_nothing_for_good(
    settings: Settings, behind: Behind
) -> None:
    """One instance is cut off from PostgreSQL while the others, without Redis, go on."""
    async with open_services(settings) as near:
        balance = await near.ledger.balance("A")
        everything = f"{balance.available_minor // 100}.00"
        await near.ledger.post_transaction(request("A", everything))
        behind.postgres.stall()
        keeper = pipeline_of(near)._mode
        keeper._breaker._breaker.open()
        assert await keeper.fall_back(keeper.epoch)
        await near.ledger.post_transaction(request("A", "10.00", "credit"))
        with pytest.raises(errors.Unavailable):
            await behind.services.ledger.post_transaction(request("A", "1.00"))
        behind.postgres.resume()

        async def accepted() -> bool:
            (answer,) = await outcomes(behind.services, [request("A", "1.00")])
            return isinstance(answer, Acceptance)

        await eventually(accepted)


@pytest.mark.parametrize("how", ["alone", "atomic", "one_key"])
async def test_an_instance_that_missed_a_switch_decides_anew_instead_of_refusing(
    settings: Settings, services: Services, open_account: OpenAccount, how: str
) -> None:
    await open_account("A", "10.00")
    await services.ledger.post_transaction(request("A", "10"))
    async with open_services(settings) as near:
        keeper = pipeline_of(near)._mode
        keeper._breaker._breaker.open()
        deaf = pipeline_of(services)._mode
        learn, deaf.learn = deaf.learn, None  # type: ignore[assignment, method-assign]
        assert await keeper.fall_back(keeper.epoch)
        await near.ledger.post_transaction(request("A", "5.00", "credit"))
        if how == "alone":
            answer = await services.ledger.post_transaction(request("A", "5.00"))
        else:
            key = None if how == "atomic" else "k"
            (answer,) = await services.ledger.post_transactions(
                [request("A", "5.00")], key, atomic=how == "atomic"
            )
        deaf.learn = learn  # type: ignore[method-assign]
    assert isinstance(answer, Acceptance)
    assert answer.transaction.mode is Mode.POSTGRES


async def test_forced_to_redis_while_postgres_decides_it_survives_a_restart_of_postgres(
    services: Services, open_account: OpenAccount, database: Any
) -> None:
    control = "SELECT control_ledger_v1(0::smallint, $1, 'test', 'test')"
    await open_account("A", "10.00")
    await database.execute(control, "force_postgres")
    await database.execute(control, "force_redis")
    assert accepted_in(await outcomes(services, [request("A", "1")])) == {"postgres"}
    await database.execute("UPDATE ledger_shards SET postgres_identity = 'before the restart'")
    assert accepted_in(await outcomes(services, [request("A", "1")])) == {"postgres"}


@pytest.mark.parametrize("mode", ["redis", "postgres"])
async def test_a_repeated_part_is_answered_with_the_ids_it_had_whoever_decided_it(
    services: Services, open_account: OpenAccount, database: Any, mode: str
) -> None:
    """An item that is refused before one that is accepted has a number or none."""
    await open_account("A", "100.00")
    await database.execute("SELECT control_ledger_v1(0::smallint, $1, 't', 't')", f"force_{mode}")
    asked = [request("A", amount) for amount in ("60", "60", "30", "11", "10")]
    first, again = [
        await services.ledger.post_transactions(asked, "k", atomic=False) for _ in range(2)
    ]
    pairs = list(zip(first, again, strict=True))
    assert [isinstance(one, Acceptance) for one, _ in pairs] == [True, False, True, False, True]
    for one, two in pairs:
        if not isinstance(one, Acceptance):
            assert isinstance(one, errors.InsufficientAvailable)
            assert str(one.members) == str(getattr(two, "members", None))
            continue
        assert isinstance(two, Acceptance)
        assert (one.replayed, two.replayed) == (False, True)
        assert one.transaction == two.transaction
        assert one.transaction.mode == mode
        found = await services.ledger.transaction(two.transaction.transaction_id)
        assert found.change_minor == two.transaction.change_minor
    assert (await services.ledger.balance("A")).available_minor == 0


@pytest.mark.parametrize("pause_s", [0.03, 0.3])
async def test_instances_wait_for_a_token_that_is_about_to_be_written(
    services: Services,
    worker: WorkerServices,
    open_account: OpenAccount,
    database: Any,
    pause_s: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They learn of the epoch before the worker has written its token."""
    await open_account("A", "100.00")
    await database.execute("SELECT control_ledger_v1(0::smallint, 'force_postgres', 't', 't')")
    await database.execute("SELECT control_ledger_v1(0::smallint, 'automatic', 't', 't')")
    write = worker.recovery._mode._write_token

    async def write_late(*arguments: Any) -> bool:
        await asyncio.sleep(pause_s)
        return await write(*arguments)

    monkeypatch.setattr(worker.recovery._mode, "_write_token", write_late)
    posting = True

    async def post() -> None:
        while posting:
            await services.ledger.post_transaction(request("A", "0.01"))

    traffic = asyncio.create_task(post())
    await recover(worker, services)
    await asyncio.sleep(0.5)
    posting = False
    await traffic
    assert mode_of(services) is Mode.REDIS
    modes = await database.fetch("SELECT mode FROM ledger_epochs ORDER BY epoch")
    assert [row["mode"] for row in modes] == ["redis", "postgres", "redis"]
