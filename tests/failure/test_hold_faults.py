"""Holds meet twins, lost replies, kills, switches and their own end: one end each, to the cent."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest

from app import errors, limits
from app.bootstrap import Services, WorkerServices
from app.kit.money import parse_amount
from app.ledger.admission import Slot
from app.ledger.codes import Frozen, HoldStatus, Mode
from app.ledger.hold_unit import asked_of, capturing
from app.ledger.holds import CaptureRequest, Hold, HoldRequest
from app.ledger.model import AccountChange, AccountRequest
from app.ledger.reaper import ReapedCount
from tests.conftest import OpenAccount, eventually
from tests.failure.conftest import Behind, Clock, account_fields, reaped_later, reservations
from tests.failure.interruptions import (
    LOST_KEY,
    LOST_REPLIES,
    after_its_decision,
    dying_at_its_journal,
    held_before_its_journal,
    losing_replies,
    void_before_its_journal,
)
from tests.failure.modes import MODES, fall_back, lean_to, rule_by
from tests.failure.parts import settled_down
from tests.failure.transfers import balances, code
from tests.integration.test_transactions import request

MIXED = ("hold_ended", "hold_changed")


@pytest.fixture
async def opened(open_account: OpenAccount) -> None:
    await open_account("A", "10.00")
    await open_account("B")


async def place(services: Services, amount: str = "6", key: str | None = None, **more: Any) -> Hold:
    asked = {"account_id": "A", "credit_account_id": "B", **more}
    request = HoldRequest(amount=parse_amount(amount), **asked)
    return (await services.ledger.holds.place(request, key)).hold


async def capture(
    services: Services,
    hold_id: UUID,
    amount: str | None = None,
    key: str | None = None,
    **more: Any,
) -> Any:
    parsed = None if amount is None else parse_amount(amount)
    return await services.ledger.holds.capture(hold_id, CaptureRequest(amount=parsed, **more), key)


async def held(services: Services) -> list[int]:
    """What A and B have, what is held of A, and what the holding account has."""
    figures = await balances(services, "A", "B")
    figures.append((await services.ledger.balance("A")).held_minor)
    return [*figures, (await services.ledger.balance("holding:USD")).available_minor]


@MODES
async def test_what_is_held_is_set_aside_given_on_and_given_back(
    services: Services, opened: None, database: Any, redis_client: Any, mode: Mode
) -> None:
    await rule_by(services, database, mode)
    hold = await place(services)
    assert hold.mode is mode
    assert await held(services) == [400, 0, 600, 600]
    with pytest.raises(errors.InsufficientAvailable):
        await place(services, "4.01")
    await capture(services, hold.hold_id, "1")
    assert await held(services) == [400, 100, 500, 500]
    ended = (await capture(services, hold.hold_id, "2", final=True)).hold
    assert (ended.status, ended.captured_minor, ended.released_minor) == (
        HoldStatus.CAPTURED,
        300,
        300,
    )
    assert await held(services) == [700, 300, 0, 0]
    await settled_down(services, redis_client)


@MODES
async def test_of_capture_release_and_expiry_at_one_instant_one_wins(
    services: Services,
    other: Services,
    worker: WorkerServices,
    opened: None,
    database: Any,
    mode: Mode,
) -> None:
    """Twenty holds, each ended by three at once; what is told is what there is."""
    for instance in (services, other):
        await rule_by(instance, database, mode)
    await services.ledger.post_transaction(request("A", "20", "credit"))
    rng = random.Random(7)
    for _ in range(20):
        hold = await place(services, "1", expires_in_s=1)
        # Its time is up at the very instant of the others; only its row says so.
        await database.execute("SET session_replication_role = replica")
        await database.execute(
            "UPDATE holds SET expires_at = clock_timestamp() + interval '15 ms' WHERE hold_id = $1",
            hold.hold_id,
        )

        async def expiry() -> int:
            for _ in range(6):
                await asyncio.sleep(rng.uniform(0, 0.01))
                if await worker.expiry.step():
                    return 1
            return 0

        async def late(act: Any) -> Any:
            await asyncio.sleep(rng.uniform(0.005, 0.02))
            return await act

        told = await asyncio.gather(
            late(capture(services, hold.hold_id)),
            late(other.ledger.holds.release(hold.hold_id, None)),
            expiry(),
            return_exceptions=True,
        )
        codes = [code(each) for each in told[:2]]
        assert set(codes) <= {"accepted", *MIXED}, told
        won = codes.count("accepted") + (told[2] == 1)
        if not won:
            # On a machine that is busy elsewhere each may give way to the others; then time tells.
            assert (await services.ledger.holds.read(hold.hold_id)).status is HoldStatus.HELD
            await eventually(worker.expiry.step)
            won = 1
        assert won == 1, told
        found = await services.ledger.holds.read(hold.hold_id)
        assert (found.status is HoldStatus.CAPTURED) == (codes[0] == "accepted")
        assert (found.status is HoldStatus.RELEASED) == (codes[1] == "accepted")
        assert found.remaining_minor == 0
    a, b, of_a, holding = await held(services)
    assert (a + b, of_a, holding) == (3_000, 0, 0)
    assert (await services.ledger.verify()).mismatches == ()


@MODES
async def test_parts_captured_at_once_by_two_instances_never_pass_what_is_held(
    services: Services, other: Services, opened: None, database: Any, mode: Mode
) -> None:
    for instance in (services, other):
        await rule_by(instance, database, mode)
    hold = await place(services)
    told = await asyncio.gather(
        *(capture((services, other)[n % 2], hold.hold_id, "1", key=f"k{n}") for n in range(10)),
        return_exceptions=True,
    )
    assert sorted(code(each) for each in told) == ["accepted"] * 6 + ["hold_ended"] * 4
    assert await held(services) == [400, 600, 0, 0]


@MODES
async def test_one_act_sent_to_two_instances_is_done_once(
    services: Services, other: Services, opened: None, database: Any, mode: Mode
) -> None:
    for instance in (services, other):
        await rule_by(instance, database, mode)
    hold = await place(services)
    told = await asyncio.gather(
        *(capture((services, other)[n % 2], hold.hold_id, "1", key="same") for n in range(6))
    )
    assert sorted(each.replayed for each in told) == [False] + [True] * 5
    assert len({each.hold.version for each in told}) == 1
    assert await held(services) == [400, 100, 500, 500]


@MODES
async def test_what_is_held_expires_in_either_mode_and_after_redis_is_lost(
    services: Services,
    worker: WorkerServices,
    opened: None,
    database: Any,
    redis_client: Any,
    mode: Mode,
) -> None:
    hold = await place(services, expires_in_s=1)
    redis_client.flushall()
    await rule_by(services, database, mode)

    async def has_expired() -> bool:
        return bool(await worker.expiry.step())

    await eventually(has_expired)
    found = await services.ledger.holds.read(hold.hold_id)
    # Who finds a new Redis in a young epoch lets PostgreSQL decide for a while.
    assert (found.status, found.mode) in {(HoldStatus.EXPIRED, each) for each in (mode, "postgres")}
    assert found.updated_at >= hold.expires_at  # type: ignore[operator]
    assert await held(services) == [1_000, 0, 0, 0]


async def test_many_holds_expire_together_and_one_that_cannot_stops_no_other(
    services: Services, worker: WorkerServices, opened: None, open_account: OpenAccount
) -> None:
    await open_account("C", "10.00")
    for number in range(30):
        await place(services, "0.10", expires_in_s=1, account_id="AC"[number % 2])
    await services.ledger.change_account("C", AccountChange(frozen=Frozen.CREDIT))
    expired = 0

    async def half_of_them() -> bool:
        nonlocal expired
        expired += await worker.expiry.step()
        return expired == 15

    await eventually(half_of_them)
    assert await worker.expiry.step() == 0
    await services.ledger.change_account("C", AccountChange(frozen=Frozen.NONE))
    assert await worker.expiry.step() == 15
    assert await balances(services, "A", "C") == [1_000, 1_000]


@pytest.mark.parametrize("journaled", [True, False])
async def test_the_reaper_ends_an_act_whose_process_died(
    services: Services,
    worker: WorkerServices,
    clock: Clock,
    opened: None,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
    journaled: bool,
) -> None:
    hold = await place(services)
    with (
        dying_at_its_journal(services, monkeypatch, journaled=journaled),
        pytest.raises(errors.InternalError),
    ):
        await capture(services, hold.hold_id, "2", final=True)
    assert await reaped_later(worker, clock) == (
        ReapedCount(4, 0) if journaled else ReapedCount(0, 4)
    )
    expected = [800, 200, 0, 0] if journaled else [400, 0, 600, 600]
    assert await held(services) == expected
    found = await services.ledger.holds.read(hold.hold_id)
    assert found.status is (HoldStatus.CAPTURED if journaled else HoldStatus.HELD)
    assert [int(account_fields(redis_client, each)["available"]) for each in "AB"] == expected[:2]
    await settled_down(services, redis_client)


@pytest.mark.parametrize("loss", ["flush", "switch", "void"])
async def test_what_happens_between_admission_and_journal_changes_nothing(
    services: Services,
    worker: WorkerServices,
    opened: None,
    redis_client: Any,
    database: Any,
    monkeypatch: pytest.MonkeyPatch,
    loss: str,
) -> None:
    hold = await place(services)
    await capture(services, hold.hold_id, "1")

    async def happens() -> None:
        if loss == "flush":
            redis_client.flushall()
        else:
            await fall_back(services)

    if loss == "void":
        void_before_its_journal(services, worker, monkeypatch)
    else:
        after_its_decision(services, monkeypatch, happens)
    ended = (await capture(services, hold.hold_id, "2", final=True)).hold
    assert (ended.version, ended.status) == (3, HoldStatus.CAPTURED)
    assert await held(services) == [700, 300, 0, 0]


async def test_an_act_that_was_admitted_and_comes_second_is_computed_anew(
    services: Services,
    other: Services,
    opened: None,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first instance has reserved its final capture when the second takes a part; the holding
    account has what another hold holds besides.
    """
    hold = await place(services)
    await place(services, "3")
    async with held_before_its_journal(services, monkeypatch) as go_on:
        final = asyncio.create_task(capture(services, hold.hold_id, "2", final=True))
        await eventually(lambda: reservations(redis_client))
        part = await capture(other, hold.hold_id, "1")
        go_on()
        ended = (await final).hold
    assert (part.hold.version, ended.version) == (2, 3)
    assert (ended.captured_minor, ended.released_minor) == (300, 300)
    assert await held(services) == [400, 300, 300, 300]
    await settled_down(services, redis_client)


