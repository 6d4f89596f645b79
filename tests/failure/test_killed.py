"""Processes killed at each step of a request's way, and the settler in the middle of a chunk.

The labelled points need no hooks in the service: a lock that the test holds in PostgreSQL stops a
process exactly between admission and journal, or a settler inside its chunk.
"""

import asyncio
from typing import Any

import asyncpg
import httpx

from app.bootstrap import Services
from tests.conftest import OpenAccount, eventually
from tests.failure.conftest import Processes

FENCE_CLASS = 7301
DEBIT = {"account_id": "A", "amount": "4", "type": "debit"}
WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND wait_event_type = 'Lock' AND query LIKE '%' || $1 || '%'"
)
TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
    " AND wait_event_type = 'Lock' AND query LIKE '%' || $1 || '%'"
)


async def post(client: httpx.AsyncClient, key: str, body: dict[str, Any]) -> httpx.Response:
    return await client.post("/api/v1/transaction", json=body, headers={"Idempotency-Key": key})


async def debits(database: Any) -> int:
    return await database.fetchval("SELECT count(*) FROM sub_balances WHERE type = 'debit'")


async def test_killed_between_admit_and_journal_nothing_moved(
    processes: Processes, open_account: OpenAccount, database: Any, redis_client: Any
) -> None:
    await open_account("A", "10.00")
    async with processes.api() as (api, client):
        await stop_at_the_journal(database)
        call = asyncio.create_task(post(client, "k", DEBIT))
        await eventually(lambda: _count(database, WAITING, "journal_batch"))
        (key,) = redis_client.keys("subbalance:*:account:A")
        assert redis_client.hget(key, "available") == "600"
        api.kill()
        await database.fetch(TERMINATE, "journal_batch")
        await let_journals_pass(database)
        assert isinstance((await asyncio.gather(call, return_exceptions=True))[0], Exception)
    assert await debits(database) == 0


async def test_killed_between_journal_and_answer_the_retry_gets_the_one_acceptance(
    processes: Processes, open_account: OpenAccount, database: Any
) -> None:
    await open_account("A", "10.00")
    async with processes.api() as (api, client):
        await stop_at_the_journal(database)
        call = asyncio.create_task(post(client, "k", DEBIT))
        await eventually(lambda: _count(database, WAITING, "journal_batch"))
        api.kill()
        await let_journals_pass(database)
        assert isinstance((await asyncio.gather(call, return_exceptions=True))[0], Exception)
    await eventually(lambda: debits(database))
    async with processes.api() as (_, client):
        again = await post(client, "k", DEBIT)
        assert (again.status_code, again.headers["Idempotency-Replayed"]) == (201, "true")
        balance = (await client.get("/api/v1/balance/A")).json()
    assert balance["available_balance"] == "6.00"
    assert await debits(database) == 1


async def test_a_credit_journaled_by_a_killed_process_is_spendable_after_its_retry(
    processes: Processes, open_account: OpenAccount, database: Any
) -> None:
    await open_account("A")
    credit = {"account_id": "A", "amount": "4", "type": "credit"}
    async with processes.api() as (_, other), processes.api() as (api, client):
        await stop_at_the_journal(database)
        call = asyncio.create_task(post(client, "c", credit))
        await eventually(lambda: _count(database, WAITING, "journal_batch"))
        api.kill()
        await let_journals_pass(database)
        await asyncio.gather(call, return_exceptions=True)
        await eventually(lambda: database.fetchval("SELECT count(*) FROM sub_balances"))
        assert (await post(other, "c", credit)).headers["Idempotency-Replayed"] == "true"
        assert (await post(other, "d", DEBIT)).status_code == 201
        balance = (await other.get("/api/v1/balance/A")).json()
    assert balance["available_balance"] == "0.00"


async def test_killed_under_load_nothing_acknowledged_is_lost_and_nothing_doubled(
    processes: Processes, open_account: OpenAccount, database: Any
) -> None:
    await open_account("A", "100000.00")
    acknowledged: set[str] = set()
    sent = [f"k{number}" for number in range(3_000)]

    async def send(client: httpx.AsyncClient, keys: list[str]) -> None:
        for key in keys:
            answer = await post(client, key, DEBIT)
            if answer.status_code == 201:
                acknowledged.add(key)

    async with processes.api() as (api, client):
        loads = [asyncio.create_task(send(client, sent[n::16])) for n in range(16)]
        await eventually(lambda: len(acknowledged) > 300)
        api.kill()
        await asyncio.gather(*loads, return_exceptions=True)
    assert 300 < len(acknowledged) < len(sent)
    journaled = {
        row["name"].removeprefix("key:")
        for row in await database.fetch("SELECT name FROM idempotency_keys WHERE name LIKE 'key:%'")
    }
    assert acknowledged <= journaled
    async with processes.api() as (_, client):
        for key in sorted(journaled)[:50]:
            assert (await post(client, key, DEBIT)).headers["Idempotency-Replayed"] == "true"
        balance = (await client.get("/api/v1/balance/A")).json()
    assert await debits(database) == len(journaled)
    assert float(balance["available_balance"]) == 100_000 - 4 * len(journaled)


async def test_a_settler_killed_inside_a_chunk_left_nothing_half_done(
    processes: Processes,
    services: Services,
    open_account: OpenAccount,
    database: Any,
    database_url: str,
) -> None:
    await open_account("A", "10.00")
    await open_account("B", "5.00")
    holding = await asyncpg.connect(database_url)
    hold = holding.transaction()
    await hold.start()
    await holding.execute("SELECT FROM accounts WHERE account_id = 'B' FOR UPDATE")
    worker = processes.start("app.workers")
    await eventually(lambda: _count(database, WAITING, "settle_chunk"), 20)
    worker.kill()
    await database.fetch(TERMINATE, "settle_chunk")
    await hold.rollback()
    await holding.close()
    assert await database.fetchval("SELECT count(*) FROM settlements") == 0
    assert (await services.ledger.balance("A")).settled_minor == 0
    processes.start("app.workers")

    async def is_settled() -> bool:
        return (await services.ledger.balance("A")).settled_minor == 1_000

    await eventually(is_settled, 20)
    assert (await services.ledger.balance("B")).settled_minor == 500
    assert await database.fetchval("SELECT sum(entry_count) FROM settlements") == 2


async def test_of_two_workers_one_leads_and_the_other_takes_over(
    processes: Processes, services: Services, open_account: OpenAccount
) -> None:
    first = processes.start("app.workers")
    await eventually(lambda: "leads" in first.log.read_text(), 20)
    second = processes.start("app.workers")
    await open_account("A", "10.00")

    async def is_settled() -> bool:
        return (await services.ledger.balance("A")).pending_credit_minor == 0

    await eventually(is_settled, 20)
    assert "leads" not in second.log.read_text()
    first.kill()
    await eventually(lambda: "leads" in second.log.read_text(), 20)


async def _count(database: Any, query: str, word: str) -> int:
    return await database.fetchval(query, word)


async def stop_at_the_journal(database: Any) -> None:
    """Hold the fence as a switch would, so that every journal call waits in front of it."""
    await database.execute(f"SELECT pg_advisory_lock({FENCE_CLASS}, 0)")


async def let_journals_pass(database: Any) -> None:
    await database.execute(f"SELECT pg_advisory_unlock({FENCE_CLASS}, 0)")
