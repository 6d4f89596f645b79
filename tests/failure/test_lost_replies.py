"""Replies lost after execution, stalls and cuts between the service and its servers.

The outcome of a lost reply is found out before the client is answered, or the client is told so.
"""

import asyncio
from typing import Any

import asyncpg
import pytest

from app import errors
from app.bootstrap import Services, open_services
from app.infra.embedded import EmbeddedPostgres
from app.infra.redis import REDIS_ERRORS
from app.infra.scripts import LuaScripts
from app.ledger.model import Acceptance
from app.settings import Settings
from tests.conftest import OpenAccount, eventually
from tests.failure.conftest import (
    Behind,
    account_fields,
    account_key,
    pipeline_of,
    put_in_flight,
    records,
    reservations,
)
from tests.failure.proxy import ADMIT, CONFIRM
from tests.integration.test_transactions import outcomes, request

# What only the journal call of a request whose key is "k" carries on the wire.
JOURNAL = b"key:k"


async def post(behind: Behind, amount: str, direction: str = "debit", **more: Any) -> Acceptance:
    return await behind.services.ledger.post_transaction(
        request("A", amount, direction, **{"idempotency_key": "k", **more})
    )


async def rows(database: Any) -> int:
    return await database.fetchval("SELECT count(*) FROM sub_balances") - 3


@pytest.mark.parametrize("direction", ["debit", "credit"])
@pytest.mark.parametrize(
    ("where", "marker", "times"),
    [("redis", ADMIT, 1), ("redis", ADMIT, 2), ("redis", CONFIRM, 1), ("redis", CONFIRM, 3),
     ("postgres", JOURNAL, 1), ("postgres", JOURNAL, 3)],
)  # fmt: skip
async def test_a_reply_lost_after_execution_moves_money_once(
    behind: Behind,
    database: Any,
    redis_client: Any,
    direction: str,
    where: str,
    marker: bytes,
    times: int,
) -> None:
    proxy = getattr(behind, where)
    proxy.lose_reply_to(marker, times)
    result = await post(behind, "4", direction)
    assert not result.replayed
    await eventually(lambda: proxy.lost_count == times)
    assert await rows(database) == 1
    expected = 600 if direction == "debit" else 1_400
    assert (await behind.services.ledger.balance("A")).available_minor == expected

    async def redis_agrees() -> bool:
        fields = account_fields(redis_client)
        left = reservations(redis_client)
        return (fields["available"], fields["incoming"], left) == (str(expected), "0", [])

    await eventually(redis_agrees)


async def test_a_journal_that_cannot_be_asked_is_said_to_be_unknown_and_a_retry_tells(
    behind: Behind, database: Any, redis_client: Any
) -> None:
    behind.postgres.lose_reply_to(JOURNAL)
    call = asyncio.create_task(post(behind, "4"))
    await eventually(lambda: behind.postgres.lost_count == 1)
    behind.postgres.stall()
    with pytest.raises(errors.JournalOutcomeUnknown):
        await call
    behind.postgres.resume()

    async def retried() -> Acceptance | None:
        try:
            return await post(behind, "4")
        except errors.Unavailable:
            return None

    assert (await eventually(retried)).replayed
    assert await rows(database) == 1
    assert account_fields(redis_client)["available"] == "600"


@pytest.mark.reliability(redis_fallback=False, breaker_timeout_ms=100)
async def test_while_redis_stalls_requests_are_refused_in_time_and_nothing_leaks(
    behind: Behind, database: Any, redis_client: Any
) -> None:
    behind.redis.stall()
    loop = asyncio.get_running_loop()
    started = loop.time()
    results = await outcomes(behind.services, [request("A", "0.10") for _ in range(20)])
    assert all(isinstance(result, errors.Unavailable) for result in results)
    assert loop.time() - started < 8
    behind.redis.resume()

    async def accepted() -> bool:
        try:
            await post(behind, "4")
        except errors.Unavailable:
            return False
        return True

    await eventually(accepted)
    assert await rows(database) == 1
    assert account_fields(redis_client)["available"] == "600"


async def test_cut_connections_are_not_seen_by_clients(behind: Behind, database: Any) -> None:
    await outcomes(behind.services, [request("A", "0.01") for _ in range(20)])
    for number in range(5):
        behind.redis.cut()
        behind.postgres.cut()
        result = await post(behind, "1", idempotency_key=f"k{number}")
        assert not result.replayed
    assert (await behind.services.ledger.balance("A")).available_minor == 480


async def test_the_client_of_redis_never_sends_a_script_again_by_itself(behind: Behind) -> None:
    """A money script sent again behind our back could run eleven times."""
    client = pipeline_of(behind.services)._mode._redis
    behind.redis.lose_reply_to(b"probe-key", 5)
    with pytest.raises(REDIS_ERRORS):
        await client.incr("probe-key")
    assert behind.redis.lost_count == 1


async def test_an_anonymous_request_journaled_before_a_switch_is_not_journaled_again(
    behind: Behind, database: Any, redis_client: Any, settings: Settings
) -> None:
    """Its journal reply is lost and another instance opens an epoch before it is sent again."""
    behind.postgres.lose_reply_to(b"marked")
    call = asyncio.create_task(post(behind, "1", idempotency_key=None, reference="marked"))
    await eventually(lambda: behind.postgres.lost_count == 1)
    behind.postgres.stall()
    await eventually(lambda: rows(database))
    redis_client.flushall()
    async with open_services(settings):
        behind.postgres.resume()
        assert not (await call).replayed
    assert await rows(database) == 1