@LOST_REPLIES
async def test_a_reply_lost_after_execution_ends_a_hold_once(
    behind: Behind, redis_client: Any, step: str, times: int
) -> None:
    services = behind.services
    await services.ledger.open_account(AccountRequest(account_id="B", currency="USD", exponent=2))
    hold = await place(services)
    async with losing_replies(behind, step, times):
        ended = await capture(services, hold.hold_id, "4", key=LOST_KEY, final=True)
    again = await capture(services, hold.hold_id, "4", key=LOST_KEY, final=True)
    assert (again.replayed, again.hold) == (True, ended.hold)
    assert await held(services) == [600, 400, 0, 0]
    await settled_down(services, redis_client)


@MODES
async def test_a_frozen_receiver_refuses_a_capture_and_is_named(
    services: Services, opened: None, database: Any, mode: Mode
) -> None:
    await rule_by(services, database, mode)
    hold = await place(services)
    await services.ledger.change_account("B", AccountChange(frozen=Frozen.CREDIT))
    with pytest.raises(errors.AccountFrozen) as told:
        await capture(services, hold.hold_id)
    assert (told.value.pointer, told.value.members["account_id"]) == ("/credit_account_id", "B")
    assert await held(services) == [400, 0, 600, 600]


async def test_random_acts_with_switches_in_between(
    services: Services,
    other: Services,
    worker: WorkerServices,
    open_account: OpenAccount,
    database: Any,
) -> None:
    """What each act was answered is what its hold has, and money is where it was told to be."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    names = [f"H{number}" for number in range(4)]
    for name in names:
        await open_account(name, "20.00")
    captured: dict[UUID, int] = {}
    holds: dict[UUID, Hold] = {}
    accepted = 0

    async def told(act: Callable[[], Awaitable[Any]]) -> Any:
        """What becomes of an act, asked for until it is known."""
        for _ in range(20):
            with contextlib.suppress(
                errors.Unavailable, errors.RequestInFlight, errors.HoldChanged
            ):
                return await act()
        raise AssertionError("it was not decided")

    async def placed(instance: Services, number: int) -> None:
        account_id, credit = rng.sample(names, 2)
        amount, lasts = str(rng.randint(1, 9)), rng.choice([None, 1])
        hold = await told(
            lambda: place(
                instance,
                amount,
                f"p{number}",
                account_id=account_id,
                credit_account_id=credit,
                expires_in_s=lasts,
            )
        )
        holds[hold.hold_id], captured[hold.hold_id] = hold, 0

    async def ended(instance: Services, number: int, hold_id: UUID) -> None:
        if rng.random() < 0.3:
            await told(lambda: instance.ledger.holds.release(hold_id, f"r{number}"))
            return
        amount, final = str(rng.randint(1, 4)), rng.choice([None, True])
        done = await told(lambda: capture(instance, hold_id, amount, f"c{number}", final=final))
        captured[hold_id] = max(captured[hold_id], done.hold.captured_minor)

    async def act(number: int) -> None:
        nonlocal accepted
        instance = rng.choice([services, other])
        with contextlib.suppress(
            errors.InsufficientAvailable, errors.HoldEnded, errors.HoldExceeded
        ):
            if not holds or rng.random() < 0.4:
                await placed(instance, number)
            else:
                await ended(instance, number, rng.choice(list(holds)))
            accepted += 1

    async def switching() -> None:
        for turn in range(4):
            await asyncio.sleep(rng.uniform(0.01, 0.08))
            mode = (Mode.POSTGRES, Mode.REDIS)[turn % 2]
            await lean_to(rng.choice([services, other]), database, mode)

    for turn in range(5):
        acts = [act(40 * turn + number) for number in range(40)]
        await asyncio.gather(switching(), worker.expiry.step(), *acts)
    assert accepted > 50
    expected = dict.fromkeys(names, 2_000)
    for hold_id, placed_hold in holds.items():
        found = await services.ledger.holds.read(hold_id)
        assert found.captured_minor == captured[hold_id]
        expected[found.account.account_id] += found.released_minor - found.amount_minor
        assert placed_hold.credit_account is not None
        expected[placed_hold.credit_account.account_id] += found.captured_minor
    assert await balances(services, *names) == list(expected.values())
    assert (await services.ledger.verify()).mismatches == ()


async def test_holds_that_cannot_be_given_back_stop_no_other(
    services: Services,
    worker: WorkerServices,
    opened: None,
    open_account: OpenAccount,
    database: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More of them than are looked at together."""
    monkeypatch.setattr(limits, "HOLDS_EXPIRED_MAX", 3)
    await open_account("FULL", "1.00")
    for _ in range(7):
        await place(services, "0.01", account_id="FULL", expires_in_s=1)
    late = await place(services, "1", expires_in_s=2)
    await database.execute("SET session_replication_role = replica")
    await database.execute(
        "UPDATE accounts SET closed = true WHERE account_id = 'FULL'"
    )  # nobody can do that while something is held; it refuses everything
    await rule_by(services, database, Mode.POSTGRES)

    async def has_expired() -> bool:
        await worker.expiry.step()
        return (await services.ledger.holds.read(late.hold_id)).status is HoldStatus.EXPIRED

    await eventually(has_expired)


