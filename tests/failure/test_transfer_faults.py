"""Groups of transfers meet twins, lost replies, kills, switches and freezes: all or none."""

import asyncio
import contextlib
import random
from typing import Any
from uuid import uuid4

import pytest

from app import errors
from app.bootstrap import Services, WorkerServices
from app.ledger.codes import Frozen, Mode
from app.ledger.model import AccountChange, AccountRequest
from app.ledger.reaper import ReapedCount
from app.ledger.transfers import GroupAcceptance
from tests.conftest import OpenAccount, eventually
from tests.failure.conftest import Behind, Clock, account_fields, reaped_later, reservations
from tests.failure.interruptions import (
    LOST_KEY,
    LOST_REPLIES,
    after_its_decision,
    dying_at_its_journal,
    held_before_its_journal,
    losing_replies,
    sleeps_before_it_tells,
    void_before_its_journal,
)
from tests.failure.modes import MODES, fall_back, lean_to, rule_by
from tests.failure.parts import settled_down
from tests.failure.transfers import answers, balances, carried, code, linked, send, transfer
from tests.integration.test_transactions import outcomes, request

SPLIT = (("A", "B", "6"), ("A", "C", "3"))


@pytest.fixture
async def opened(open_account: OpenAccount) -> None:
    await open_account("A", "10.00")
    await open_account("B")
    await open_account("C")


@MODES
async def test_a_group_moves_all_of_its_money_or_none(
    services: Services, opened: None, database: Any, redis_client: Any, mode: Mode
) -> None:
    await rule_by(services, database, mode)
    assert code((await answers(services, (("A", "B", "6"), ("A", "C", "5"))))[0]) == (
        "insufficient_available"
    )
    assert await balances(services, "A", "B", "C") == [1_000, 0, 0]
    accepted = await send(services, *SPLIT)
    assert accepted.group.transfers[0].debit.mode is mode
    assert await balances(services, "A", "B", "C") == [100, 600, 300]
    assert await linked(database) == [(-600, -300, 300, 600)]
    await settled_down(services, redis_client)


@MODES
async def test_what_a_group_credits_is_spendable_at_its_answer(
    services: Services, opened: None, database: Any, mode: Mode
) -> None:
    await rule_by(services, database, mode)
    await send(services, ("A", "B", "6"))
    await send(services, ("B", "C", "6"))
    assert await balances(services, "A", "B", "C") == [400, 0, 600]


@MODES
async def test_groups_at_once_never_overdraw(
    services: Services, other: Services, opened: None, database: Any, mode: Mode
) -> None:
    """Money for ten of them is there, whoever takes it."""
    for instance in (services, other):
        await rule_by(instance, database, mode)
    groups = [(("A", "B", "0.40"), ("A", "C", "0.60")) for _ in range(30)]
    both = await asyncio.gather(answers(services, *groups), answers(other, *groups))
    codes = [code(answer) for told in both for answer in told]
    assert sorted(set(codes)) == ["accepted", "insufficient_available"]
    assert codes.count("accepted") == 10
    assert await balances(services, "A", "B", "C") == [0, 400, 600]
    assert await linked(database) == [(-60, -40, 40, 60)] * 10


@MODES
async def test_credits_of_other_groups_are_waited_for_and_own_ones_are_not(
    services: Services, opened: None, database: Any, mode: Mode
) -> None:
    await rule_by(services, database, mode)
    told = await answers(services, (("A", "B", "6"),), (("B", "C", "6"),))
    assert [code(each) for each in told] == ["accepted", "accepted"]
    own = await answers(services, (("A", "B", "4"), ("B", "C", "4")))
    assert code(own[0]) == "insufficient_available"
    assert own[0].pointer == "/transfers/1/debit_account_id"


