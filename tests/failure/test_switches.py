"""Who decides changes: every instance follows, and nothing is decided twice or refused for good."""

import asyncio
import signal
from typing import Any

import httpx
import pytest

from app import errors
from app.api.starting import Opening
from app.bootstrap import Services, WorkerServices, open_services
from app.infra.postgres import POSTGRES_ERRORS, open_pool
from app.ledger.codes import Mode
from app.ledger.mode import PROTOCOL_VERSION
from app.ledger.model import Acceptance
from app.ledger.reaper import ReapedCount
from app.settings import Settings
from tests.conftest import OpenAccount, eventually
from tests.failure.conftest import (
    Behind,
    Clock,
    Processes,
    account_key,
    pipeline_of,
    put_in_flight,
    reaped_later,
    reservations,
)
from tests.failure.modes import accepted_in, fall_back, mode_of, recover
from tests.integration.test_controls import CONTROL
from tests.integration.test_transactions import outcomes, request


async def test_the_other_instances_learn_of_a_switch_without_traffic(
    settings: Settings, services: Services
) -> None:
    async with open_services(settings) as other:
        await fall_back(other)
        await eventually(lambda: mode_of(services) is Mode.POSTGRES, 3)


async def test_a_process_that_idles_inside_a_journal_call_delays_a_switch_only_so_long(
    services: Services, settings: Settings, open_account: OpenAccount, database: Any
) -> None:
    """It holds the fence and sleeps; the server ends its session after the stated bound."""
    await open_account("A", "10.00")
    await services.ledger.post_transaction(request("A", "1"))
    ruling = pipeline_of(services)._mode.current
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
        async with asyncio.timeout(4):
            await fall_back(services)
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
        await fall_back(services)
        waits.append(await worker.recovery._wait_ms())
        opened = await keeper.open_redis(keeper.epoch, "redis is back")
        assert opened is not None
    assert waits == [1_000, 2_000, 4_000]


async def test_a_redis_that_lasts_is_trusted_at_once(
    services: Services, worker: WorkerServices, database: Any
) -> None:
    await database.execute("SET session_replication_role = replica")
    await database.execute("UPDATE ledger_epochs SET opened_at = opened_at - interval '1 hour'")
    await fall_back(services)
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


async def test_a_redis_whose_epoch_is_over_refuses_nothing_for_good(
    settings: Settings, behind: Behind
) -> None:
    """One instance is cut off from PostgreSQL while the others, without Redis, go on."""
    async with open_services(settings) as near:
        balance = await near.ledger.balance("A")
        everything = f"{balance.available_minor // 100}.00"
        await near.ledger.post_transaction(request("A", everything))
        behind.postgres.stall()
        await fall_back(near)
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
        deaf = pipeline_of(services)._mode
        learn, deaf.learn = deaf.learn, None  # type: ignore[assignment, method-assign]
        await fall_back(near)
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
    await open_account("A", "10.00")
    await database.execute(CONTROL, "force_postgres")
    await database.execute(CONTROL, "force_redis")
    assert accepted_in(await outcomes(services, [request("A", "1")])) == {"postgres"}
    await database.execute("UPDATE ledger_shards SET postgres_identity = 'before the restart'")
    assert accepted_in(await outcomes(services, [request("A", "1")])) == {"postgres"}


@pytest.mark.parametrize("mode", ["redis", "postgres"])
async def test_a_repeated_part_is_answered_with_the_ids_it_had_whoever_decided_it(
    services: Services, open_account: OpenAccount, database: Any, mode: str
) -> None:
    """An item that is refused before one that is accepted has a number or none."""
    await open_account("A", "100.00")
    await database.execute(CONTROL, f"force_{mode}")
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
    await database.execute(CONTROL, "force_postgres")
    await database.execute(CONTROL, "automatic")
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


async def newer_process_rules(database: Any, mode: Mode) -> None:
    """Open an epoch as the first process of a newer version does."""
    await database.execute(
        "SELECT open_epoch_v1(shard, epoch, $1, redis_run_id, redis_replication_id, 'newer', $2,"
        " 'a newer version') FROM ledger_shards",
        mode,
        PROTOCOL_VERSION + 1,
    )


