"""Accounts that are not known are looked up together, and never from a read that began before."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from app import errors, limits
from app.ledger.accounts import KnownAccounts
from app.ledger.model import Account


class Store:
    """Answers look-ups one by one when told, and notes what they asked for."""

    def __init__(self) -> None:
        self.asked: list[set[str]] = []
        self.may_answer = asyncio.Semaphore(0)
        self.failure: errors.LedgerError | None = None

    async def accounts(self, account_ids: Sequence[str]) -> dict[str, Account]:
        self.asked.append(set(account_ids))
        await self.may_answer.acquire()
        if self.failure is not None:
            raise self.failure
        there = [each for each in account_ids if not each.startswith("none")]
        return {each: Account(1, each, "USD", 2) for each in there}


class Mode:
    """Says which PostgreSQL rules."""

    def __init__(self) -> None:
        self.current = self
        self.postgres = "one"


def known(store: Store) -> KnownAccounts:
    return KnownAccounts(cast("Any", store), cast("Any", Mode()))


async def started(accounts: KnownAccounts, *wanted: set[str]) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.create_task(accounts.find(each)) for each in wanted]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def test_what_is_asked_for_during_a_read_goes_with_the_next() -> None:
    store = Store()
    accounts = known(store)
    first = await started(accounts, {"A"})
    others = await started(accounts, {"A", "B"}, {"B", "none"}, {"C"})
    assert store.asked == [{"A"}]
    for _ in range(2):
        store.may_answer.release()
    assert [set(await task) for task in (*first, *others)] == [{"A"}, {"A", "B"}, {"B"}, {"C"}]
    assert store.asked == [{"A"}, {"A", "B", "C", "none"}]
    assert await accounts.find({"A", "C"}) == {each: accounts.get(each) for each in ("A", "C")}
    assert len(store.asked) == 2


async def test_a_read_that_fails_is_told_to_those_who_wait_for_it_only() -> None:
    store = Store()
    accounts = known(store)
    store.failure = errors.PostgresUnavailable("gone")
    (failing,) = await started(accounts, {"A"})
    (waiting,) = await started(accounts, {"A"})
    store.may_answer.release()
    with pytest.raises(errors.PostgresUnavailable):
        await failing
    store.failure = None
    store.may_answer.release()
    assert set(await waiting) == {"A"}


async def test_who_goes_away_takes_the_answer_from_nobody() -> None:
    store = Store()
    accounts = known(store)
    leaving, staying = await started(accounts, {"A"}, {"A"})
    leaving.cancel()
    for _ in range(2):
        store.may_answer.release()
    assert set(await staying) == {"A"}
    with pytest.raises(asyncio.CancelledError):
        await leaving


async def test_a_shared_read_is_bounded() -> None:
    store = Store()
    accounts = known(store)
    half = limits.ACCOUNT_LOOK_UP_ITEMS_MAX // 2
    many = [{f"{part}{number}" for number in range(half)} for part in "abc"]
    tasks = await started(accounts, {"A"})
    tasks += await started(accounts, *many)
    for _ in range(3):
        store.may_answer.release()
    await asyncio.gather(*tasks)
    assert [len(asked) for asked in store.asked] == [1, 2 * half, half]


async def test_many_are_read_by_themselves_and_nobody_waits_for_them() -> None:
    store = Store()
    accounts = known(store)
    many = {f"{number}" for number in range(limits.REQUEST_ITEMS_MAX)}
    tasks = await started(accounts, many, many, {"A"})
    assert [len(asked) for asked in store.asked] == [len(many), len(many), 1]
    for _ in tasks:
        store.may_answer.release()
    assert [len(await task) for task in tasks] == [len(many), len(many), 1]


async def test_a_read_that_is_cancelled_leaves_nobody_waiting() -> None:
    store = Store()
    accounts = known(store)
    (waiting,) = await started(accounts, {"A"})
    cast("Any", accounts)._reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(waiting, 5)


async def test_another_postgres_makes_what_was_known_unknown() -> None:
    store = Store()
    accounts = known(store)
    store.may_answer.release()
    accounts.current_postgres()
    await accounts.find({"A"})
    (late,) = await started(accounts, {"B"})
    cast("Any", accounts)._mode.postgres = "two"
    assert accounts.current_postgres() == "two"
    store.may_answer.release()
    await late
    assert accounts.get("A") is None
    assert accounts.get("B") is None