async def test_one_group_sent_to_two_instances_is_done_once(
    services: Services,
    other: Services,
    opened: None,
    redis_client: Any,
    database: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All the money is there once; the second is told what became of the first."""
    async with held_before_its_journal(services, monkeypatch) as go_on:
        first = asyncio.create_task(send(services, ("A", "B", "9"), key="k"))
        await eventually(lambda: reservations(redis_client))
        second = asyncio.create_task(send(other, ("A", "B", "9"), key="k"))
        await asyncio.wait([second], timeout=0.3)
        assert not second.done()
        go_on()
        done = await asyncio.gather(first, second)
    assert [each.replayed for each in done] == [False, True]
    assert done[0].group.group_id == done[1].group.group_id
    assert await balances(services, "A", "B") == [100, 900]
    await settled_down(services, redis_client)


@MODES
async def test_a_group_is_known_again_and_another_under_its_key_is_refused(
    services: Services, other: Services, opened: None, database: Any, mode: Mode
) -> None:
    for instance in (services, other):
        await rule_by(instance, database, mode)
    first = await send(services, *SPLIT, key="k")
    for instance in (services, other):
        again = await send(instance, *SPLIT, key="k")
        assert again.replayed
        assert [each.transfer_id for each in again.group.transfers] == [
            each.transfer_id for each in first.group.transfers
        ]
        for different in (SPLIT[:1], SPLIT[::-1], (*SPLIT, ("A", "B", "0.01")), (("A", "B", "9"),)):
            with pytest.raises(errors.IdempotencyKeyReused):
                await send(instance, *different, key="k")
    assert await balances(services, "A", "B", "C") == [100, 600, 300]


@MODES
async def test_a_key_names_a_transfer_or_a_transaction_and_never_both(
    services: Services, opened: None, database: Any, mode: Mode
) -> None:
    await rule_by(services, database, mode)
    await send(services, ("A", "B", "1"), key="t")
    await services.ledger.post_transaction(request("A", "1", idempotency_key="s"))
    with pytest.raises(errors.IdempotencyKeyReused):
        await services.ledger.post_transaction(request("A", "1", idempotency_key="t"))
    with pytest.raises(errors.IdempotencyKeyReused):
        await send(services, ("A", "B", "1"), key="s")
    assert await balances(services, "A", "B") == [800, 100]


@pytest.mark.parametrize("journaled", [True, False])
async def test_the_reaper_ends_a_group_whose_process_died(
    services: Services,
    worker: WorkerServices,
    clock: Clock,
    opened: None,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
    journaled: bool,
) -> None:
    with dying_at_its_journal(services, monkeypatch, journaled=journaled):
        assert code((await answers(services, SPLIT))[0]) == "internal_error"
    assert len(reservations(redis_client)) == 4
    assert await reaped_later(worker, clock) == (
        ReapedCount(4, 0) if journaled else ReapedCount(0, 4)
    )
    expected = [100, 600, 300] if journaled else [1_000, 0, 0]
    assert await balances(services, "A", "B", "C") == expected
    shown = [int(account_fields(redis_client, each)["available"]) for each in "ABC"]
    assert shown == expected
    await settled_down(services, redis_client)


async def test_a_group_whose_attempt_is_void_is_decided_anew(
    services: Services,
    worker: WorkerServices,
    opened: None,
    redis_client: Any,
    database: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    void_before_its_journal(services, worker, monkeypatch)
    await send(services, *SPLIT)
    assert await balances(services, "A", "B", "C") == [100, 600, 300]
    await settled_down(services, redis_client)


@pytest.mark.parametrize("loss", ["flush", "key", "switch"])
async def test_what_redis_loses_between_admission_and_journal_changes_nothing(
    services: Services,
    opened: None,
    redis_client: Any,
    database: Any,
    monkeypatch: pytest.MonkeyPatch,
    loss: str,
) -> None:
    # Redis has the accounts from here on.
    await send(services, ("A", "B", "1"), ("A", "C", "1"))
    await send(services, ("B", "A", "1"), ("C", "A", "1"))

    async def happens() -> None:
        if loss == "flush":
            redis_client.flushall()
        elif loss == "key":
            redis_client.delete(*redis_client.keys("subbalance:*:account:B"))
        else:
            await fall_back(services)

    after_its_decision(services, monkeypatch, happens)
    await send(services, *SPLIT)
    await send(services, ("B", "C", "6"))
    assert await balances(services, "A", "B", "C") == [100, 0, 900]
    assert (await linked(database))[2:] == [(-600, -300, 300, 600), (-600, 600)]


async def test_a_batch_that_redis_admitted_is_decided_by_postgres_group_by_group(
    services: Services,
    opened: None,
    database: Any,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first of its groups was done before: none of it may be done again."""
    await send(services, ("A", "B", "6"), key="known")

    async def switch() -> None:
        await fall_back(services)

    after_its_decision(services, monkeypatch, switch)
    told = await carried(
        services,
        ("known", (("A", "B", "6"),)),
        ("two", (("A", "C", "2"), ("A", "B", "1"))),
        ("three", (("B", "C", "5"),)),
    )
    assert [code(each) for each in told] == ["accepted"] * 3
    assert [each.replayed for each in told] == [True, False, False]
    assert {each.group.transfers[0].debit.mode for each in told[1:]} == {Mode.POSTGRES}
    assert await balances(services, "A", "B", "C") == [100, 200, 700]
    assert await linked(database) == [(-600, 600), (-500, 500), (-200, -100, 100, 200)]
    await settled_down(services, redis_client)


async def test_a_credit_that_postgres_refuses_takes_its_debit_along(
    services: Services,
    opened: None,
    database: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Redis admitted the batch before the account was frozen and the epoch ended."""

    async def freeze_and_switch() -> None:
        await database.execute("UPDATE accounts SET frozen = 'credit' WHERE account_id = 'B'")
        await fall_back(services)

    after_its_decision(services, monkeypatch, freeze_and_switch)
    told = await carried(services, ("one", (("A", "B", "6"),)), ("two", (("A", "C", "3"),)))
    assert [code(each) for each in told] == ["account_frozen", "accepted"]
    assert await balances(services, "A", "B", "C") == [700, 0, 300]


@MODES
async def test_a_group_that_is_known_by_a_later_transfer_only_is_replayed(
    services: Services, opened: None, database: Any, mode: Mode
) -> None:
    """It took all there was, so that its first transfer would be short."""
    await rule_by(services, database, mode)
    asked = [transfer("A", "B", "6"), transfer("A", "C", "4", transfer_id=uuid4())]
    first = await services.ledger.post_transfers(asked, None)
    again = await services.ledger.post_transfers(asked, None)
    assert (again.replayed, again.group.group_id) == (True, first.group.group_id)


async def test_journaled_credits_that_redis_was_not_told_of_fund_the_next_group(
    services: Services,
    other: Services,
    opened: None,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first instance sleeps between its journal and its confirm."""
    wake = sleeps_before_it_tells(services, monkeypatch)
    first = asyncio.create_task(send(services, ("A", "B", "6")))
    await eventually(lambda: reservations(redis_client))

    async def is_funded() -> bool:
        try:
            await send(other, ("B", "C", "6"))
        except errors.InsufficientAvailable:
            return False
        return True

    await eventually(is_funded)
    wake()
    await first
    assert await balances(services, "A", "B", "C") == [400, 0, 600]
    await settled_down(services, redis_client)


@LOST_REPLIES
async def test_a_reply_lost_after_execution_moves_the_money_of_a_group_once(
    behind: Behind, database: Any, redis_client: Any, step: str, times: int
) -> None:
    opening = AccountRequest(account_id="B", currency="USD", exponent=2)
    await behind.services.ledger.open_account(opening)
    asked = (("A", "B", "3"), ("A", "B", "2"))
    async with losing_replies(behind, step, times):
        accepted = await send(behind.services, *asked, key=LOST_KEY)
    again = await send(behind.services, *asked, key=LOST_KEY)
    assert again.group.group_id == accepted.group.group_id
    assert await balances(behind.services, "A", "B") == [500, 500]
    await settled_down(behind.services, redis_client)


@MODES
async def test_a_frozen_account_refuses_the_group_and_names_it(
    services: Services, opened: None, database: Any, mode: Mode
) -> None:
    await rule_by(services, database, mode)
    await services.ledger.change_account("C", AccountChange(frozen=Frozen.CREDIT))
    told = (await answers(services, SPLIT))[0]
    assert isinstance(told, errors.AccountFrozen)
    assert (told.pointer, told.members["account_id"]) == ("/transfers/1/credit_account_id", "C")
    assert await balances(services, "A", "B", "C") == [1_000, 0, 0]
    await services.ledger.change_account("C", AccountChange(frozen=Frozen.NONE))
    assert isinstance(await send(services, *SPLIT), GroupAcceptance)


async def test_groups_wait_for_an_account_that_is_being_changed(
    services: Services,
    other: Services,
    opened: None,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The change waits for what is in flight on the account, and the group for the change."""
    async with held_before_its_journal(services, monkeypatch) as go_on:
        first = asyncio.create_task(send(services, ("A", "C", "1")))
        await eventually(lambda: reservations(redis_client))
        change = asyncio.create_task(
            other.ledger.change_account("C", AccountChange(metadata={"a": "1"}))
        )
        await eventually(lambda: account_fields(redis_client, "C").get("stop", ""))
        second = asyncio.create_task(send(other, *SPLIT))
        await asyncio.wait([second], timeout=0.2)
        assert not second.done()
        go_on()
        await asyncio.gather(first, change, second)
    assert await balances(services, "A", "B", "C") == [0, 600, 400]
    await settled_down(services, redis_client)


async def test_random_groups_with_switches_in_between(
    services: Services,
    other: Services,
    open_account: OpenAccount,
    database: Any,
    redis_client: Any,
) -> None:
    """Two instances, poor accounts, both modes: what was answered is what is there."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    names = [f"R{number}" for number in range(6)]
    for name in names:
        await open_account(name, "20.00")
    expected = dict.fromkeys(names, 2_000)
    known: dict[str, Any] = {}

    async def until_told(instance: Services, asked: Any, key: str) -> GroupAcceptance:
        for _ in range(10):
            with contextlib.suppress(errors.Unavailable, errors.RequestInFlight):
                return await send(instance, *asked, key=key)
        raise AssertionError(f"{key} was not decided")

    async def post(number: int) -> None:
        pairs = [rng.sample(names, 2) for _ in range(rng.randint(1, 4))]
        asked = [(debit, credit, str(rng.randint(1, 9))) for debit, credit in pairs]
        instance = rng.choice([services, other])
        try:
            accepted = await until_told(instance, asked, f"r{number}")
        except errors.InsufficientAvailable:
            return
        known[f"r{number}"] = (asked, accepted)
        for each in accepted.group.transfers:
            expected[each.debit.account.account_id] += each.debit.change_minor
            expected[each.credit.account.account_id] += each.credit.change_minor

    async def post_again(number: int) -> None:
        if f"r{number}" in known:
            asked, accepted = known[f"r{number}"]
            again = await until_told(rng.choice([services, other]), asked, f"r{number}")
            assert (again.replayed, again.group.group_id) == (True, accepted.group.group_id)

    async def switching() -> None:
        """Give the decision to and fro while batches are on their way."""
        for turn in range(6):
            await asyncio.sleep(rng.uniform(0.005, 0.05))
            mode = (Mode.POSTGRES, Mode.REDIS)[turn % 2]
            await lean_to(rng.choice([services, other]), database, mode)

    for turn in range(6):
        posts = [post(60 * turn + number) for number in range(60)]
        again = [post_again(rng.randrange(60 * turn)) for _ in range(20 if turn else 0)]
        await asyncio.gather(switching(), *posts, *again)
    assert await balances(services, *names) == list(expected.values())
    assert all(sum(changes) == 0 for changes in await linked(database))
    flight = f"subbalance:{{0}}:{await database.fetchval('SELECT epoch FROM ledger_shards')}:flight"
    await eventually(lambda: not redis_client.hkeys(flight))
    assert (await services.ledger.verify()).mismatches == ()


async def test_transactions_and_transfers_share_an_account(
    services: Services, opened: None, redis_client: Any
) -> None:
    """They are carried in batches of their own, and decided by the one balance."""
    singles, groups = await asyncio.gather(
        outcomes(services, [request("A", "0.10") for _ in range(80)]),
        answers(services, *[(("A", "B", "0.10"),) for _ in range(80)]),
    )
    accepted = [code(each) for each in [*singles, *groups]].count("accepted")
    assert accepted == 100
    assert (await balances(services, "A"))[0] == 0
    await settled_down(services, redis_client)


@MODES
async def test_a_hundred_transfers_are_one_group(
    services: Services, opened: None, database: Any, mode: Mode
) -> None:
    await rule_by(services, database, mode)
    asked = [("A", "B" if number % 2 else "C", "0.10") for number in range(100)]
    accepted = await send(services, *asked, key="hundred")
    assert [each.credit.account.account_id for each in accepted.group.transfers] == ["C", "B"] * 50
    again = await send(services, *asked, key="hundred")
    assert again.group == accepted.group
    assert await balances(services, "A", "B", "C") == [0, 500, 500]


async def test_a_client_s_ids_name_transfers(
    services: Services, opened: None, database: Any
) -> None:
    ids = [uuid4(), uuid4()]
    asked = [transfer("A", to, "1", transfer_id=each) for to, each in zip("BC", ids, strict=True)]
    first = await services.ledger.post_transfers(asked, None)
    again = await services.ledger.post_transfers(asked, None)
    assert [each.transfer_id for each in again.group.transfers] == ids
    assert again.replayed
    with pytest.raises(errors.IdempotencyKeyReused):
        await services.ledger.post_transfers(asked[:1], None)
    with pytest.raises(errors.IdempotencyIdentityConflict):
        await services.ledger.post_transfers(
            [asked[0], transfer("A", "C", "1", transfer_id=uuid4())], None
        )
    assert (await services.ledger.group(ids[1])).group_id == first.group.group_id == ids[0]
