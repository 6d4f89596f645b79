"""A change of an account is interrupted: lost replies, late copies, deaths, switches, losses."""

import asyncio
from typing import Any

import asyncpg
import pytest

from app import errors, limits
from app.bootstrap import Services, WorkerServices
from app.ledger.codes import Frozen, Mode
from app.ledger.mode import PROTOCOL_VERSION
from app.ledger.model import Acceptance, AccountChange
from app.ledger.reaper import ReapedCount
from app.settings import Settings
from tests.conftest import OpenAccount, eventually
from tests.failure.changing import (
    before_its,
    changes_left,
    died_before_its,
    frozen,
    held_before_its,
    is_stopped,
    limited,
    rule_all_by,
    stop_of,
    tried,
)
from tests.failure.conftest import (
    AGE_S,
    Behind,
    Clock,
    account_fields,
    account_key,
    pipeline_of,
    reaped_later,
    reservations,
)
from tests.failure.interruptions import held_before_its_journal
from tests.failure.modes import MODES, fall_back, mode_of, recover
from tests.integration.test_transactions import outcomes, request

# Where a reply is lost, and what the request to it carries on the wire.
STOP, RELOAD, DECIDE = b".changes", b"decided", b"mark-of-the-change"


@pytest.mark.parametrize(
    ("where", "marker", "times"),
    [
        ("redis", STOP, 1),
        ("redis", STOP, 2),
        ("redis", RELOAD, 1),
        ("redis", RELOAD, 2),
        ("postgres", DECIDE, 1),
        ("postgres", DECIDE, 2),
    ],
)
async def test_a_reply_that_is_lost_changes_nothing_twice(
    behind: Behind, redis_client: Any, database: Any, where: str, marker: bytes, times: int
) -> None:
    proxy = getattr(behind, where)
    proxy.lose_reply_to(marker, times)
    change = AccountChange(frozen=Frozen.DEBIT, metadata={"m": DECIDE.decode()})
    details = await behind.services.ledger.change_account("A", change)
    assert proxy.lost_count == times
    assert (details.frozen, details.config_version) == ("debit", 2)
    assert isinstance(await tried(behind.services, "1"), errors.AccountFrozen)
    assert (stop_of(redis_client), changes_left(redis_client)) == ("debit", 0)
    assert await database.fetchval("SELECT count(*) FROM account_changes") == 1


async def test_late_copies_of_a_change_do_nothing_to_redis(
    behind: Behind, redis_client: Any
) -> None:
    behind.redis.hold(STOP)
    await frozen(behind.services)
    behind.redis.hold(RELOAD)
    await frozen(behind.services, "none")
    assert behind.redis.held_count == 2
    await tried(behind.services, "1")
    await eventually(lambda: not reservations(redis_client))
    before = account_fields(redis_client)
    await behind.redis.deliver()
    assert account_fields(redis_client) == before
    assert changes_left(redis_client) == 0
    assert isinstance(await tried(behind.services, "1"), Acceptance)


async def test_an_outcome_that_stays_unknown_is_said_to_be_and_ended_by_the_reaper(
    behind: Behind, worker: WorkerServices, clock: Clock, redis_client: Any
) -> None:
    behind.postgres.lose_reply_to(b"decided-by-whom")
    change = AccountChange(metadata={"m": "decided-by-whom"})
    call = asyncio.create_task(behind.services.ledger.change_account("A", change))
    await eventually(lambda: behind.postgres.lost_count == 1)
    behind.postgres.stall()
    with pytest.raises(errors.ChangeOutcomeUnknown):
        await call
    assert is_stopped(redis_client)
    behind.postgres.resume()
    assert await reaped_later(worker, clock) == ReapedCount(changes=1)
    assert stop_of(redis_client) == ""
    assert isinstance(await tried(behind.services, "1"), Acceptance)


@pytest.mark.parametrize(
    ("step", "kind"), [("_drained", "none"), ("_decide", "none"), ("_show", "debit")]
)
async def test_a_change_whose_process_died_is_ended_by_the_reaper(
    services: Services,
    other: Services,
    worker: WorkerServices,
    clock: Clock,
    open_account: OpenAccount,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    kind: str,
) -> None:
    await open_account("A", "10.00")
    await died_before_its(services, step, monkeypatch)
    assert is_stopped(redis_client)
    waiting = asyncio.create_task(tried(other, "1"))
    assert await worker.reaper.step() == ReapedCount()
    clock.now = AGE_S - 0.1
    assert await worker.reaper.step() == ReapedCount()
    assert is_stopped(redis_client)
    assert not waiting.done()
    clock.now = AGE_S
    assert await worker.reaper.step() == ReapedCount(changes=1)
    assert (await other.ledger.account("A")).frozen == kind
    is_frozen = kind != "none"
    assert stop_of(redis_client) == (kind if is_frozen else "")
    assert changes_left(redis_client) == 0
    assert isinstance(await waiting, errors.AccountFrozen if is_frozen else Acceptance)


