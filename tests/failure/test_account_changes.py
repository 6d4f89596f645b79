"""Accounts are changed under traffic and faults: exact, everywhere at once, and never for ever."""

import asyncio
from typing import Any

import pytest

from app import errors, limits
from app.bootstrap import Services, WorkerServices
from app.ledger.codes import Mode
from app.ledger.model import Acceptance
from app.ledger.reaper import ReapedCount
from tests.conftest import OpenAccount, eventually
from tests.failure.changing import (
    changes_left,
    closed,
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
    Behind,
    Clock,
    account_fields,
    account_key,
    pipeline_of,
    put_in_flight,
    reaped_later,
    records,
    reservations,
)
from tests.failure.interruptions import held_before_its_journal
from tests.failure.modes import MODES, mode_of
from tests.integration.test_transactions import outcomes, request


class Traffic:
    """Debits without pause from several instances, each with whether it began after an event."""

    def __init__(self, amount: str, *instances: Services) -> None:
        self.event, self._end = asyncio.Event(), asyncio.Event()
        self.results: list[tuple[bool, Any]] = []
        self._tasks = [
            asyncio.create_task(self._post(services, amount))
            for services in instances
            for _ in range(3)
        ]

    async def _post(self, services: Services, amount: str) -> None:
        while not self._end.is_set():
            began_after = self.event.is_set()
            self.results.append((began_after, await tried(services, amount)))

    async def flows(self, count: int = 20) -> None:
        """Wait until so many more are answered that begin from now on."""
        seen = len(self.results) + len(self._tasks) + count
        await eventually(lambda: len(self.results) >= seen)

    async def end(self) -> None:
        self._end.set()
        await asyncio.gather(*self._tasks)


@MODES
async def test_no_debit_that_begins_after_a_freeze_is_accepted_by_any_instance(
    services: Services, other: Services, open_account: OpenAccount, database: Any, mode: Mode
) -> None:
    await open_account("A", "100000")
    await rule_all_by(mode, database, services, other)
    traffic = Traffic("0.01", services, other)
    await traffic.flows()
    await frozen(services)
    traffic.event.set()
    await traffic.flows()
    await traffic.end()
    late = [result for began_after, result in traffic.results if began_after]
    early = [result for began_after, result in traffic.results if not began_after]
    assert all(isinstance(result, errors.AccountFrozen) for result in late), late
    assert any(isinstance(result, Acceptance) for result in early)
    assert {type(result) for result in early} <= {Acceptance, errors.AccountFrozen}
    assert isinstance(await tried(other, "1", "credit"), Acceptance)
    assert mode_of(services) is mode
    assert (await services.ledger.verify()).is_clean


@MODES
async def test_a_limit_that_is_lowered_under_debits_is_never_overdrawn(
    services: Services,
    other: Services,
    worker: WorkerServices,
    open_account: OpenAccount,
    database: Any,
    mode: Mode,
) -> None:
    await open_account("A", credit_limit_minor=200_000)
    await rule_all_by(mode, database, services, other)
    epoch = pipeline_of(services)._mode.epoch
    traffic = Traffic("0.07", services, other)
    lowered = 0
    for limit in ("1000", "500", "40", "20", "10", "5", "2.50", "1.23", "1"):
        await traffic.flows(10)
        try:
            await limited(other if lowered % 2 else services, limit)
        except errors.LimitInUse:
            break
        lowered += 1
        assert (await services.ledger.balance("A")).available_minor >= 0
    await traffic.flows(5)
    await traffic.end()
    assert lowered
    balance = await services.ledger.balance("A")
    assert balance.available_minor >= 0
    await worker.settler.settle()
    assert (await services.ledger.balance("A")).settled_minor >= -balance.credit_limit_minor
    assert (await services.ledger.verify()).is_clean
    assert pipeline_of(services)._mode.epoch == epoch


@MODES
async def test_of_a_close_and_a_credit_at_once_exactly_one_wins(
    services: Services, other: Services, open_account: OpenAccount, database: Any, mode: Mode
) -> None:
    await rule_all_by(mode, database, services, other)
    for number in range(12):
        name = f"A{number}"
        await open_account(name)
        if number % 2:
            await outcomes(other, [request(name, "1", "credit"), request(name, "1")])
        credit = request(name, "1", "credit")
        close, credited = await asyncio.gather(
            closed(services, name), other.ledger.post_transaction(credit), return_exceptions=True
        )
        pair = (type(close).__name__, type(credited).__name__)
        assert pair in (
            ("AccountDetails", "AccountClosed"),
            ("AccountNotEmpty", "Acceptance"),
        ), pair
        assert (await services.ledger.account(name)).closed == (pair[0] == "AccountDetails")


