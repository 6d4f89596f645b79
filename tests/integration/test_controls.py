"""What operators do to the ledger as a whole: exact at once, everywhere, written down, shown."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from app import errors
from app.bootstrap import Services, WorkerServices
from app.ledger.codes import Mode
from app.ledger.model import Acceptance, AccountRequest
from app.settings import Settings
from tests.conftest import OpenAccount, eventually, serving
from tests.failure.conftest import pipeline_of
from tests.integration.test_transactions import outcomes, request

CONTROL = "SELECT control_ledger_v1(0::smallint, $1, 'tester', 'a test')"


def operate(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the operator's command as a process."""
    return subprocess.run(
        [sys.executable, "-m", "app.operate", *arguments],
        cwd=Path(__file__).resolve().parents[2],
        env={
            "PATH": os.environ["PATH"],
            "DATABASE_URL": settings.postgres.url,
            "REDIS_URL": settings.redis.url,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("action", ["read_only", "drain"])
async def test_a_closed_ledger_accepts_nothing_and_still_reads(
    services: Services, open_account: OpenAccount, database: Any, action: str
) -> None:
    await open_account("A", "10.00")
    await services.ledger.post_transaction(request("A", "1", idempotency_key="k"))
    await database.execute(CONTROL, action)
    (refused,) = await outcomes(services, [request("A", "1")])
    assert isinstance(refused, errors.LedgerClosed)
    with pytest.raises(errors.LedgerClosed):
        await open_account("B", "10.00")
    assert (await services.ledger.balance("A")).available_minor == 900
    assert (await services.ledger.transaction_by_key("k")).direction == "debit"
    health = await services.ledger.health()
    assert (health.mode, health.ready) == ("closed", action == "read_only")
    again = await services.ledger.post_transaction(request("A", "1", idempotency_key="k"))
    assert again.replayed
    assert health.controls is not None
    assert (health.controls.closed, health.controls.last_action) == (True, action)
    await database.execute(CONTROL, "resume")

    async def is_open() -> bool:
        (accepted,) = await outcomes(services, [request("A", "1")])
        return isinstance(accepted, Acceptance)

    await eventually(is_open, 3)


async def test_nothing_is_accepted_after_the_ledger_was_closed(
    services: Services, open_account: OpenAccount, database: Any
) -> None:
    """Requests in flight at that moment are either committed before it or refused."""
    await open_account("A", "1000.00")
    calls = [
        asyncio.create_task(services.ledger.post_transaction(request("A", "0.01")))
        for _ in range(500)
    ]
    some = "SELECT count(*) FROM sub_balances WHERE type = 'debit'"
    await eventually(lambda: database.fetchval(some))
    await database.execute(CONTROL, "read_only")
    closed = await database.fetchval("SELECT count(*) FROM sub_balances")
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert await database.fetchval("SELECT count(*) FROM sub_balances") == closed
    accepted = [result for result in results if isinstance(result, Acceptance)]
    assert len(accepted) == closed - 1


async def test_a_closed_ledger_is_not_opened_by_a_switch(
    services: Services, worker: WorkerServices, database: Any, redis_client: Any
) -> None:
    await database.execute(CONTROL, "read_only")
    redis_client.flushall()
    keeper = pipeline_of(services)._mode
    keeper._breaker._breaker.open()
    await keeper.fall_back(keeper.epoch)
    for _ in range(5):
        await worker.recovery.step()
    assert (await keeper.read_state())["mode"] == "closed"


async def test_forced_postgres_stays_until_it_is_automatic_again(
    services: Services, worker: WorkerServices, open_account: OpenAccount, database: Any
) -> None:
    await open_account("A", "10.00")
    await database.execute(CONTROL, "force_postgres")
    (accepted,) = await outcomes(services, [request("A", "1")])
    assert accepted.transaction.mode is Mode.POSTGRES
    for _ in range(10):
        await worker.recovery.step()
    assert pipeline_of(services)._mode.current.mode is Mode.POSTGRES
    await database.execute(CONTROL, "automatic")

    async def is_back() -> bool:
        await worker.recovery.step()
        return pipeline_of(services)._mode.current.mode is Mode.REDIS

    await eventually(is_back)


async def test_forced_redis_refuses_rather_than_falls_back(
    services: Services, open_account: OpenAccount, database: Any, redis_client: Any
) -> None:
    await open_account("A", "10.00")
    await services.ledger.post_transaction(request("A", "1"))
    await database.execute(CONTROL, "force_redis")
    redis_client.config_set("requirepass", "changed")
    redis_client.client_kill_filter(_type="normal", skipme=True)
    try:
        (refused,) = await outcomes(services, [request("A", "1")])
        assert isinstance(refused, errors.RedisUnavailable)
        assert not (await services.ledger.health()).ready
        await database.execute(CONTROL, "automatic")

        async def accepted() -> bool:
            (answer,) = await outcomes(services, [request("A", "1")])
            return isinstance(answer, Acceptance)

        await eventually(accepted)
    finally:
        redis_client.config_set("requirepass", "")


async def test_every_act_is_written_down_for_ever(database: Any) -> None:
    for action in ("force_postgres", "automatic", "drain", "resume"):
        await database.execute(CONTROL, action)
    rows = await database.fetch("SELECT * FROM operator_actions ORDER BY action_no")
    assert [row["action"] for row in rows] == ["force_postgres", "automatic", "drain", "resume"]
    assert {(row["actor"], row["reason"]) for row in rows} == {("tester", "a test")}
    assert [row["epoch_after"] - row["epoch_before"] for row in rows] == [1, 0, 1, 1]
    for statement in (
        "UPDATE operator_actions SET actor = 'nobody'",
        "DELETE FROM operator_actions",
        "TRUNCATE operator_actions",
    ):
        with pytest.raises(asyncpg.RestrictViolationError):
            await database.execute(statement)


async def test_the_command_drains_settles_resumes_and_says_so(
    settings: Settings, services: Services, open_account: OpenAccount, database: Any
) -> None:
    await open_account("A", "10.00")
    await services.ledger.post_transaction(request("A", "1"))
    done = await asyncio.to_thread(operate, settings, "drain", "--by", "ops", "--reason", "upgrade")
    assert done.returncode == 0, done.stderr
    assert "drained" in done.stdout
    assert not await database.fetchval("SELECT count(*) FROM sub_balances WHERE status = 'PENDING'")
    (refused,) = await outcomes(services, [request("A", "1")])
    assert isinstance(refused, errors.LedgerClosed)
    done = await asyncio.to_thread(operate, settings, "resume")
    assert done.returncode == 0
    status = await asyncio.to_thread(operate, settings, "status")
    assert "mode postgres" in status.stdout
    assert "resume" in status.stdout


async def test_the_command_verifies_and_fails_on_a_mismatch(
    settings: Settings, services: Services, open_account: OpenAccount, database: Any
) -> None:
    await open_account("A", "10.00")
    await services.ledger.post_transaction(request("A", "1"))
    done = await asyncio.to_thread(operate, settings, "verify")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "verified")
    await database.execute("UPDATE accounts SET settled_minor = 1 WHERE account_id = 'A'")
    done = await asyncio.to_thread(operate, settings, "verify")
    assert done.returncode == 1
    assert "account A: expected 0.00, found 0.01" in done.stdout


async def test_health_shows_what_operators_have_set(settings: Settings, database: Any) -> None:
    async with serving(settings) as client:
        await database.execute(CONTROL, "force_postgres")

        async def is_shown() -> bool:
            details = (await client.get("/health/detailed")).json()
            controls = details["controls"]
            return (controls["forced_mode"], details["mode"]) == ("postgres", "postgres")

        await eventually(is_shown)
        answer: httpx.Response = await client.get("/health/detailed")
        assert answer.json()["controls"]["last_actor"] == "tester"
        assert answer.json()["status"] == "degraded"


async def test_an_account_can_be_opened_whoever_decides(services: Services, database: Any) -> None:
    await database.execute(CONTROL, "force_postgres")
    opening = AccountRequest(account_id="A", currency="USD", exponent=2, opening_minor=1_000)
    await services.ledger.open_account(opening)
    (accepted,) = await outcomes(services, [request("A", "10")])
    assert isinstance(accepted, Acceptance)
