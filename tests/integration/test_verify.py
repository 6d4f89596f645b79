"""Verification: exact under traffic, and a change of one cent anywhere is found and named."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from app.bootstrap import Services, WorkerServices
from app.ledger.model import Mismatch, Verification
from tests.conftest import OpenAccount, eventually
from tests.failure.conftest import put_in_flight, reservations
from tests.failure.test_hold_faults import place
from tests.failure.transfers import send
from tests.integration.test_transactions import outcomes, request


async def with_history(
    services: Services, worker: WorkerServices, open_account: OpenAccount, redis_client: Any
) -> None:
    """Some accounts with settled and pending movements, and nothing in flight."""
    for name in ("A", "B"):
        await open_account(name, "10.00", credit_limit_minor=500)
    requests = [
        request(name, "0.10", direction) for name in "AB" for direction in ("debit", "credit")
    ]
    await outcomes(services, requests)
    await worker.settler.settle()
    await outcomes(services, requests)
    await send(services, ("A", "B", "0.10"), ("B", "A", "0.10"))
    await place(services, "0.10", credit_account_id=None)
    await services.ledger.post_transaction(request("A", "0.10", "credit"))
    await eventually(lambda: not reservations(redis_client))


async def test_sound_books_are_verified_whole(
    services: Services, worker: WorkerServices, open_account: OpenAccount, redis_client: Any
) -> None:
    await with_history(services, worker, open_account, redis_client)
    verification = await services.ledger.verify()
    assert verification.mismatches == ()
    assert verification.complete
    compared = verification.compared
    assert compared["redis_accounts"] == 3
    assert compared["accounts"] == 4
    assert compared["entries"] == 17
    assert compared["holds"] == 1
    assert compared["settlements"] == 1
    assert compared["settlement_lines"] == 2


async def test_books_are_exact_while_traffic_flows(
    services: Services, worker: WorkerServices, open_account: OpenAccount
) -> None:
    for number in range(5):
        await open_account(f"A{number}", "100.00")
    stopping = asyncio.Event()

    async def client(number: int) -> int:
        sent = 0
        while not stopping.is_set():
            name, direction = f"A{(number + sent) % 5}", "debit" if sent % 3 else "credit"
            key = f"k{number}.{sent // 2}"
            more = {"idempotency_key": key} if sent % 4 == 0 else {}
            await outcomes(services, [request(name, "0.50", direction, **more)])
            sent += 1
        return sent

    async def settling() -> None:
        while not stopping.is_set():
            await worker.settler.settle()
            await asyncio.sleep(0.02)

    clients = [asyncio.create_task(client(number)) for number in range(20)]
    tasks = [*clients, asyncio.create_task(settling())]
    in_flight = 0
    for _ in range(15):
        verification = await services.ledger.verify()
        assert verification.mismatches == ()
        in_flight += verification.compared.get("reservations_in_flight", 0)
    stopping.set()
    await asyncio.gather(*tasks)
    assert in_flight, "no verification met a reservation in flight: it proved less than it says"


Change = Callable[[Any, Any], Awaitable[None]]


async def cent_in_redis(redis_client: Any, _database: Any, field: str = "available") -> None:
    (key,) = redis_client.keys("subbalance:*:account:A")
    redis_client.hincrby(key, field, 1)


async def cent_in_a_balance(_redis: Any, database: Any) -> None:
    await database.execute(
        "UPDATE accounts SET settled_minor = settled_minor + 1 WHERE account_id = 'A'"
    )


async def cent_in_an_entry(_redis: Any, database: Any, status: str) -> None:
    await database.execute("SET session_replication_role = replica")
    await database.execute(
        "UPDATE journal_entries e SET change_minor = change_minor + 1"
        " FROM journal_batches b, accounts a"
        " WHERE b.batch_seq = e.batch_seq AND a.account_no = e.account_no AND b.status = $1"
        " AND a.account_id = 'A' AND e.change_minor < 0",
        status,
    )


async def cent_in_a_line(_redis: Any, database: Any) -> None:
    await database.execute("SET session_replication_role = replica")
    await database.execute(
        "UPDATE settlement_lines l SET credit_minor = credit_minor + 1 FROM accounts a"
        " WHERE a.account_no = l.account_no AND a.account_id = 'A'"
    )


async def entry_gone(_redis: Any, database: Any) -> None:
    await database.execute("SET session_replication_role = replica")
    await database.execute(
        "DELETE FROM journal_entries e USING accounts a, journal_batches b"
        " WHERE a.account_no = e.account_no AND b.batch_seq = e.batch_seq"
        " AND b.status = 'PENDING' AND a.account_id = 'A' AND change_minor > 0"
    )


async def hash_gone(redis_client: Any, _database: Any) -> None:
    redis_client.delete(*redis_client.keys("subbalance:*:account:A"))


async def link_changed(_redis: Any, database: Any) -> None:
    """One half of a transfer is said to be of another one."""
    await database.execute("SET session_replication_role = replica")
    await database.execute(
        "UPDATE journal_batches SET transfer_nos[1] = 7 WHERE transfer_nos IS NOT NULL"
    )


async def group_in_part(_redis: Any, database: Any) -> None:
    """The second transfer of a group is not there, as if it had been left out."""
    await database.execute("SET session_replication_role = replica")
    await database.execute(
        "DELETE FROM journal_entries e USING journal_batches b WHERE b.batch_seq = e.batch_seq"
        " AND b.transfer_nos[e.item_no + 1] = 1"
    )
    await database.execute(
        "UPDATE journal_batches b SET entry_count = 2, changes_minor = ("
        " SELECT array_agg(CASE WHEN b.transfer_nos[i.n] = 0 THEN i.change END ORDER BY i.n)"
        "   FROM unnest(b.changes_minor) WITH ORDINALITY AS i (change, n))"
        " WHERE b.transfer_nos IS NOT NULL"
    )


async def hold_captured(_redis: Any, database: Any) -> None:
    await database.execute("SET session_replication_role = replica")
    await database.execute("UPDATE holds SET captured_minor = captured_minor + 1")


async def hold_of_another(_redis: Any, database: Any) -> None:
    """It is not the amount that was set aside."""
    await database.execute("SET session_replication_role = replica")
    await database.execute("UPDATE holds SET amount_minor = amount_minor + 1")


async def hold_gone(_redis: Any, database: Any) -> None:
    await database.execute("SET session_replication_role = replica")
    await database.execute("DELETE FROM hold_acts")
    await database.execute("DELETE FROM holds")


async def chain_cut(_redis: Any, database: Any) -> None:
    await database.execute("SET session_replication_role = replica")
    await database.execute(
        "UPDATE settlement_lines l SET settled_after_minor = settled_after_minor + 1"
        " FROM accounts a WHERE a.account_no = l.account_no AND a.account_id = 'A'"
    )


CHANGES: list[tuple[str, str, str, Change]] = [
    ("redis_available", "redis", "A", cent_in_redis),
    ("redis_incoming", "redis", "A", lambda r, d: cent_in_redis(r, d, "incoming")),
    ("redis_sums", "redis", "A", lambda r, d: cent_in_redis(r, d, "pending_debit")),
    ("redis_settled", "redis", "A", lambda r, d: cent_in_redis(r, d, "settled")),
    ("redis_settled", "redis", "A", lambda r, d: cent_in_redis(r, d, "version")),
    ("redis_vanished", "redis", "A", hash_gone),
    ("account_settled", "postgres", "A", cent_in_a_balance),
    ("conservation", "postgres", "external:USD", cent_in_a_balance),
    ("entry", "postgres", "A", lambda r, d: cent_in_an_entry(r, d, "PENDING")),
    ("entry", "postgres", "A", lambda r, d: cent_in_an_entry(r, d, "SETTLED")),
    ("settlement_line", "postgres", "A", lambda r, d: cent_in_an_entry(r, d, "SETTLED")),
    ("settlement_line", "postgres", "A", cent_in_a_line),
    ("line_chain", "postgres", "A", chain_cut),
    ("entry", "postgres", "", entry_gone),
    ("transfer", "postgres", "A", link_changed),
    ("group", "postgres", "", group_in_part),
    ("hold", "postgres", "A", hold_captured),
    ("hold", "postgres", "A", hold_of_another),
    ("holding", "postgres", "holding:USD", hold_gone),
]


@pytest.mark.parametrize(("kind", "store", "account_id", "change"), CHANGES)
async def test_a_change_of_one_cent_is_found_and_named(
    services: Services,
    worker: WorkerServices,
    open_account: OpenAccount,
    redis_client: Any,
    database: Any,
    kind: str,
    store: str,
    account_id: str,
    change: Change,
) -> None:
    await with_history(services, worker, open_account, redis_client)
    assert (await services.ledger.verify()).is_clean
    await change(redis_client, database)
    found = [
        mismatch
        for mismatch in (await services.ledger.verify()).mismatches
        if (mismatch.kind, mismatch.store) == (kind, store)
    ]
    assert account_id in [mismatch.account_id or "" for mismatch in found]
    assert found[0].expected != found[0].found


async def test_the_figures_of_a_mismatch_are_those_of_the_account(
    services: Services,
    worker: WorkerServices,
    open_account: OpenAccount,
    redis_client: Any,
    database: Any,
) -> None:
    await with_history(services, worker, open_account, redis_client)
    await cent_in_redis(redis_client, database)
    found = (await services.ledger.verify()).mismatches
    assert found[0] == Mismatch(
        kind="redis_available", store="redis", account_id="A", expected="15.00", found="15.01"
    )


async def test_a_redis_that_diverged_begins_anew_and_postgres_stays_as_it_is(
    services: Services,
    worker: WorkerServices,
    open_account: OpenAccount,
    redis_client: Any,
    database: Any,
) -> None:
    await with_history(services, worker, open_account, redis_client)
    before = await database.fetch("SELECT * FROM accounts ORDER BY account_no")
    await cent_in_redis(redis_client, database)
    verification = await worker.consistency.step()
    assert [mismatch.account_id for mismatch in verification.mismatches] == ["A", "A"]
    health = await services.ledger.health()
    assert health.consistency is not None
    assert (health.consistency.ok, health.consistency.mismatch_count) == (False, 2)
    await outcomes(services, [request("A", "0.10")])
    assert (await worker.consistency.step()).is_clean
    assert (await services.ledger.balance("A")).available_minor == 1_490
    assert await database.fetch("SELECT * FROM accounts ORDER BY account_no") == before
    reasons = await database.fetch("SELECT reason FROM ledger_epochs ORDER BY epoch")
    assert "redis diverged" in reasons[-1]["reason"]


async def test_where_postgres_differs_nothing_is_repaired(
    services: Services,
    worker: WorkerServices,
    open_account: OpenAccount,
    redis_client: Any,
    database: Any,
) -> None:
    await with_history(services, worker, open_account, redis_client)
    epoch = (await services.ledger.health()).epoch
    await cent_in_an_entry(redis_client, database, "PENDING")
    for _ in range(2):
        verification = await worker.consistency.step()
        assert {mismatch.store for mismatch in verification.mismatches} == {"redis", "postgres"}
    assert (await services.ledger.health()).epoch == epoch


async def test_a_reservation_nobody_ends_is_a_mismatch(
    services: Services, open_account: OpenAccount, redis_client: Any
) -> None:
    await open_account("A", "10.00")
    await services.ledger.post_transaction(request("A", "1"))
    await eventually(lambda: not reservations(redis_client))
    (key,) = redis_client.keys("subbalance:*:account:A")
    put_in_flight(redis_client, key, 77, -100)
    verifier = services.ledger._verifier
    now = 0.0
    verifier._comparison._clock = lambda: now
    assert (await verifier.verify(10)).is_clean
    now = 31.0
    found = (await verifier.verify(10)).mismatches
    assert [(mismatch.kind, mismatch.account_id) for mismatch in found] == [
        ("reservation_leaked", "A")
    ]


async def test_a_long_history_is_gone_through_in_several_runs(
    services: Services,
    worker: WorkerServices,
    open_account: OpenAccount,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
    database: Any,
) -> None:
    monkeypatch.setattr("app.ledger.verify._PAGE", 1)
    await with_history(services, worker, open_account, redis_client)
    await cent_in_an_entry(redis_client, database, "PENDING")
    verifier = services.ledger._verifier
    ticks = iter(range(10**6))
    monkeypatch.setattr("app.ledger.verify._now", lambda: next(ticks) / 10)
    seen: list[Verification] = [await verifier.verify(2) for _ in range(10)]
    assert not all(verification.complete for verification in seen)
    assert any(
        mismatch.kind == "entry" for verification in seen for mismatch in verification.mismatches
    )


async def test_the_api_tells_what_was_compared(api: httpx.AsyncClient) -> None:
    opening = {"account_id": "A", "opening_balance": "10"}
    assert (await api.post("/api/v1/accounts", json=opening)).status_code == 201
    body = {"account_id": "A", "amount": "1", "type": "debit"}
    assert (await api.post("/api/v1/transaction", json=body)).status_code == 201
    answer = await api.get("/api/v1/verify")
    told = answer.json()
    assert (answer.status_code, told["status"], told["complete"]) == (200, "verified", True)
    assert told["mismatches"] == []
    assert told["compared"]["redis_accounts"] == 1
    assert told["duration_ms"] > 0