async def test_a_change_that_the_reaper_took_for_dead_changes_nothing_of_what_went_on(
    services: Services,
    other: Services,
    worker: WorkerServices,
    clock: Clock,
    open_account: OpenAccount,
    redis_client: Any,
    database: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It sleeps after it found the account drained; meanwhile the limit is used."""
    await open_account("A", credit_limit_minor=1_000)
    stopped, going = held_before_its(services, "_decide", monkeypatch)
    change = asyncio.create_task(limited(services, "0"))
    await stopped.wait()
    assert await reaped_later(worker, clock) == ReapedCount(changes=1)
    # Held before its journal, so that PostgreSQL does not know of it yet.
    async with held_before_its_journal(other, monkeypatch) as go_on:
        debit = asyncio.create_task(tried(other, "10"))
        await eventually(lambda: reservations(redis_client))
        going.set()
        await eventually(lambda: is_stopped(redis_client))
        go_on()
        assert isinstance(await debit, Acceptance)
    with pytest.raises(errors.LimitInUse):
        await change
    assert (await services.ledger.balance("A")).available_minor == 0
    words = await database.fetch("SELECT outcome FROM account_changes ORDER BY attempt_id")
    assert [row["outcome"] for row in words] == ["void", "limit_in_use"]


@pytest.mark.parametrize("step", ["_stop", "_drained", "_decide", "_show"])
async def test_a_switch_in_the_middle_leaves_one_change_in_force_everywhere(
    services: Services,
    other: Services,
    worker: WorkerServices,
    open_account: OpenAccount,
    database: Any,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    await open_account("A", "10.00")
    await tried(services, "1")

    async def switch() -> None:
        await fall_back(other)

    before_its(services, step, monkeypatch, switch)
    details = await frozen(services)
    assert (details.frozen, details.config_version) == ("debit", 2)
    assert mode_of(other) is Mode.POSTGRES
    for each in (services, other):
        assert isinstance(await tried(each, "1"), errors.AccountFrozen)
    await recover(worker, services)
    for each in (services, other):
        assert isinstance(await tried(each, "1"), errors.AccountFrozen)
    assert (
        await database.fetchval("SELECT count(*) FROM account_changes WHERE outcome = 'changed'")
        == 1
    )
    assert (await services.ledger.verify()).is_clean


async def test_a_flush_in_the_middle_of_a_change_is_another_epoch(
    services: Services,
    open_account: OpenAccount,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await open_account("A", "10.00")

    async def flush() -> None:
        redis_client.flushall()

    for step in ("_stop", "_drained", "_decide", "_show"):
        before_its(services, step, monkeypatch, flush)
        assert (await frozen(services)).frozen == "debit"
        assert isinstance(await tried(services, "1"), errors.AccountFrozen)
        assert (await frozen(services, "none")).frozen == "none"
        assert isinstance(await tried(services, "1"), Acceptance)


async def test_an_account_that_redis_lost_inside_a_change_is_another_epoch(
    services: Services,
    open_account: OpenAccount,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await open_account("A", "10.00")

    async def lose() -> None:
        redis_client.delete(account_key(redis_client))

    for step in ("_stop", "_drained", "_show"):
        before_its(services, step, monkeypatch, lose)
        await frozen(services)
        assert isinstance(await tried(services, "1"), errors.AccountFrozen)
        redis_client.flushall()
        await frozen(services, "none")


async def test_an_account_stopped_for_nobody_is_found_and_let_go(
    services: Services, worker: WorkerServices, open_account: OpenAccount, redis_client: Any
) -> None:
    """The record of its change is gone, so the reaper does not see it."""
    await open_account("A", "10.00")
    await tried(services, "1")
    redis_client.hset(account_key(redis_client), "stop", "changing 5 ")
    verification = await services.ledger.verify()
    assert {mismatch.kind for mismatch in verification.mismatches} == {"redis_stop"}
    epoch = pipeline_of(services)._mode.epoch
    await frozen(services, "credit")
    assert pipeline_of(services)._mode.epoch > epoch
    assert isinstance(await tried(services, "1"), Acceptance)
    assert (await services.ledger.verify()).is_clean


async def test_verification_leaves_an_account_out_while_it_is_changed(
    services: Services,
    other: Services,
    open_account: OpenAccount,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await open_account("A", "10.00")
    found = []

    async def verify() -> None:
        found.append(await other.ledger.verify())

    before_its(services, "_show", monkeypatch, verify)
    await limited(services, "5")
    assert found[0].is_clean
    redis_client.hset(account_key(redis_client), "stop", "debit")
    verification = await services.ledger.verify()
    assert [(each.kind, each.expected, each.found) for each in verification.mismatches] == [
        ("redis_stop", "''", "'debit'")
    ]


async def test_an_epoch_that_older_processes_decide_in_is_ended_before_an_account_is_changed(
    services: Services, open_account: OpenAccount, database: Any
) -> None:
    """They know nothing of stops and of what is frozen."""
    await open_account("A", "10.00")
    await tried(services, "1")
    await database.execute("UPDATE ledger_shards SET protocol_version = 3")
    epoch = pipeline_of(services)._mode.epoch
    assert (await frozen(services)).frozen == "debit"
    assert pipeline_of(services)._mode.epoch > epoch
    assert await database.fetchval("SELECT protocol_version FROM ledger_shards") == (
        PROTOCOL_VERSION
    )
    assert isinstance(await tried(services, "1"), errors.AccountFrozen)


async def test_more_changes_than_may_be_under_way_are_refused_at_once(
    services: Services, open_account: OpenAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    await open_account("A", "10.00")
    monkeypatch.setattr(limits, "CHANGES_MAX", 2)
    kinds = ("debit", "credit", "all")
    results = await asyncio.gather(
        *(frozen(services, kind) for kind in kinds), return_exceptions=True
    )
    assert [type(result).__name__ for result in results] == [
        "AccountDetails",
        "AccountDetails",
        "Overloaded",
    ]


async def test_a_caller_that_goes_away_leaves_no_account_stopped(
    services: Services,
    open_account: OpenAccount,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await open_account("A", "10.00")
    _, going = held_before_its(services, "_drained", monkeypatch)
    call = asyncio.create_task(frozen(services))
    await eventually(lambda: is_stopped(redis_client))
    call.cancel()
    going.set()
    await eventually(lambda: stop_of(redis_client) == "debit")
    assert changes_left(redis_client) == 0


async def test_what_was_refused_beside_others_does_not_hold_a_change_up(
    services: Services, open_account: OpenAccount, redis_client: Any
) -> None:
    """What waits for an account is asked again and again, in batches that hold other accounts."""
    for name in ("A", "B"):
        await open_account(name, "10.00")
    await outcomes(services, [request("A", "1"), request("B", "1")])
    a, b = (account_key(redis_client, name) for name in ("A", "B"))
    refused = '[[1],["account_changing"],["900"],[]]'
    record = "\n".join((refused, f"{a} {b}", "1 -100 1 -100", "- -"))
    redis_client.hset(f"{a.partition('account:')[0]}flight", "77", record)
    assert (await frozen(services)).frozen is Frozen.DEBIT
    with pytest.raises(errors.AccountBusy):
        await frozen(services, account_id="B")


@MODES
async def test_a_change_waits_for_the_row_outside_the_fence(
    services: Services, open_account: OpenAccount, database: Any, settings: Settings, mode: Mode
) -> None:
    """A settlement may have the row for long, and who waits in the fence holds up every switch."""
    for name in ("A", "B"):
        await open_account(name, "10.00")
    await rule_all_by(mode, database, services)
    settling = await asyncpg.connect(settings.postgres.url)
    try:
        row = settling.transaction()
        await row.start()
        await settling.execute("SELECT FROM accounts WHERE account_id = 'A' FOR UPDATE")
        change = asyncio.create_task(frozen(services))
        for _ in range(5):
            await asyncio.sleep(0.05)
            async with database.transaction():
                await database.execute("SET LOCAL lock_timeout = '1s'")
                await database.execute("SELECT pg_advisory_xact_lock(fence_class_v1(), 0)")
        assert not change.done()
        await row.rollback()
        assert (await change).frozen is Frozen.DEBIT
    finally:
        await settling.close()
    assert await database.fetchval("SELECT count(*) FROM account_changes") == 1


async def test_a_change_whose_account_cannot_be_read_afterwards_is_not_called_undone(
    services: Services, open_account: OpenAccount, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await open_account("A", "10.00")
    await rule_all_by(Mode.POSTGRES, database, services)

    async def gone() -> None:
        async def unreachable(*_arguments: Any) -> None:
            raise errors.PostgresUnavailable

        monkeypatch.setattr(services.ledger._changes, "_read", unreachable)

    before_its(services, "_learn", monkeypatch, gone)
    with pytest.raises(errors.ChangeOutcomeUnknown):
        await frozen(services)
    assert await database.fetchval("SELECT frozen FROM accounts WHERE account_id = 'A'") == "debit"
