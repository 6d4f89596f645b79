"""Every operation of both clients against the real service."""

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from uuid import uuid4

import msgspec
import pytest

from subbalance import (
    AsyncClient,
    Client,
    Expect,
    InsufficientAvailable,
    NewTransaction,
    NewTransfer,
    NotFound,
    Rejected,
)
from tests.client.calling import Ledger
from tests.client.flaky import answering, flaky
from tests.conftest import eventually

Connect = Callable[..., Ledger]


@pytest.fixture
async def accounts(ledger: Ledger, a: str, b: str) -> None:
    await ledger.open_account(a, opening_balance="100")
    await ledger.open_account(b)


async def test_an_account_is_opened_read_changed_frozen_and_closed(ledger: Ledger, a: str) -> None:
    opened = await ledger.open_account(
        a, currency="EUR", credit_limit=Decimal("5.50"), metadata={"owner": "me"}
    )
    assert (opened.currency, opened.credit_limit, opened.replayed) == ("EUR", Decimal("5.5"), False)
    again = await ledger.open_account(
        a, currency="EUR", credit_limit=Decimal("5.50"), metadata={"owner": "me"}
    )
    assert again.replayed
    read = await ledger.get_account(a)
    assert read.etag == opened.etag
    changed = await ledger.change_account(a, credit_limit=0, if_match=read.etag)
    assert (changed.credit_limit, changed.metadata) == (Decimal(0), {"owner": "me"})
    with pytest.raises(Rejected) as refused:
        await ledger.change_account(a, credit_limit=7, if_match=read.etag)
    assert (refused.value.code, refused.value.http_status) == ("precondition_failed", 412)
    frozen = await ledger.freeze_account(a, "debit")
    assert frozen.frozen == "debit"
    with pytest.raises(Rejected, match="account_frozen"):
        await ledger.debit(a, 1)
    closed = await ledger.close_account(a)
    assert closed.closed


async def test_accounts_are_listed_over_all_pages(ledger: Ledger, a: str) -> None:
    names = [f"{a}-{number}" for number in range(7)]
    for number, name in enumerate(names):
        metadata = {"test": a, "even": str(number % 2 == 0)}
        await ledger.open_account(name, metadata=metadata)
    listed = await ledger.list_accounts(page_items=2, metadata={"test": a})
    assert [each.account_id for each in listed] == names
    wanted = {"test": a, "even": "True"}
    even = await ledger.list_accounts(page_items=3, metadata=wanted, closed=False)
    assert [each.account_id for each in even] == names[::2]


@pytest.mark.parametrize("amount", [Decimal("12.50"), "12.50", Decimal("1.250E1")])
async def test_an_amount_goes_in_and_comes_out_exactly(
    ledger: Ledger, accounts: None, amount: Decimal | str, a: str
) -> None:
    done = await ledger.debit(a, amount, key=f"{a}-k", reference="rent", metadata={"a": "1"})
    assert (done.amount, done.type, done.status) == (Decimal("12.50"), "debit", "PENDING")
    found = await ledger.get_transaction(done.transaction_id)
    assert (found.amount, found.reference, found.metadata) == (done.amount, "rent", {"a": "1"})
    assert (await ledger.find_transaction(f"{a}-k")).transaction_id == done.transaction_id
    balance = await ledger.get_balance(a)
    assert (balance.available_balance, balance.held) == (Decimal("87.50"), Decimal(0))


@pytest.mark.parametrize("amount", [1.5, True, None, b"1"])
async def test_a_float_is_no_amount(ledger: Ledger, amount: object, a: str) -> None:
    with pytest.raises(TypeError, match="an amount is a Decimal"):
        await ledger.debit(a, amount)


@pytest.mark.parametrize("amount", [Decimal("NaN"), Decimal("Infinity")])
async def test_what_is_not_finite_is_no_amount(
    ledger: Ledger, amount: Decimal, a: str, b: str
) -> None:
    with pytest.raises(ValueError, match="is not an amount"):
        await ledger.transfer(a, b, amount)


