"""Parts of bulk requests at their limits: sizes, queues, connections, and an end in between."""

import asyncio
from typing import Any

import msgspec
import pytest

from app import limits
from app.bootstrap import Services, open_services
from app.ledger.codes import Mode
from app.ledger.model import Acceptance
from app.settings import Settings
from tests.conftest import OpenAccount, eventually, serving
from tests.failure.conftest import Behind, pipeline_of, records
from tests.failure.interruptions import held_before_its_journal
from tests.failure.modes import rule_by
from tests.failure.parts import BULK, JOURNAL, body, codes, entries, said, send, settled_down
from tests.integration.test_transactions import request


@pytest.mark.parametrize("mode", [Mode.REDIS, Mode.POSTGRES])
async def test_the_largest_request_survives_a_lost_journal_reply(
    behind: Behind, database: Any, redis_client: Any, mode: Mode
) -> None:
    """Asked again, the journal must find 8,000 entries well within a statement's time."""
    await rule_by(behind.services, database, mode)
    before = await entries(database)
    asked = [request("A", "0.01", "credit")] * limits.REQUEST_ITEMS_MAX
    behind.postgres.lose_reply_to(JOURNAL)
    answers = await send(behind.services, *asked, atomic=True)
    assert behind.postgres.lost_count == 1
    assert set(codes(answers)) == {"accepted"}
    again = await send(behind.services, *asked, atomic=True)
    assert said(again) == said(answers)
    assert await entries(database) == before + limits.REQUEST_ITEMS_MAX
    assert (await behind.services.ledger.balance("A")).available_minor == 9_000
    await settled_down(behind.services, redis_client)


@pytest.mark.parametrize("mode", [Mode.REDIS, Mode.POSTGRES])
async def test_the_largest_request_may_touch_as_many_accounts(
    services: Services, database: Any, redis_client: Any, mode: Mode
) -> None:
    await database.execute(
        "INSERT INTO accounts (account_id, kind, currency, exponent, created_at, updated_at)"
        " SELECT 'N' || n, CASE n WHEN 0 THEN 'external' ELSE 'customer' END, 'USD', 2, now(),"
        " now()"
        " FROM generate_series(0, $1) AS n",
        limits.REQUEST_ITEMS_MAX,
    )
    await rule_by(services, database, mode)
    names = [f"N{n}" for n in range(1, limits.REQUEST_ITEMS_MAX + 1)]
    asked = [request(name, "1", "credit") for name in names]
    assert set(codes(await send(services, *asked, atomic=True))) == {"accepted"}
    spent = [request(name, "1") for name in names]
    assert set(codes(await send(services, *spent, key="spent", atomic=True))) == {"accepted"}
    assert await entries(database) == 2 * limits.REQUEST_ITEMS_MAX
    await settled_down(services, redis_client)


async def test_one_lost_connection_to_redis_ends_no_epoch(
    behind: Behind, redis_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All slots share it, so all of them see the one loss at the same instant."""
    keeper = pipeline_of(behind.services)._mode
    epoch = keeper.epoch
    behind.redis.stall()
    calls = [
        asyncio.create_task(send(behind.services, request("A", "1"), key=f"part{number}"))
        for number in range(3)
    ]
    await asyncio.sleep(0.05)
    behind.redis.cut()
    behind.redis.resume()
    for answers in await asyncio.gather(*calls):
        assert codes(answers) == ["accepted"]
    assert (keeper.epoch, keeper.current.mode) == (epoch, Mode.REDIS)
    await settled_down(behind.services, redis_client)


async def test_bulk_requests_leave_room_for_single_ones(
    services: Services, open_account: OpenAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients of large requests fill what they may of the queue; a single request still gets in."""
    await open_account("A", "100000.00")
    await services.ledger.post_transaction(request("A", "1"))
    async with held_before_its_journal(services, monkeypatch) as go_on:
        large = []
        for sizes in ((1,), (1,), (1,), (8_000, 8_000, 384)):
            large += [
                asyncio.create_task(send(services, *[request("A", "0.01")] * size, key=None))
                for size in sizes
            ]
            await asyncio.sleep(0.1)
        single = asyncio.create_task(services.ledger.post_transaction(request("A", "1")))
        await asyncio.wait([single], timeout=0.1)
        go_on()
        await asyncio.gather(*large, return_exceptions=True)
        assert isinstance((await asyncio.gather(single, return_exceptions=True))[0], Acceptance)


async def test_a_request_that_can_never_fit_the_queue_is_not_told_to_come_again(
    settings: Settings, open_account: OpenAccount
) -> None:
    await open_account("A", "100.00")
    small = msgspec.structs.replace(settings.ledger, queue_items=100)
    async with serving(msgspec.structs.replace(settings, ledger=small)) as api:
        answer = await api.post(BULK, json=body(*[("A", "0.01")] * 101))
    assert not answer.json().get("retryable"), answer.text


async def test_a_caller_that_goes_away_leaves_nothing_behind(
    services: Services, open_account: OpenAccount, database: Any, redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """One part is between admit and journal, three more wait; none holds money or its key."""
    await open_account("A", "5000.00")
    asked = [request("A", "1")] * 4_000
    async with held_before_its_journal(services, monkeypatch) as go_on:
        call = asyncio.create_task(send(services, *asked))
        await eventually(lambda: len(records(redis_client)) == 3)
        call.cancel()
        await asyncio.wait([call])
        go_on()
    await eventually(lambda: services.ledger._batcher.waiting_count == 0)
    await settled_down(services, redis_client)
    assert not services.ledger._batcher._claims
    assert codes(await send(services, *asked)) == ["accepted"] * 4_000
    assert await entries(database) == 4_000
    assert (await services.ledger.balance("A")).available_minor == 100_000


async def test_stopping_answers_every_part(
    settings: Settings,
    services: Services,
    open_account: OpenAccount,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Copies of one request, of which one is decided, are all told something before the end."""
    await open_account("A", "5000.00")
    async with open_services(settings) as stopping:
        calls = [
            asyncio.create_task(send(stopping, *[request("A", "1")] * 2_000, key=f"part{n % 2}"))
            for n in range(6)
        ]
        await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        await stopping.ledger._batcher.stop()
        answers = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 1)
    assert all(len(each) == 2_000 for each in answers if isinstance(each, list))
    told = {code for each in answers if isinstance(each, list) for code in codes(each)}
    assert told <= {"accepted", "stopping", "request_in_flight"}
    balance = (await services.ledger.balance("A")).available_minor
    assert balance in (100_000, 200_000, 300_000, 400_000, 500_000)
    await settled_down(services, redis_client)


async def test_lost_connections_to_redis_are_given_back(behind: Behind) -> None:
    line = pipeline_of(behind.services)._admission._scripts._line
    for number in range(20):
        call = asyncio.create_task(send(behind.services, request("A", "0.01"), key=f"part{number}"))
        await asyncio.sleep(0.002 * (number % 3))
        behind.redis.cut()
        await call
    await eventually(lambda: len(line._pool._in_use_connections) <= 1)  # type: ignore[attr-defined]