@pytest.mark.parametrize("mode", [Mode.REDIS, Mode.POSTGRES])
async def test_an_instance_of_an_older_version_decides_nothing_and_is_not_ready(
    api: httpx.AsyncClient, database: Any, mode: Mode
) -> None:
    """Whoever balances the load sends its clients elsewhere, and they may ask again there."""
    credit = {"account_id": "A", "amount": "1", "type": "credit"}
    await api.post("/api/v1/accounts", json={"account_id": "A"})
    assert (await api.post("/api/v1/transaction", json=credit)).status_code == 201
    await newer_process_rules(database, mode)
    for _ in range(2):
        refused = await api.post("/api/v1/transaction", json=credit)
        assert (refused.status_code, refused.json()["code"]) == (503, "instance_outdated")
        assert refused.headers["retry-after"]
        opening = await api.post("/api/v1/accounts", json={"account_id": "B"})
        assert (opening.status_code, opening.json()["code"]) == (503, "instance_outdated")
    assert (await api.get("/api/v1/accounts/B")).status_code == 404
    for method, path, body in (
        ("POST", "/api/v1/transaction", credit),
        ("POST", "/api/v1/transactions", {"transactions": [credit]}),
        ("POST", "/api/v1/accounts", {"account_id": "B"}),
        ("PATCH", "/api/v1/accounts/A", {"frozen": "all"}),
    ):
        foreseen = await api.request(method, f"{path}?dry_run=true", json=body)
        assert (foreseen.status_code, foreseen.json()["code"]) == (503, "instance_outdated")
    assert (await api.get("/health/ready")).status_code == 503
    assert (await api.get("/api/v1/balance/A")).json()["available_balance"] == "1.00"
    recorded = await database.fetchrow("SELECT epoch, redis_token FROM ledger_shards")
    assert tuple(recorded) == (2, "newer")


async def test_an_instance_of_an_older_version_does_not_start(
    settings: Settings, services: Services, database: Any
) -> None:
    await newer_process_rules(database, Mode.REDIS)
    opening = Opening(settings, lambda *_: None)
    with pytest.raises(errors.InstanceOutdated):
        await opening.first_attempt()
    await opening.close()


async def older_process_ruled(database: Any) -> None:
    """Make the recorded epoch one that a process of an older version opened."""
    await database.execute("UPDATE ledger_shards SET protocol_version = $1", PROTOCOL_VERSION - 1)


async def test_what_an_older_version_closed_is_decided_in_an_epoch_of_the_newer_one(
    services: Services, open_account: OpenAccount, database: Any
) -> None:
    """Else both would decide after `resume`, each by its own rules."""
    await open_account("A", "10.00")
    await database.execute(CONTROL, "read_only")
    await eventually(lambda: mode_of(services) is Mode.CLOSED)
    await older_process_ruled(database)
    resumed = await database.fetchval(CONTROL, "resume")
    await eventually(lambda: mode_of(services) is not Mode.CLOSED)
    await services.ledger.post_transaction(request("A", "1"))
    ruling = await database.fetchrow("SELECT epoch, protocol_version FROM ledger_shards")
    assert (ruling["epoch"] > resumed, ruling["protocol_version"]) == (True, PROTOCOL_VERSION)


async def test_a_worker_touches_nothing_in_redis_in_an_epoch_of_an_older_version(
    services: Services,
    worker: WorkerServices,
    clock: Clock,
    open_account: OpenAccount,
    database: Any,
    redis_client: Any,
) -> None:
    """Its loop that ends holds opens an epoch of its own, and then it may."""
    await open_account("A", "10.00")
    await services.ledger.post_transaction(request("A", "1"))
    await eventually(lambda: not reservations(redis_client))
    key = account_key(redis_client)
    put_in_flight(redis_client, key, 7, -100)
    before = redis_client.hgetall(key)
    await older_process_ruled(database)
    assert await reaped_later(worker, clock) == ReapedCount()
    assert (await worker.settler.settle()).entries == 2
    assert redis_client.hgetall(key) == before
    await worker.expiry.step()
    assert await database.fetchval("SELECT protocol_version FROM ledger_shards") == PROTOCOL_VERSION
