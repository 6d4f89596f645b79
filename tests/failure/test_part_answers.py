"""What a bulk request is told under faults: as a whole, and again when it is repeated."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from app.bootstrap import Services
from app.ledger.codes import Mode
from app.ledger.model import Acceptance, Transaction
from app.settings import Settings
from tests.conftest import OpenAccount, eventually, serving
from tests.failure.conftest import behind_proxies, pipeline_of, reservations
from tests.failure.interruptions import held_before_its_journal
from tests.failure.modes import rule_by
from tests.failure.parts import BULK, JOURNAL, body, codes, entries, mixed, said, send, settled_down
from tests.failure.proxy import FaultyProxy
from tests.integration.test_transactions import request

# Answers as a whole.


async def test_an_atomic_request_named_in_part_is_answered_again_or_refused_at_once(
    services: Services, open_account: OpenAccount
) -> None:
    """Some items have a key and some have not: a repetition is not told that nothing was done."""
    await open_account("A", "10.00")
    asked = (request("A", "1", idempotency_key="x"), request("A", "2"))
    first = await send(services, *asked, key=None, atomic=True)
    again = await send(services, *asked, key=None, atomic=True)
    assert codes(first) == codes(again)


async def test_a_refusal_in_a_word_of_a_newer_version_is_left_to_that(
    services: Services, open_account: OpenAccount, database: Any
) -> None:
    """Two versions serve side by side while one takes the other's place."""
    await open_account("A", "10.00")
    asked = (request("A", "1"), request("A", "100"))
    assert codes(await send(services, *asked)) == ["accepted", "insufficient_available"]
    async with database.transaction():
        await database.execute("SET LOCAL session_replication_role = replica")
        await database.execute(
            "UPDATE journal_batches SET refusals = $1 WHERE refusals IS NOT NULL",
            '[[1, "a_later_word", "900"]]',
        )
    assert codes(await send(services, *asked)) == ["accepted", "instance_outdated"]


@asynccontextmanager
async def api_behind(
    settings: Settings,
) -> AsyncIterator[tuple[httpx.AsyncClient, FaultyProxy, FaultyProxy]]:
    """The service over HTTP behind two proxies."""
    async with (
        behind_proxies(settings, deadline_ms=2_000) as (there, redis, postgres),
        serving(there) as api,
    ):
        yield api, redis, postgres
        redis.resume()
        postgres.resume()


async def test_a_request_of_which_some_is_unknown_is_not_said_to_have_changed_nothing(
    settings: Settings, open_account: OpenAccount, database: Any
) -> None:
    """The first item was refused by Redis and the second may be journaled."""
    await open_account("A", "10.00")
    async with api_behind(settings) as (api, _redis, postgres):
        headers = {"idempotency-key": "part"}
        asked = body(("A", "100"), ("A", "1"))
        await api.post(BULK, json=body(("A", "1")))
        postgres.lose_reply_to(JOURNAL)
        call = asyncio.create_task(api.post(BULK, json=asked, headers=headers))
        await eventually(lambda: postgres.lost_count == 1)
        postgres.stall()
        answer = await call
        postgres.resume()
    assert await entries(database) == 2
    assert (answer.status_code, answer.json()["code"]) == (503, "journal_outcome_unknown")


async def test_an_atomic_request_that_is_in_flight_elsewhere_is_not_said_to_be_refused(
    settings: Settings,
    services: Services,
    open_account: OpenAccount,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its first sending is accepted in the end."""
    await open_account("A", "10.00")
    named = request("A", "10", idempotency_key="x")
    async with (
        held_before_its_journal(services, monkeypatch) as go_on,
        api_behind(settings) as (api, _redis, _postgres),
    ):
        first = asyncio.create_task(send(services, named, key=None, atomic=True))
        await eventually(lambda: reservations(redis_client))
        again = await api.post(BULK, json=body(("A", "10"), atomic=True, idempotency_key="x"))
        go_on()
        assert codes(await first) == ["accepted"]
    assert again.json()["retryable"], again.text
    assert (again.status_code, again.json()["code"]) == (409, "request_in_flight")


# Repetitions get the same answers, whoever decides.


@pytest.mark.parametrize("modes", [(a, b) for a in "rp" for b in "rp"], ids="".join)
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_a_repetition_is_answered_as_the_first_was_and_as_the_journal_has_it(
    services: Services,
    other: Services,
    open_account: OpenAccount,
    database: Any,
    redis_client: Any,
    modes: str,
    seed: int,
) -> None:
    numbers = random.Random(seed)
    for name, opening in (("A", "500.00"), ("B", "9.00"), ("C", "1.00"), ("D", "0")):
        await open_account(name, opening)
    first_mode, second_mode = (Mode.REDIS if mode == "r" else Mode.POSTGRES for mode in modes)
    asked = mixed(numbers, numbers.choice((7, 40, 1_300)))
    await rule_by(services, database, first_mode)
    await pipeline_of(other)._mode.learn()
    first = await send(services, *asked)
    rows = await entries(database)
    await open_account("X", "500.00")
    for name in "BCD":
        await services.ledger.post_transaction(request(name, "500", "credit"))
    await rule_by(services, database, second_mode)
    await pipeline_of(other)._mode.learn()
    for each in (services, other):
        again = await send(each, *asked)
        assert said(first) == said(again)
        assert all(answer.replayed for answer in again if isinstance(answer, Acceptance))
    assert await entries(database) == rows + 3
    refusals = {"account_not_found", "insufficient_available"}
    assert set(codes(first)) - {"accepted"} == refusals or len(asked) < 10
    for wanted, answer in zip(asked, first, strict=True):
        if isinstance(answer, Acceptance):
            found = await services.ledger.transaction(answer.transaction.transaction_id)
            assert same(found, answer.transaction)
            assert (found.account.account_id, found.reference) == (
                wanted.account_id,
                wanted.reference,
            )
    await settled_down(services, redis_client)


def same(one: Transaction, two: Transaction) -> bool:
    """Whether two are one transaction, except for what settlement changes."""
    return all(
        getattr(one, name) == getattr(two, name)
        for name in ("transaction_id", "account", "change_minor", "mode", "accepted_at", "metadata")
    )


async def test_an_amount_that_did_not_fit_an_account_that_was_not_there_is_refused_the_same_way(
    services: Services, open_account: OpenAccount
) -> None:
    """Its account is opened later, in a currency that has no such decimals."""
    await open_account("A", "10.00")
    asked = (request("A", "1"), request("late", "1.5"))
    first = await send(services, *asked)
    await open_account("late", "100", "JPY")
    assert said(await send(services, *asked)) == said(first)