@pytest.mark.parametrize("key", ["", "a b", "ä", "k" * 256])
async def test_a_key_that_would_be_refused_is_not_sent(ledger: Ledger, key: str, a: str) -> None:
    with pytest.raises(ValueError, match="a key is"):
        await ledger.credit(a, 1, key=key)


@pytest.mark.parametrize("account_id", ["", ".", ".."])
async def test_an_id_that_is_another_path_is_not_sent(ledger: Ledger, account_id: str) -> None:
    with pytest.raises(ValueError, match="not an id"):
        await ledger.get_account(account_id)


async def test_an_id_with_a_slash_stays_one_id(ledger: Ledger) -> None:
    with pytest.raises(Rejected):
        await ledger.get_balance("../accounts")


async def test_a_refusal_says_what_the_service_said(ledger: Ledger, accounts: None, a: str) -> None:
    with pytest.raises(InsufficientAvailable) as refused:
        await ledger.debit(a, "100.01", key=f"{a}-too-much")
    error = refused.value
    assert (error.available, error.requested) == (Decimal("100.00"), Decimal("100.01"))
    assert (error.code, error.http_status, error.attempts) == ("insufficient_available", 422, 1)
    assert error.idempotency_key == f"{a}-too-much"
    assert error.request_id
    with pytest.raises(Rejected) as wrong:
        await ledger.debit(a, "1.001")
    assert (wrong.value.code, wrong.value.pointer) == ("amount_too_precise", "/amount")
    with pytest.raises(NotFound):
        await ledger.find_transaction(f"{a}-too-much")


async def test_one_key_is_one_debit(ledger: Ledger, accounts: None, a: str) -> None:
    first = await ledger.debit(a, 10, key=f"{a}-k")
    again = await ledger.debit(a, 10, key=f"{a}-k")
    assert (first.replayed, again.replayed) == (False, True)
    assert first.transaction_id == again.transaction_id
    with pytest.raises(Rejected, match="idempotency_key_reused"):
        await ledger.debit(a, 11, key=f"{a}-k")
    assert (await ledger.get_balance(a)).available_balance == Decimal(90)


async def test_without_a_key_each_call_is_its_own(ledger: Ledger, accounts: None, a: str) -> None:
    await ledger.credit(a, 1)
    await ledger.credit(a, 1)
    assert (await ledger.get_balance(a)).available_balance == Decimal(102)


async def test_bulk_answers_each_of_its_transactions(
    ledger: Ledger, accounts: None, a: str, b: str
) -> None:
    chosen = uuid4()
    wanted = [
        NewTransaction(a, "debit", 60, id=chosen),
        NewTransaction(a, "debit", 60),
        NewTransaction(b, "credit", "0.01"),
    ]
    answer = await ledger.post_bulk(wanted)
    assert [each.success for each in answer.results] == [True, False, True]
    ((place, problem),) = answer.refused
    assert (place, problem.code, problem.available) == (1, "insufficient_available", Decimal(40))
    assert answer.results[0].transaction.transaction_id == chosen


@pytest.mark.parametrize("own_keys", [True, False])
async def test_a_bulk_request_is_replayed(
    ledger: Ledger, accounts: None, own_keys: bool, a: str
) -> None:
    wanted = [
        NewTransaction(a, "debit", amount, key=f"{a}-{amount}" if own_keys else None)
        for amount in (1, 2)
    ]
    key = None if own_keys else f"{a}-all"
    await ledger.post_bulk(wanted, key=key)
    again = await ledger.post_bulk(wanted, key=key)
    assert [each.replayed for each in again.results] == [True, True]
    assert (await ledger.get_balance(a)).available_balance == Decimal(97)


async def test_an_atomic_bulk_request_is_refused_whole(
    ledger: Ledger, accounts: None, a: str
) -> None:
    wanted = [NewTransaction(a, "debit", 60), NewTransaction(a, "debit", 60)]
    with pytest.raises(Rejected) as refused:
        await ledger.post_bulk(wanted, atomic=True)
    assert (refused.value.code, refused.value.pointer) == (
        "atomic_request_refused",
        "/transactions/1",
    )
    assert len(refused.value.members["results"]) == 2