async def test_a_change_waits_for_what_is_in_flight_and_decides_with_it(
    services: Services,
    other: Services,
    open_account: OpenAccount,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await open_account("A", credit_limit_minor=1_000)
    epoch = pipeline_of(services)._mode.epoch
    async with held_before_its_journal(services, monkeypatch) as go_on:
        debit = asyncio.create_task(tried(services, "10"))
        await eventually(lambda: reservations(redis_client))
        change = asyncio.create_task(limited(other, "9.99"))
        await eventually(lambda: is_stopped(redis_client))
        waiting = asyncio.create_task(tried(other, "10"))
        done, _ = await asyncio.wait({change, waiting}, timeout=0.2)
        assert not done
        go_on()
        assert isinstance(await debit, Acceptance)
        with pytest.raises(errors.LimitInUse):
            await change
    assert isinstance(await waiting, errors.InsufficientAvailable)
    assert (await services.ledger.balance("A")).available_minor == 0
    assert pipeline_of(services)._mode.epoch == epoch
    assert (stop_of(redis_client), changes_left(redis_client)) == ("", 0)


async def test_a_debit_in_flight_whose_record_redis_lost_is_noticed(
    services: Services,
    other: Services,
    open_account: OpenAccount,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It could still be journaled, so the limit it needs may not go in this epoch."""
    await open_account("A", credit_limit_minor=1_000)
    async with held_before_its_journal(services, monkeypatch) as go_on:
        debit = asyncio.create_task(tried(services, "10"))
        await eventually(lambda: reservations(redis_client))
        (flight,) = redis_client.keys("subbalance:*:flight")
        redis_client.delete(flight)
        assert (await limited(other, "0")).credit_limit_minor == 0
        go_on()
        assert isinstance(await debit, errors.InsufficientAvailable)
    assert (await services.ledger.balance("A")).available_minor == 0


async def test_after_such_a_loss_the_reaper_does_not_give_back_what_is_in_flight(
    services: Services,
    other: Services,
    worker: WorkerServices,
    clock: Clock,
    open_account: OpenAccount,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PostgreSQL's figure has no debit in flight in it, and nobody learnt that the two differ."""
    await open_account("A", "10.00")
    async with held_before_its_journal(services, monkeypatch) as go_on:
        debit = asyncio.create_task(tried(services, "10"))
        await eventually(lambda: reservations(redis_client))
        (flight,) = redis_client.keys("subbalance:*:flight")
        redis_client.delete(flight)
        await died_before_its(other, "_learn", monkeypatch)
        assert await reaped_later(worker, clock) == ReapedCount(changes=1)
        assert (account_fields(redis_client)["available"], stop_of(redis_client)) == ("0", "")
        go_on()
        assert isinstance(await debit, Acceptance)
    assert isinstance(await tried(other, "10"), errors.InsufficientAvailable)


async def test_what_is_in_flight_for_too_long_makes_the_account_busy(
    services: Services,
    open_account: OpenAccount,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await open_account("A", "10.00")
    await tried(services, "1")
    monkeypatch.setattr(limits, "CHANGE_WAIT_S", 0.3)
    put_in_flight(redis_client, account_key(redis_client), 5, -100)
    with pytest.raises(errors.AccountBusy):
        await frozen(services)
    assert stop_of(redis_client) == ""
    assert [record.attempt_id for record in records(redis_client)] == [5]
    assert isinstance(await tried(services, "1"), Acceptance)


async def test_changes_of_one_account_go_one_after_the_other(
    services: Services, other: Services, open_account: OpenAccount, redis_client: Any
) -> None:
    await open_account("A", "10.00")
    kinds = ["debit", "credit", "all", "none"] * 2
    changes = [frozen(each, kind) for kind in kinds for each in (services, other)]
    results = await asyncio.gather(*changes)
    last = max(results, key=lambda details: details.config_version)
    now = await services.ledger.account("A")
    assert (now.frozen, now.config_version) == (last.frozen, last.config_version)
    assert stop_of(redis_client) == ("" if now.frozen == "none" else now.frozen)
    assert changes_left(redis_client) == 0


@pytest.mark.parametrize("bulk", ["", "key", "atomic"])
async def test_an_account_that_is_changed_for_too_long_is_busy_for_transactions(
    behind: Behind, redis_client: Any, bulk: str
) -> None:
    ledger, key = behind.services.ledger, account_key(redis_client)
    flight = f"{key.partition('account:')[0]}flight"
    redis_client.hset(flight, "5", f"[[],[],[]]\n{key}\n0\nchange")
    redis_client.hset(key, "stop", "changing 5 ")
    if bulk:
        asked = [request("A", "1"), request("A", "1", "credit")]
        name = "part" if bulk == "key" else None
        results = await ledger.post_transactions(asked, name, atomic=bulk == "atomic")
    else:
        results = [await tried(behind.services, "1")]
    assert {type(result) for result in results} == {errors.AccountBusy}
    assert account_fields(redis_client)["available"] == "1000"
    redis_client.hset(key, "stop", "")
    assert isinstance(await tried(behind.services, "1"), Acceptance)


@pytest.mark.parametrize("bulk", ["key", "atomic"])
async def test_a_part_waits_for_an_account_that_is_changed(
    services: Services,
    other: Services,
    open_account: OpenAccount,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
    bulk: str,
) -> None:
    await open_account("A", "10.00")
    await open_account("B", "10.00")
    stopped, going = held_before_its(services, "_decide", monkeypatch)
    change = asyncio.create_task(frozen(services, "credit"))
    await stopped.wait()
    asked = [request("B", "4"), request("A", "3")]
    name = "part" if bulk == "key" else None
    call = asyncio.create_task(other.ledger.post_transactions(asked, name, atomic=bulk == "atomic"))
    done, _ = await asyncio.wait({call}, timeout=0.2)
    assert not done
    going.set()
    await change
    assert all(isinstance(result, Acceptance) for result in await call)
    assert (await services.ledger.balance("B")).available_minor == 600


async def test_a_load_from_before_a_freeze_does_not_undo_it(
    services: Services, other: Services, open_account: OpenAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    await open_account("A", "10.00")
    admission = pipeline_of(other)._admission
    load, has_read, going = admission.load, asyncio.Event(), asyncio.Event()

    async def load_late(*arguments: Any) -> None:
        has_read.set()
        await going.wait()
        await load(*arguments)

    monkeypatch.setattr(admission, "load", load_late)
    debit = asyncio.create_task(tried(other, "1"))
    await has_read.wait()
    await frozen(services)
    going.set()
    assert isinstance(await debit, errors.AccountFrozen)