async def test_an_error_after_an_unanswered_sending_is_no_refusal(
    behind: Behind, database: Any, redis_client: Any, postgres_server: EmbeddedPostgres
) -> None:
    """Taken for one, the reservation of a journaled debit would be given back and spent again."""
    name = await database.fetchval("SELECT current_database()")
    admin = await asyncpg.connect(postgres_server.url)
    behind.postgres.lose_reply_to(JOURNAL)
    call = asyncio.create_task(post(behind, "10"))
    await eventually(lambda: behind.postgres.lost_count == 1)
    behind.postgres.stall()
    await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    await database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    behind.postgres.resume()
    with pytest.raises(errors.OutcomeUnknown):
        await call
    await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    await admin.close()
    assert await rows(database) == 1

    async def refused() -> bool:
        try:
            await post(behind, "10", idempotency_key="other")
        except errors.InsufficientAvailable:
            return True
        except errors.Unavailable:
            return False
        raise AssertionError("the same money was spent twice")

    await eventually(refused, 20)


async def test_a_statement_refused_after_an_unanswered_sending_is_no_refusal(
    behind: Behind, database: Any, redis_client: Any
) -> None:
    """The second sending fails for a reason of its own; the first one was journaled."""
    behind.postgres.lose_reply_to(JOURNAL)
    call = asyncio.create_task(post(behind, "10"))
    await eventually(lambda: behind.postgres.lost_count == 1)
    behind.postgres.stall()
    await database.execute("ALTER FUNCTION journal_batch_v5 RENAME TO journal_batch_away")
    behind.postgres.resume()
    with pytest.raises(errors.OutcomeUnknown):
        await call
    assert account_fields(redis_client)["available"] == "0"
    await database.execute("ALTER FUNCTION journal_batch_away RENAME TO journal_batch_v5")

    async def retried() -> Acceptance | None:
        try:
            return await post(behind, "10")
        except (errors.Unavailable, errors.RequestInFlight):
            return None

    assert (await eventually(retried, 20)).replayed
    assert await rows(database) == 1


@pytest.mark.reliability(redis_fallback=False, breaker_timeout_ms=100)
@pytest.mark.parametrize("where", ["redis", "postgres"])
async def test_a_retry_behind_an_undecided_request_keeps_its_own_deadline(
    behind: Behind, where: str
) -> None:
    getattr(behind, where).stall()
    with pytest.raises(errors.LedgerError):
        await post(behind, "4")
    with pytest.raises(errors.LedgerError) as refused:
        await asyncio.wait_for(post(behind, "4"), 8)
    assert refused.value.retryable


@pytest.mark.reliability(redis_fallback=False, breaker_timeout_ms=100)
async def test_the_confirm_of_another_attempt_holds_nobody_up(
    behind: Behind, database: Any, redis_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead process's reservation is told by a retry, and Redis stalls at that moment."""
    await post(behind, "1", "credit", idempotency_key="dead")
    key = account_key(redis_client)
    attempt_id = await database.fetchval("SELECT max(attempt_id) FROM journal_batches")
    put_in_flight(redis_client, key, attempt_id, 100, "0:key:dead")
    redis_client.hincrby(key, "available", -100)
    redis_client.hincrby(key, "pending_credit", -100)
    admission = pipeline_of(behind.services)._admission
    admit = admission.admit

    async def admit_and_stall(*arguments: Any) -> Any:
        decided = await admit(*arguments)
        behind.redis.stall()
        return decided

    monkeypatch.setattr(admission, "admit", admit_and_stall)
    again = post(behind, "1", "credit", idempotency_key="dead")
    both = [asyncio.create_task(again), asyncio.create_task(post(behind, "1"))]
    await asyncio.wait_for(asyncio.gather(*both, return_exceptions=True), 8)
    assert not both[1].exception()
    monkeypatch.undo()
    behind.redis.resume()

    async def told() -> bool:
        try:
            await post(behind, "1", "credit", idempotency_key="dead")
        except errors.Unavailable:
            return False
        return all(record.attempt_id != attempt_id for record in records(redis_client))

    await eventually(told)
    await eventually(lambda: not records(redis_client))
    assert redis_client.hmget(key, "available", "incoming") == ["1000", "0"]


async def test_a_connection_that_closes_while_it_is_made_is_a_lost_one(
    services: Services, open_account: OpenAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop then says so by an error that Redis's client does not know."""
    await open_account("A", "10.00")
    call, failed = LuaScripts.call, []

    async def closed_at_first(scripts: LuaScripts, name: str, keys: Any, arguments: Any) -> Any:
        if name == "admit" and not failed:
            failed.append(name)
            raise RuntimeError("unable to perform operation; the handler is closed")
        return await call(scripts, name, keys, arguments)

    monkeypatch.setattr(LuaScripts, "call", closed_at_first)
    accepted = await services.ledger.post_transaction(request("A", "1"))
    assert failed
    assert not accepted.replayed
