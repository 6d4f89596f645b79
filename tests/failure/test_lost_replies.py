"""Replies lost after execution, stalls and cuts between the service and its servers.

The outcome of a lost reply is found out before the client is answered, or the client is told so.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import msgspec
import pytest

from app import errors
from app.bootstrap import Services, open_services
from app.infra.redis import REDIS_ERRORS
from app.kit.money import currency_exponent
from app.ledger.model import Acceptance, AccountRequest
from app.settings import Settings
from tests.conftest import eventually
from tests.failure.proxy import FaultyProxy, proxied
from tests.integration.test_transactions import outcomes, request

# What only a call of this kind carries on the wire.
ADMIT, CONFIRM, JOURNAL = b"9000000000000000000", b"journaled", b"key:k"


class Behind(NamedTuple):
    """The ledger behind two proxies."""

    services: Services
    redis: FaultyProxy
    postgres: FaultyProxy


@pytest.fixture
async def behind(settings: Settings) -> AsyncIterator[Behind]:
    async with (
        proxied(settings.redis.url) as (redis_url, redis),
        proxied(settings.postgres.url) as (postgres_url, postgres),
    ):
        there = msgspec.structs.replace(
            settings,
            redis=msgspec.structs.replace(settings.redis, url=redis_url, timeout_ms=300),
            postgres=msgspec.structs.replace(settings.postgres, url=postgres_url, timeout_ms=1_000),
            ledger=msgspec.structs.replace(settings.ledger, deadline_ms=3_000),
        )
        async with open_services(there) as services:
            opening = AccountRequest(
                account_id="A",
                currency="USD",
                exponent=currency_exponent("USD"),
                opening_minor=1_000,
            )
            await services.ledger.open_account(opening)
            await services.ledger.post_transaction(request("A", "0.50"))
            await services.ledger.post_transaction(request("A", "0.50", "credit"))
            yield Behind(services, redis, postgres)
            redis.resume()
            postgres.resume()


async def post(behind: Behind, amount: str, direction: str = "debit", **more: Any) -> Acceptance:
    return await behind.services.ledger.post_transaction(
        request("A", amount, direction, **{"idempotency_key": "k", **more})
    )


async def rows(database: Any) -> int:
    return await database.fetchval("SELECT count(*) FROM sub_balances") - 3


async def redis_hash(redis_client: Any) -> dict[str, str]:
    (key,) = redis_client.keys("subbalance:*:account:A")
    return redis_client.hgetall(key)


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
        fields = await redis_hash(redis_client)
        in_flight = [name for name in fields if name.startswith("f:")]
        return (fields["available"], fields["incoming"], in_flight) == (str(expected), "0", [])

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
    assert (await redis_hash(redis_client))["available"] == "600"


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
    assert (await redis_hash(redis_client))["available"] == "600"


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
    client = behind.services.ledger._redis
    behind.redis.lose_reply_to(b"probe-key", 5)
    with pytest.raises(REDIS_ERRORS):
        await client.incr("probe-key")
    assert behind.redis.lost_count == 1