async def test_a_hold_outlives_the_month_it_was_placed_in(
    services: Services, opened: None, database: Any
) -> None:
    """Its first entries are gone with their partition; the money is not."""
    hold = await place(services, key="old", reference="card")
    await database.execute("SET session_replication_role = replica")
    await database.execute("DELETE FROM journal_entries WHERE reference = 'card'")
    found = await services.ledger.holds.read(hold.hold_id)
    assert (found.remaining_minor, found.reference) == (600, None)
    again = await services.ledger.holds.capture(hold.hold_id, CaptureRequest(), "late")
    assert again.hold.status is HoldStatus.CAPTURED


async def test_captures_for_nobody_here_are_linked_with_no_stranger(
    services: Services, opened: None, database: Any
) -> None:
    """Both leave in one batch."""
    holds = [await place(services, "1", credit_account_id=None) for _ in range(2)]
    service, asked = services.ledger.holds, asked_of(CaptureRequest())
    units = []
    for number, hold in enumerate(holds):
        way = service._way(f"x{number}")
        holding = await service._holding(hold.account, way)
        units.append(capturing(hold, holding, hold.amount_minor, 0, asked, way))
    carrier = services.ledger._groups._carry.__self__  # type: ignore[attr-defined]
    assert await carrier.carry(Slot("test.captures"), units) == []
    ended = await asyncio.gather(*(unit.future for unit in units))
    assert len({each.hold.updated_at for each in ended}) == 1
    for number in range(2):
        found = await services.ledger.transaction_by_key(f"x{number}")
        assert (found.transfer_id, found.other_account_id) == (None, None)
