"""Money through the whole ledger: real Redis, real PostgreSQL, many clients at once."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from app import errors
from app.bootstrap import Services, WorkerServices
from app.kit.cursor import encode_cursor
from app.kit.money import parse_amount
from app.ledger.codes import Direction, EntryStatus
from app.ledger.model import Acceptance, TransactionRequest
from tests.conftest import OpenAccount, eventually


def request(
    account_id: str, amount: str, direction: str = "debit", **more: Any
) -> TransactionRequest:
    return TransactionRequest(
        account_id=account_id, amount=parse_amount(amount), direction=Direction(direction), **more
    )


async def outcomes(services: Services, requests: list[TransactionRequest]) -> list[Any]:
    calls = (services.ledger.post_transaction(each) for each in requests)
    return await asyncio.gather(*calls, return_exceptions=True)


def redis_available(redis_client: Any, account_id: str) -> int:
    (key,) = redis_client.keys(f"subbalance:*:account:{account_id}")
    return int(redis_client.hget(key, "available"))


async def test_200_clients_on_a_balance_for_half_of_them(
    services: Services, open_account: OpenAccount, database: Any, redis_client: Any
) -> None:
    await open_account("HOT", "100.00")
    results = await outcomes(services, [request("HOT", "1.00") for _ in range(200)])
    accepted = [result for result in results if isinstance(result, Acceptance)]
    refused = [result for result in results if isinstance(result, errors.InsufficientAvailable)]
    assert (len(accepted), len(refused)) == (100, 100)
    assert (await services.ledger.balance("HOT")).available_minor == 0
    assert redis_available(redis_client, "HOT") == 0
    row = await database.fetchrow("SELECT * FROM account_balances WHERE id = 'HOT'")
    assert (row["available_balance"], row["pending_debit"]) == (0, 100)


async def test_500_clients_on_a_hot_account_are_never_refused_without_reason(
    services: Services, open_account: OpenAccount
) -> None:
    await open_account("HOT", "1000.00")
    requests = [request("HOT", "1", "debit" if n % 2 else "credit") for n in range(500)]
    assert all(isinstance(result, Acceptance) for result in await outcomes(services, requests))
    assert (await services.ledger.balance("HOT")).available_minor == 100_000


@pytest.mark.parametrize("direction", ["debit", "credit"])
async def test_one_key_50_times_at_once_is_one_row_and_50_equal_answers(
    services: Services, open_account: OpenAccount, database: Any, direction: str
) -> None:
    await open_account("A", "10.00")
    same = [request("A", "10.00", direction, idempotency_key="k") for _ in range(50)]
    results = await outcomes(services, same)
    assert {result.transaction for result in results} == {results[0].transaction}
    assert sum(not result.replayed for result in results) == 1
    assert await database.fetchval("SELECT count(*) FROM sub_balances") == 2
    expected = 0 if direction == "debit" else 2_000
    assert (await services.ledger.balance("A")).available_minor == expected


async def test_one_key_50_times_across_two_instances_moves_money_once(
    services: Services, settings: Any, open_account: OpenAccount, database: Any
) -> None:
    from app.bootstrap import open_services

    await open_account("A", "10.00")
    async with open_services(settings) as other:
        same = [request("A", "10.00", idempotency_key="k") for _ in range(25)]
        results = await asyncio.gather(outcomes(services, same), outcomes(other, same))
    ids = {result.transaction.transaction_id for part in results for result in part}
    assert len(ids) == 1
    assert await database.fetchval("SELECT count(*) FROM sub_balances") == 2


async def test_a_retry_of_an_accepted_request_is_accepted_when_funds_are_gone(
    services: Services, open_account: OpenAccount, redis_client: Any
) -> None:
    await open_account("A", "10.00")
    first = await services.ledger.post_transaction(request("A", "10", idempotency_key="k"))
    await eventually(lambda: not redis_client.keys("subbalance:*:flight"))
    again = await services.ledger.post_transaction(request("A", "10.00", idempotency_key="k"))
    assert again == Acceptance(first.transaction, replayed=True)
    with pytest.raises(errors.InsufficientAvailable):
        await services.ledger.post_transaction(request("A", "10.00", idempotency_key="other"))


async def test_a_replay_works_after_settlement_and_from_another_instance(
    services: Services, settings: Any, worker: WorkerServices, open_account: OpenAccount
) -> None:
    from app.bootstrap import open_services

    await open_account("A", "10.00")
    first = await services.ledger.post_transaction(request("A", "4", idempotency_key="k"))
    await worker.settler.settle()
    async with open_services(settings) as other:
        again = await other.ledger.post_transaction(request("A", "4", idempotency_key="k"))
    assert again.replayed
    assert again.transaction.transaction_id == first.transaction.transaction_id
    assert (await services.ledger.balance("A")).available_minor == 600


REUSED = [
    ("B", "4", "debit", {}),
    ("A", "5", "debit", {}),
    ("A", "4", "credit", {}),
    ("A", "4", "debit", {"reference": "other"}),
    ("A", "4", "debit", {"metadata": {"a": "b"}}),
]


@pytest.mark.parametrize(("account_id", "amount", "direction", "more"), REUSED)
async def test_a_key_used_for_another_request_is_refused(
    services: Services,
    open_account: OpenAccount,
    account_id: str,
    amount: str,
    direction: str,
    more: dict[str, Any],
) -> None:
    for name in ("A", "B"):
        await open_account(name, "10.00")
    await services.ledger.post_transaction(request("A", "4", idempotency_key="k"))
    with pytest.raises(errors.IdempotencyKeyReused):
        await services.ledger.post_transaction(
            request(account_id, amount, direction, idempotency_key="k", **more)
        )
    balances = [await services.ledger.balance(name) for name in ("A", "B")]
    assert [balance.available_minor for balance in balances] == [600, 1_000]


async def test_an_id_and_a_key_must_agree(services: Services, open_account: OpenAccount) -> None:
    await open_account("A", "10.00")
    post = services.ledger.post_transaction
    ids = [uuid4() for _ in range(3)]
    await post(request("A", "1", transaction_id=ids[0], idempotency_key="k0"))
    await post(request("A", "1", transaction_id=ids[1], idempotency_key="k1"))
    assert (await post(request("A", "1", transaction_id=ids[0], idempotency_key="k0"))).replayed
    assert (await post(request("A", "1", transaction_id=ids[0]))).replayed
    assert (await post(request("A", "1", idempotency_key="k0"))).replayed
    for transaction_id, key in ((ids[0], "k1"), (ids[2], "k0"), (ids[0], "k2")):
        with pytest.raises(errors.IdempotencyIdentityConflict):
            await post(request("A", "1", transaction_id=transaction_id, idempotency_key=key))
    assert (await services.ledger.balance("A")).available_minor == 800


async def test_a_refusal_is_not_remembered(services: Services, open_account: OpenAccount) -> None:
    await open_account("A")
    with pytest.raises(errors.InsufficientAvailable):
        await services.ledger.post_transaction(request("A", "1", idempotency_key="k"))
    await services.ledger.post_transaction(request("A", "1", "credit"))
    result = await services.ledger.post_transaction(request("A", "1", idempotency_key="k"))
    assert not result.replayed


async def test_an_accepted_credit_can_be_spent_at_once_through_another_instance(
    services: Services, settings: Any, open_account: OpenAccount
) -> None:
    from app.bootstrap import open_services

    await open_account("A")
    async with open_services(settings) as other:
        for _ in range(20):
            await services.ledger.post_transaction(request("A", "1", "credit"))
            await other.ledger.post_transaction(request("A", "1"))
    assert (await services.ledger.balance("A")).available_minor == 0


async def test_three_debits_of_a_tenth_fit_three_tenths(
    services: Services, open_account: OpenAccount
) -> None:
    await open_account("A", "0.30")
    results = await outcomes(services, [request("A", "0.1") for _ in range(4)])
    assert sum(isinstance(result, Acceptance) for result in results) == 3
    assert (await services.ledger.balance("A")).available_minor == 0


async def test_a_second_credit_is_not_counted_against_the_balance(
    services: Services, open_account: OpenAccount
) -> None:
    await open_account("A", "100")
    for _ in range(2):
        await services.ledger.post_transaction(request("A", "60", "credit"))
    assert (await services.ledger.balance("A")).available_minor == 22_000


async def test_the_largest_amounts_stay_exact(
    services: Services, open_account: OpenAccount
) -> None:
    await open_account("A", "9007199254740993.00")
    result = await services.ledger.post_transaction(request("A", "0.01", "credit"))
    assert result.transaction.change_minor == 1
    assert (await services.ledger.balance("A")).available_minor == 900719925474099301
    for _ in range(8):
        await services.ledger.post_transaction(request("A", "9999999999999999.99", "credit"))
    with pytest.raises(errors.BalanceLimitExceeded):
        await services.ledger.post_transaction(request("A", "9999999999999999.99", "credit"))


async def test_a_credit_limit_may_be_used_and_not_passed(
    services: Services, open_account: OpenAccount
) -> None:
    await open_account("A", credit_limit_minor=500)
    await services.ledger.post_transaction(request("A", "5"))
    with pytest.raises(errors.InsufficientAvailable):
        await services.ledger.post_transaction(request("A", "0.01"))
    balance = await services.ledger.balance("A")
    assert (balance.available_minor, balance.pending_debit_minor) == (0, 500)


async def test_reads_show_an_accepted_transaction_at_once_and_by_every_name(
    services: Services, open_account: OpenAccount, worker: WorkerServices
) -> None:
    await open_account("A", "10.00")
    chosen = uuid4()
    post = services.ledger.post_transaction
    mine = await post(request("A", "1", transaction_id=chosen, reference="r", metadata={"a": "b"}))
    theirs = await post(request("A", "2", idempotency_key="k"))
    ledger = services.ledger
    assert await ledger.transaction(chosen) == mine.transaction
    assert await ledger.transaction(theirs.transaction.transaction_id) == theirs.transaction
    assert await ledger.transaction_by_key("k") == theirs.transaction
    await worker.settler.settle()
    assert (await ledger.transaction(chosen)).status is EntryStatus.SETTLED
    with pytest.raises(errors.TransactionNotFound):
        await ledger.transaction(uuid4())


async def test_pending_pages_are_complete_and_counts_exact(
    services: Services, open_account: OpenAccount
) -> None:
    await open_account("A", "10.00")
    await open_account("B", "10.00")
    await outcomes(services, [request(name, "0.01") for name in ("A", "B") for _ in range(24)])
    seen, cursor = [], None
    while True:
        page = await services.ledger.pending("A", cursor, 7)
        assert (page.count, page.debit_minor, page.credit_minor) == (25, 24, 1_000)
        seen += [item.transaction_id for item in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) == 25


@pytest.mark.parametrize("place", [(10**19 - 1, 1), (1, 99_999), (-1, 0), (0, -1)])
async def test_a_cursor_beyond_the_journal_is_refused(
    services: Services, open_account: OpenAccount, place: tuple[int, int]
) -> None:
    await open_account("A", "10.00")
    with pytest.raises(errors.InvalidCursor):
        await services.ledger.pending("A", encode_cursor(*place), 10)


async def test_redis_shows_what_postgres_has_before_and_after_settlement(
    services: Services, open_account: OpenAccount, worker: WorkerServices, redis_client: Any
) -> None:
    await open_account("A", "10.00")
    await services.ledger.post_transaction(request("A", "1"))
    await services.ledger.post_transaction(request("A", "3", "credit"))
    (key,) = redis_client.keys("subbalance:*:account:A")
    before = redis_client.hgetall(key)
    assert {k: before[k] for k in ("available", "settled", "pending_debit", "pending_credit")} == {
        "available": "1200",
        "settled": "0",
        "pending_debit": "100",
        "pending_credit": "1300",
    }
    await worker.settler.settle()
    after = redis_client.hgetall(key)
    assert {k: after[k] for k in ("available", "settled", "pending_debit", "pending_credit")} == {
        "available": "1200",
        "settled": "1200",
        "pending_debit": "0",
        "pending_credit": "0",
    }


async def test_a_missed_refresh_heals_with_the_next_one(
    services: Services,
    open_account: OpenAccount,
    worker: WorkerServices,
    redis_client: Any,
    database: Any,
) -> None:
    await open_account("A", "10.00")
    await services.ledger.post_transaction(request("A", "1"))
    await database.execute("SELECT settle_chunk_v1(100)")
    await services.ledger.post_transaction(request("A", "2"))
    await worker.settler.settle()
    (key,) = redis_client.keys("subbalance:*:account:A")
    fields = redis_client.hgetall(key)
    assert (fields["available"], fields["settled"], fields["pending_debit"]) == ("700", "700", "0")


async def test_a_client_that_goes_away_loses_nothing(
    services: Services, open_account: OpenAccount
) -> None:
    await open_account("A", "10.00")
    call = asyncio.create_task(
        services.ledger.post_transaction(request("A", "4", idempotency_key="k"))
    )
    await asyncio.sleep(0)
    await asyncio.sleep(0.001)
    call.cancel()
    again = await services.ledger.post_transaction(request("A", "4", idempotency_key="k"))
    assert again.transaction.change_minor == -400
    assert (await services.ledger.balance("A")).available_minor == 600


async def test_an_unknown_account_is_refused_and_can_be_opened_later(
    services: Services, open_account: OpenAccount
) -> None:
    with pytest.raises(errors.AccountNotFound):
        await services.ledger.post_transaction(request("A", "1", "credit"))
    await open_account("A")
    await services.ledger.post_transaction(request("A", "1", "credit"))


async def test_opening_an_account_again_is_answered_or_refused(
    services: Services, open_account: OpenAccount
) -> None:
    await open_account("A", "10.00", metadata={"a": "b"})
    await open_account("A", "10.00", metadata={"a": "b"})
    for opening, metadata in (("10.01", {"a": "b"}), ("10.00", {})):
        with pytest.raises(errors.AccountExists):
            await open_account("A", opening, metadata=metadata)
    assert (await services.ledger.balance("A")).available_minor == 1_000


async def test_no_client_moves_money_on_an_external_account(
    services: Services, open_account: OpenAccount
) -> None:
    await open_account("A", "10.00")
    with pytest.raises(errors.AccountReserved):
        await services.ledger.post_transaction(request("external:USD", "1"))
    assert (await services.ledger.balance("external:USD")).available_minor == -1_000