async def test_a_bulk_request_has_one_kind_of_key(ledger: Ledger, a: str) -> None:
    with pytest.raises(ValueError, match="either the request has a key"):
        await ledger.post_bulk([NewTransaction(a, "debit", 1, key=f"{a}-own")], key=f"{a}-all")
    with pytest.raises(ValueError, match="1 to 8000"):
        await ledger.post_bulk([])


async def test_pending_is_read_whole_and_by_pages(connect: Connect, a: str) -> None:
    """What is pending is soon settled here, so the pages are made up."""
    item = {
        "transaction_id": str(uuid4()),
        "account_id": a,
        "amount": "2.50",
        "type": "debit",
        "currency": "USD",
        "status": "PENDING",
        "mode": "redis",
        "timestamp": "2026-11-21T07:29:45.254179Z",
        "updated_at": "2026-11-21T07:29:45.254179Z",
    }
    page = {
        "account_id": a,
        "currency": "USD",
        "count": 3,
        "total": "7.50",
        "total_debit": "7.50",
        "total_credit": "0.00",
    }
    first = msgspec.json.encode({**page, "items": [item, item], "next_cursor": "more"})
    last = msgspec.json.encode({**page, "items": [item]})
    with flaky("", answering("200 OK", first), answering("200 OK", last)) as server:
        listed = await connect(server.url).list_pending(a, page_items=2)
    assert [each.amount for each in listed] == [Decimal("2.5")] * 3
    assert [each.path for each in server.seen] == [
        f"/api/v1/pending/{a}?limit=2",
        f"/api/v1/pending/{a}?cursor=more&limit=2",
    ]


async def test_pending_of_the_service_can_be_read(ledger: Ledger, accounts: None, a: str) -> None:
    await ledger.debit(a, 1)
    pending = await ledger.get_pending(a, page_items=2)
    assert pending.account_id == a
    assert pending.total == pending.total_debit + pending.total_credit


async def test_a_transaction_is_done_only_if_all_is_as_expected(
    ledger: Ledger, accounts: None, a: str
) -> None:
    version = (await ledger.get_balance(a)).version
    expected = Expect(version=version, available_at_least=Decimal("99.50"))
    done = await ledger.post(a, "debit", 1, expect=expected, effective_at="2026-01-31T12:00:00Z")
    assert done.effective_at == datetime(2026, 1, 31, 12, tzinfo=UTC)
    with pytest.raises(Rejected) as refused:
        await ledger.debit(a, 1, expect=expected)
    assert not refused.value.earlier_unclear
    answer = await ledger.post_bulk([NewTransaction(a, "debit", 1, expect=expected)])
    assert len(answer.refused) == 1
    assert (await ledger.get_balance(a)).available_balance == Decimal(99)


async def test_a_transaction_is_taken_back_once(ledger: Ledger, accounts: None, a: str) -> None:
    done = await ledger.debit(a, 30)
    back = await ledger.reverse_transaction(done.transaction_id, key=f"{a}-back")
    again = await ledger.reverse_transaction(done.transaction_id, key=f"{a}-back")
    assert (back.type, back.reverses, back.replayed) == ("credit", done.transaction_id, False)
    assert (again.transaction_id, again.replayed) == (back.transaction_id, True)
    with pytest.raises(Rejected, match="already_reversed") as refused:
        await ledger.reverse_transaction(done.transaction_id, key=f"{a}-other")
    assert refused.value.members["transaction_id"] == str(back.transaction_id)
    found = await ledger.get_transaction(done.transaction_id)
    assert found.reversed_by == back.transaction_id
    assert (await ledger.get_balance(a)).available_balance == Decimal(100)


