"""An instance that is told to end answers what is under way, whatever that waits for."""

import asyncio
from typing import Any

import asyncpg
import httpx

from app.settings import Settings
from tests.conftest import OpenAccount, eventually
from tests.failure.conftest import Processes
from tests.failure.test_killed import WAITING, let_journals_pass, stop_at_the_journal

ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "one": ("/api/v1/transaction", {"account_id": "A", "amount": "1", "type": "debit"}),
    "transfer": (
        "/api/v1/transfers",
        {"debit_account_id": "A", "credit_account_id": "B", "amount": "1"},
    ),
    "hold": ("/api/v1/holds", {"account_id": "A", "amount": "1"}),
    "bulk": (
        "/api/v1/transactions",
        {"transactions": [{"account_id": "A", "amount": "1", "type": "debit"}]},
    ),
}


async def ask(client: httpx.AsyncClient, name: str) -> httpx.Response:
    path, body = ASKED[name]
    return await client.post(path, json=body, headers={"Idempotency-Key": name})


async def test_what_outlives_a_stop_is_told_so_and_its_retry_is_the_one_acceptance(
    processes: Processes, settings: Settings, open_account: OpenAccount, database: Any
) -> None:
    await open_account("A", "10.00")
    await open_account("B", "1.00")
    async with processes.api(SUBBALANCE_DEADLINE_MS="60000") as (api, client):
        # The first one in a currency waits for an account that holds are kept on.
        first = await client.post("/api/v1/holds", json={"account_id": "B", "amount": "1"})
        assert first.status_code == 201
        await stop_at_the_journal(database)
        holding = await asyncpg.connect(settings.postgres.url)
        async with holding.transaction():
            await holding.execute("LOCK TABLE webhooks")
            calls = [asyncio.create_task(ask(client, name)) for name in ASKED]
            calls.append(asyncio.create_task(client.get("/api/v1/webhooks")))
            await eventually(lambda: database.fetchval(WAITING, "journal_batch"))
            await eventually(lambda: database.fetchval(WAITING, "webhooks"))
            api.process.terminate()
            *answers, read = await asyncio.gather(*calls)
        await holding.close()
        await let_journals_pass(database)
        await asyncio.to_thread(api.process.wait, 20)
    for answer in answers:
        assert answer.status_code == 503, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.json()["code"] in ("outcome_unknown", "journal_outcome_unknown")
        assert answer.json()["retryable"]
    assert (read.status_code, read.json()["code"]) == (503, "stopping")
    async with processes.api() as (_, client):
        again = [await ask(client, name) for name in ASKED]
        assert [each.status_code for each in again] == [201] * len(ASKED)
        balance = (await client.get("/api/v1/balance/A")).json()
    assert balance["available_balance"] == "6.00"