async def test_what_would_happen_is_told_and_nothing_changes(
    ledger: Ledger, accounts: None, a: str, b: str
) -> None:
    debit = await ledger.foresee_post(a, "debit", 30)
    assert (debit.outcome, debit.accounts[0].available_balance) == ("accepted", Decimal(70))
    moved = await ledger.foresee_transfer(a, b, 10)
    left = {each.account_id: each.available_balance for each in moved.accounts}
    assert left == {a: Decimal(90), b: Decimal(10)}
    group = await ledger.foresee_group([NewTransfer(a, b, 1), NewTransfer(a, b, 2)])
    assert {each.account_id for each in group.accounts} == {a, b}
    with pytest.raises(InsufficientAvailable):
        await ledger.foresee_post(a, "debit", 101)
    assert (await ledger.get_balance(a)).available_balance == Decimal(100)
    done = await ledger.debit(a, 5, key=f"{a}-k")
    assert (await ledger.foresee_post(a, "debit", 5, key=f"{a}-k")).outcome == "replayed"
    back = await ledger.foresee_reversal(done.transaction_id)
    assert back.accounts[0].available_balance == Decimal(100)


async def test_what_would_become_of_many_of_holds_and_of_accounts_is_told(
    ledger: Ledger, accounts: None, a: str, b: str
) -> None:
    many = await ledger.foresee_bulk(
        [NewTransaction(a, "debit", 60), NewTransaction(a, "debit", 60)]
    )
    assert [each.success for each in many.results] == [True, False]
    assert [(n, each.code) for n, each in many.refused] == [(1, "insufficient_available")]
    assert many.accounts[0].available_balance == Decimal(40)
    placed = await ledger.foresee_place_hold(a, 10)
    assert (placed.outcome, placed.accounts[0].available_balance) == ("accepted", Decimal(90))
    hold_id = (await ledger.place_hold(a, 10)).hold_id
    captured = await ledger.foresee_capture_hold(hold_id, 4)
    assert (captured.hold.status, captured.hold.remaining) == ("HELD", Decimal(6))
    released = await ledger.foresee_release_hold(hold_id)
    assert (released.hold.status, released.accounts[0].available_balance) == ("RELEASED", 100)
    opened = await ledger.foresee_open_account(f"{a}-new", opening_balance=3, credit_limit=4)
    assert opened.accounts[0].available_balance == Decimal(7)
    with pytest.raises(NotFound):
        await ledger.get_account(f"{a}-new")
    changed = await ledger.foresee_change_account(b, credit_limit=5)
    assert changed.accounts[0].available_balance == Decimal(5)
    with pytest.raises(Rejected, match="precondition_failed"):
        await ledger.foresee_change_account(b, credit_limit=5, if_match='"9"')
    assert (await ledger.get_account(b)).credit_limit == Decimal(0)


async def test_history_is_read_row_by_row_and_as_of_an_instant(
    ledger: Ledger, accounts: None, a: str, b: str
) -> None:
    for amount in (1, 2, 3):
        await ledger.debit(a, amount, reference=f"{a}-r", metadata={"n": str(amount)})
    await ledger.transfer(a, b, 4)

    async def is_known() -> bool:
        return len(await ledger.list_statement(a, page_items=2)) == 5

    await eventually(is_known, 20)
    rows = await ledger.list_statement(a, page_items=2)
    assert [row.balance for row in rows] == [Decimal(left) for left in (100, 99, 97, 94, 90)]
    page = await ledger.get_statement(a, start=rows[1].booked_at, page_items=2)
    assert (page.opening_balance, page.closing_balance) == (Decimal(100), Decimal(97))
    found = await ledger.search_transactions(reference=f"{a}-r", page_items=2)
    assert [each.amount for each in found] == [Decimal(3), Decimal(2), Decimal(1)]
    (one,) = await ledger.search_transactions(
        account_id=a, type="debit", amount_min=2, amount_max="3.00", metadata={"n": "3"}
    )
    assert one.transaction_id == rows[3].transaction_id
    then = await ledger.get_balance_at(a, rows[2].booked_at, by="booked")
    assert then.balance == Decimal(97)


async def test_transfers_and_groups_move_and_are_found(
    ledger: Ledger, accounts: None, a: str, b: str
) -> None:
    moved = await ledger.transfer(a, b, "10.00", key=f"{a}-one", reference="r")
    assert (await ledger.get_transfer(moved.transfer_id)).amount == Decimal(10)
    half = await ledger.get_transaction(moved.transfer_id)
    assert (half.transfer_id, half.other_account_id) == (moved.transfer_id, b)
    wanted = [NewTransfer(a, b, 1), NewTransfer(a, b, 2)]
    group = await ledger.post_group(wanted, key=f"{a}-both")
    again = await ledger.post_group(wanted, key=f"{a}-both")
    assert (group.replayed, again.replayed) == (False, True)
    assert [each.amount for each in group.transfers] == [Decimal(1), Decimal(2)]
    assert (await ledger.get_group(group.group_id)).transfers[1].status in ("PENDING", "SETTLED")
    assert (await ledger.find_group(f"{a}-both")).group_id == group.group_id
    assert (await ledger.get_balance(b)).available_balance == Decimal(13)


async def test_holds_are_placed_captured_released_and_listed(
    ledger: Ledger, accounts: None, a: str, b: str
) -> None:
    hold = await ledger.place_hold(a, 60, credit_account_id=b, expires_in_s=3_600, key=f"{a}-h")
    part = await ledger.capture_hold(hold.hold_id, 10, key=f"{a}-h-1")
    again = await ledger.capture_hold(hold.hold_id, 10, key=f"{a}-h-1")
    assert (part.remaining, again.remaining, again.replayed) == (Decimal(50), Decimal(50), True)
    last = await ledger.capture_hold(hold.hold_id, "20.00", final=True)
    assert (last.status, last.captured, last.released) == ("CAPTURED", Decimal(30), Decimal(30))
    other = await ledger.place_hold(a, 5)
    released = await ledger.release_hold(other.hold_id)
    assert released.status == "RELEASED"
    third = await ledger.place_hold(a, 5)
    assert (await ledger.capture_hold(third.hold_id)).status == "CAPTURED"
    assert (await ledger.get_hold(other.hold_id)).status == "RELEASED"
    listed = await ledger.list_holds(a, page_items=1)
    assert [each.hold_id for each in listed] == [hold.hold_id, other.hold_id, third.hold_id]
    (ended,) = await ledger.list_holds(a, status="RELEASED")
    assert ended.hold_id == other.hold_id
    with pytest.raises(Rejected, match="hold_ended"):
        await ledger.release_hold(hold.hold_id)


async def test_health_and_verification_are_told(ledger: Ledger, accounts: None) -> None:
    assert (await ledger.health()).mode == "redis"
    details = await ledger.health_details()
    assert details.ready
    assert details.components["postgres"]["ok"]
    verified = await ledger.verify()
    assert (verified.status, verified.mismatches) == ("verified", [])


async def test_both_clients_have_every_operation_and_its_documentation() -> None:
    names = {name for name in dir(Client) if not name.startswith("_")}
    assert names == {name for name in dir(AsyncClient) if not name.startswith("_")}
    assert {"debit", "list_accounts", "verify"} <= names
    for name in names - {"close"}:
        assert getattr(Client, name).__doc__, name


async def test_threads_share_a_client(url: str, a: str) -> None:
    def work(client: Client, barrier: threading.Barrier) -> None:
        barrier.wait(10)
        for _ in range(10):
            client.credit(a, 1)

    with Client(url, connections=3) as client:
        await asyncio.to_thread(client.open_account, a)
        barrier = threading.Barrier(6)
        await asyncio.gather(*(asyncio.to_thread(work, client, barrier) for _ in range(6)))
        balance = await asyncio.to_thread(client.get_balance, a)
    assert balance.available_balance == Decimal(60)


async def test_clients_are_contexts(url: str, a: str) -> None:
    async with AsyncClient(url) as ledger:
        await ledger.open_account(a, metadata={"test": a})
        listed = ledger.list_accounts(metadata={"test": a})
        assert [each.account_id async for each in listed] == [a]
    with pytest.raises(RuntimeError, match="closed"):
        await ledger.get_account(a)
