"""Parts of bulk requests under faults: atomic requests, and requests with one key for all of it."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import httpx
import msgspec
import pytest

from app import errors, limits
from app.bootstrap import Services, WorkerServices, open_services
from app.ledger.codes import Mode
from app.ledger.model import Acceptance, Transaction, TransactionRequest
from app.ledger.reaper import ReapedCount
from app.settings import Settings
from tests.conftest import OpenAccount, eventually, serving
from tests.failure.conftest import Behind, pipeline_of, records, reservations
from tests.failure.proxy import FaultyProxy, proxied
from tests.failure.test_lost_replies import ADMIT, CONFIRM
from tests.integration.test_controls import CONTROL
from tests.integration.test_transactions import request

BULK, SINGLE = "/api/v1/transactions", "/api/v1/transaction"
JOURNAL = b"key:part"


@pytest.fixture
async def other(settings: Settings) -> AsyncIterator[Services]:
    """A second instance."""
    async with open_services(settings) as services:
        yield services


async def send(
    services: Services, *asked: TransactionRequest, key: str | None = "part", atomic: bool = False
) -> list[Any]:
    return await services.ledger.post_transactions(asked, key, atomic=atomic)


def said(answers: list[Any]) -> list[Any]:
    """What a client is told of each item, whether it is told for the first time or again."""
    return [
        (each.code, each.members)
        if isinstance(each, errors.LedgerError)
        else (each.transaction.transaction_id, each.transaction.account.account_id,
              each.transaction.change_minor, each.transaction.mode, each.transaction.accepted_at)
        for each in answers
    ]  # fmt: skip


def codes(answers: list[Any]) -> list[str]:
    return ["accepted" if isinstance(each, Acceptance) else each.code for each in answers]


async def entries(database: Any) -> int:
    """Movements that are no openings."""
    return await database.fetchval(
        "SELECT count(*) FROM journal_entries WHERE reference IS DISTINCT FROM 'opening balance'"
    )


async def settled_down(services: Services, redis_client: Any) -> None:
    """Nothing is in flight, and Redis and PostgreSQL agree on everything."""
    await eventually(lambda: not records(redis_client))
    verification = await services.ledger.verify()
    assert verification.is_clean, verification.mismatches


@asynccontextmanager
async def held_before_its_journal(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[[], None]]:
    """Hold an instance between admit and journal; yields what lets it go on."""
    journal = pipeline_of(services)._journal
    write, going = journal.write, asyncio.Event()

    async def wait_and_write(*arguments: Any, **more: Any) -> Any:
        await going.wait()
        return await write(*arguments, **more)

    monkeypatch.setattr(journal, "write", wait_and_write)
    try:
        yield going.set
    finally:
        going.set()


# Two sendings of one request to two instances.


async def test_a_second_sending_is_not_refused_for_what_the_first_has_reserved(
    services: Services,
    other: Services,
    open_account: OpenAccount,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await open_account("A", "10.00")
    async with held_before_its_journal(services, monkeypatch) as go_on:
        first = asyncio.create_task(send(services, request("A", "10")))
        await eventually(lambda: reservations(redis_client))
        second = asyncio.create_task(send(other, request("A", "10")))
        await asyncio.wait([second], timeout=0.5)
        go_on()
        answers = await asyncio.gather(first, second)
    assert said(answers[0]) == said(answers[1])
    assert [codes(each) for each in answers] == [["accepted"], ["accepted"]]
    await settled_down(services, redis_client)


async def test_a_second_sending_remembers_no_refusal_that_only_the_first_caused(
    services: Services,
    other: Services,
    open_account: OpenAccount,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first has reserved everything; there is enough for either sending, not for both."""
    await open_account("A", "10.00")
    await open_account("B", "10.00")
    asked = (request("A", "6"), request("B", "1"))
    async with held_before_its_journal(services, monkeypatch) as go_on:
        first = asyncio.create_task(send(services, *asked))
        await eventually(lambda: reservations(redis_client))
        second = asyncio.create_task(send(other, *asked))
        await asyncio.wait([second], timeout=0.5)
        go_on()
        answers = await asyncio.gather(first, second)
    assert [codes(each) for each in answers] == [["accepted"] * 2] * 2
    assert said(answers[0]) == said(answers[1])
    await settled_down(services, redis_client)


# One key names one request.


async def test_a_longer_request_under_a_used_key_moves_nothing(
    services: Services, open_account: OpenAccount, database: Any
) -> None:
    await open_account("A", "5000.00")
    asked = [request("A", "1")] * limits.BATCH_ITEMS_MAX
    await send(services, *asked)
    again = await send(services, *asked, request("A", "1"))
    assert set(codes(again)) == {"idempotency_key_reused"}
    assert await entries(database) == limits.BATCH_ITEMS_MAX


async def test_a_shorter_request_under_a_used_key_is_no_repetition(
    services: Services, open_account: OpenAccount
) -> None:
    await open_account("A", "5000.00")
    asked = [request("A", "1")] * limits.BATCH_ITEMS_MAX
    await send(services, *asked, request("A", "1"))
    assert set(codes(await send(services, *asked))) == {"idempotency_key_reused"}


async def test_an_atomic_request_is_not_repeated_in_parts(
    services: Services, open_account: OpenAccount, database: Any
) -> None:
    """The same items, the same key, and only `atomic` differs: nothing may move again."""
    await open_account("A", "5000.00")
    asked = [request("A", "1")] * (limits.BATCH_ITEMS_MAX + 500)
    await send(services, *asked, atomic=True)
    again = await send(services, *asked)
    assert (await services.ledger.balance("A")).available_minor == 500_000 - 100 * len(asked)
    assert set(codes(again)) == {"idempotency_key_reused"}


async def test_a_key_of_a_single_transaction_moves_nothing_more_in_a_long_request(
    services: Services, open_account: OpenAccount, database: Any
) -> None:
    await open_account("A", "5000.00")
    await services.ledger.post_transaction(request("A", "1", idempotency_key="part"))
    answers = await send(services, *[request("A", "1")] * (limits.BATCH_ITEMS_MAX + 1))
    assert set(codes(answers)) == {"idempotency_key_reused"}
    assert await entries(database) == 1


async def test_a_request_whose_first_part_was_refused_still_has_its_key(
    services: Services, open_account: OpenAccount, database: Any
) -> None:
    """All of the first thousand is refused, and the rest accepted: the key is used."""
    await open_account("A", "0")
    await open_account("B", "10.00")
    asked = [*[request("A", "1")] * limits.BATCH_ITEMS_MAX, request("B", "1")]
    assert codes(await send(services, *asked))[-1] == "accepted"
    with pytest.raises(errors.IdempotencyKeyReused):
        await services.ledger.post_transaction(request("B", "2", idempotency_key="part"))
    assert await entries(database) == 1


@pytest.mark.parametrize("mode", [Mode.REDIS, Mode.POSTGRES])
async def test_a_single_transaction_cannot_take_the_key_of_a_request(
    services: Services, open_account: OpenAccount, database: Any, mode: Mode
) -> None:
    await open_account("A", "10.00")
    await send(services, request("A", "1"))
    await rule_by(services, database, mode)
    with pytest.raises(errors.IdempotencyKeyReused):
        await services.ledger.post_transaction(request("A", "1", idempotency_key="part"))
    assert (await services.ledger.balance("A")).available_minor == 900


@pytest.mark.parametrize("mode", [Mode.REDIS, Mode.POSTGRES])
async def test_an_item_of_an_atomic_request_cannot_take_the_key_of_a_request(
    services: Services, open_account: OpenAccount, database: Any, mode: Mode
) -> None:
    await open_account("A", "10.00")
    await send(services, request("A", "1"))
    await rule_by(services, database, mode)
    asked = [request("A", "1", idempotency_key=name) for name in ("part", "x")]
    answers = await send(services, *asked, key=None, atomic=True)
    assert codes(answers) == ["idempotency_key_reused", "others_refused"]
    assert (await services.ledger.balance("A")).available_minor == 900


async def rule_by(services: Services, database: Any, mode: Mode) -> None:
    """Let somebody decide, and the instance know."""
    keeper = pipeline_of(services)._mode
    if mode is Mode.POSTGRES and keeper.current.mode is Mode.REDIS:
        await database.execute(CONTROL, "force_postgres")
    elif mode is Mode.REDIS and keeper.current.mode is Mode.POSTGRES:
        await database.execute(CONTROL, "automatic")
        assert await keeper.open_redis(keeper.epoch, "for the test")
    await keeper.learn()
    assert keeper.current.mode is mode


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


@asynccontextmanager
async def api_behind(
    settings: Settings,
) -> AsyncIterator[tuple[httpx.AsyncClient, FaultyProxy, FaultyProxy]]:
    """The service over HTTP behind two proxies."""
    async with (
        proxied(settings.redis.url) as (redis_url, redis),
        proxied(settings.postgres.url) as (postgres_url, postgres),
    ):
        there = msgspec.structs.replace(
            settings,
            redis=msgspec.structs.replace(settings.redis, url=redis_url, timeout_ms=300),
            postgres=msgspec.structs.replace(settings.postgres, url=postgres_url, timeout_ms=1_000),
            ledger=msgspec.structs.replace(settings.ledger, deadline_ms=2_000),
        )
        async with serving(there) as api:
            yield api, redis, postgres
            redis.resume()
            postgres.resume()


def body(*items: tuple[str, str], atomic: bool = False, **more: Any) -> dict[str, Any]:
    rows = [
        {"account_id": name, "amount": amount, "type": "debit", **more} for name, amount in items
    ]
    return {"transactions": rows, "atomic": atomic}


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


def mixed(random_numbers: random.Random, count: int) -> list[TransactionRequest]:
    """Debits and credits on rich, poor and unknown accounts, in any order."""
    return [
        request(
            random_numbers.choice("ABCDXY"),
            str(random_numbers.randint(1, 6)),
            random_numbers.choice(("debit", "debit", "credit")),
            reference=random_numbers.choice((None, "rent")),
            metadata=random_numbers.choice((None, {"b": "1", "a": "2"})),
        )
        for _ in range(count)
    ]


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


# Lost replies, stalls and kills between admit, journal and confirm.


@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "each"])
@pytest.mark.parametrize("funding", [True, False], ids=["credits", "debits"])
@pytest.mark.parametrize(
    ("where", "marker", "times"),
    [("redis", ADMIT, 1), ("redis", ADMIT, 2), ("redis", CONFIRM, 1), ("redis", CONFIRM, 2),
     ("postgres", JOURNAL, 1), ("postgres", JOURNAL, 3)],
)  # fmt: skip
async def test_a_reply_lost_after_execution_moves_the_money_of_a_part_once(
    behind: Behind,
    database: Any,
    redis_client: Any,
    atomic: bool,
    funding: bool,
    where: str,
    marker: bytes,
    times: int,
) -> None:
    """One item more than there is money for stands in the middle where items stand alone."""
    before = await entries(database)
    asked = [request("A", "1"), request("A", "2", "credit" if funding else "debit")]
    asked[1:1] = [] if atomic else [request("A", "500")]
    proxy = getattr(behind, where)
    proxy.lose_reply_to(marker, times)
    first = await send(behind.services, *asked, atomic=atomic)
    await eventually(lambda: proxy.lost_count == times)
    refusals = [] if atomic else ["insufficient_available"]
    assert codes(first) == ["accepted", *refusals, "accepted"]
    again = await send(behind.services, *asked, atomic=atomic)
    assert said(again) == said(first)
    assert await entries(database) == before + 2
    expected = 1_100 if funding else 700
    assert (await behind.services.ledger.balance("A")).available_minor == expected
    await settled_down(behind.services, redis_client)


@pytest.mark.parametrize(
    ("key", "atomic"),
    [("part", True), ("part", False), (None, True)],
    ids=["key-atomic", "key-each", "anonymous"],
)
@pytest.mark.parametrize("times", [1, 2])
async def test_a_reply_lost_in_mode_postgres_moves_the_money_of_a_part_once(
    behind: Behind, database: Any, redis_client: Any, atomic: bool, key: str | None, times: int
) -> None:
    await rule_by(behind.services, database, Mode.POSTGRES)
    before = await entries(database)
    asked = [request("A", "1", reference="marked"), request("A", "2")]
    asked[1:1] = [] if atomic else [request("A", "500")]
    behind.postgres.lose_reply_to(b"marked", times)
    first = await send(behind.services, *asked, key=key, atomic=atomic)
    assert behind.postgres.lost_count == times
    refusals = [] if atomic else ["insufficient_available"]
    assert codes(first) == ["accepted", *refusals, "accepted"]
    if key is not None:
        assert said(await send(behind.services, *asked, atomic=atomic)) == said(first)
    assert await entries(database) == before + 2
    assert (await behind.services.ledger.balance("A")).available_minor == 700


async def test_an_unknown_part_is_answered_from_the_journal_when_it_is_sent_again(
    behind: Behind, database: Any, redis_client: Any
) -> None:
    before = await entries(database)
    asked = (request("A", "1"), request("A", "500"), request("A", "2"))
    behind.postgres.lose_reply_to(JOURNAL)
    call = asyncio.create_task(send(behind.services, *asked))
    await eventually(lambda: behind.postgres.lost_count == 1)
    behind.postgres.stall()
    assert {"journal_outcome_unknown"} <= set(codes(await call))
    behind.postgres.resume()

    async def told() -> list[Any] | None:
        answers = await send(behind.services, *asked)
        return None if any(getattr(each, "retryable", False) for each in answers) else answers

    again = await eventually(told)
    assert codes(again) == ["accepted", "insufficient_available", "accepted"]
    assert await entries(database) == before + 2
    await settled_down(behind.services, redis_client)


@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "each"])
async def test_a_part_that_is_fenced_between_admit_and_journal_is_decided_by_postgres(
    services: Services,
    open_account: OpenAccount,
    database: Any,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
    atomic: bool,
) -> None:
    await open_account("A", "10.00")
    await open_account("B", "1.00")
    asked = (request("A", "1"), request("A" if atomic else "B", "2"), request("A", "3", "credit"))
    async with held_before_its_journal(services, monkeypatch) as go_on:
        call = asyncio.create_task(send(services, *asked, atomic=atomic))
        await eventually(lambda: reservations(redis_client))
        await database.execute(CONTROL, "force_postgres")
        go_on()
        first = await call
    wanted = "accepted" if atomic else "insufficient_available"
    assert codes(first) == ["accepted", wanted, "accepted"]
    modes = {each.transaction.mode for each in first if isinstance(each, Acceptance)}
    assert modes == {Mode.POSTGRES}
    await rule_by(services, database, Mode.REDIS)
    assert said(await send(services, *asked, atomic=atomic)) == said(first)
    expected = 1_000 if atomic else 1_200
    assert (await services.ledger.balance("A")).available_minor == expected
    await services.ledger.post_transaction(request("A", "1"))
    await services.ledger.post_transaction(request("B", "1"))
    await services.ledger.post_transaction(request("B", "1", "credit"))
    assert (await services.ledger.verify()).is_clean


async def test_a_part_journaled_before_a_switch_is_not_journaled_again(
    behind: Behind, database: Any, redis_client: Any, settings: Settings
) -> None:
    """Its journal reply is lost, and PostgreSQL decides before it is sent again."""
    before = await entries(database)
    behind.postgres.lose_reply_to(b"marked")
    asked = (request("A", "1", reference="marked"), request("A", "2"))
    call = asyncio.create_task(send(behind.services, *asked, key=None, atomic=True))
    await eventually(lambda: behind.postgres.lost_count == 1)
    behind.postgres.stall()
    await eventually(lambda: entries(database))
    await database.execute(CONTROL, "force_postgres")
    behind.postgres.resume()
    assert codes(await call) == ["accepted"] * 2
    assert await entries(database) == before + 2
    assert (await behind.services.ledger.balance("A")).available_minor == 700


@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "each"])
async def test_a_redis_that_is_gone_at_any_step_leaves_a_part_decided_once(
    behind: Behind, database: Any, atomic: bool
) -> None:
    """It is cut off with the admit, and with the confirm of another part."""
    for number, marker in enumerate((ADMIT, CONFIRM)):
        before = await entries(database)
        await rule_by(behind.services, database, Mode.REDIS)
        behind.redis.lose_reply_to(marker)
        lost = behind.redis.lost_count
        asked = (request("A", "1"), request("A", "1", "credit"))
        call = asyncio.create_task(
            send(behind.services, *asked, key=f"part{number}", atomic=atomic)
        )
        await eventually(lambda: behind.redis.lost_count == lost + 1)  # noqa: B023
        behind.redis.refuse()
        answers = await call
        assert codes(answers) == ["accepted"] * 2
        assert said(
            await send(behind.services, *asked, key=f"part{number}", atomic=atomic)
        ) == said(answers)
        assert await entries(database) == before + 2
        behind.redis.resume()
        await pipeline_of(behind.services)._mode.learn()
    assert (await behind.services.ledger.balance("A")).available_minor == 1_000


@pytest.mark.reliability(reap_age_ms=100)
@pytest.mark.parametrize("journaled", [True, False], ids=["journaled", "reserved"])
@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "each"])
async def test_what_a_dead_process_left_of_a_part_is_ended_by_the_reaper(
    services: Services,
    other: Services,
    worker: WorkerServices,
    open_account: OpenAccount,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
    journaled: bool,
    atomic: bool,
) -> None:
    await open_account("A", "10.00")
    await open_account("B", "1.00")
    asked = [request("A", "4"), request("B", "1", "credit")]
    asked[1:1] = [] if atomic else [request("B", "2")]
    await left_over(services, monkeypatch, *asked, journaled=journaled, atomic=atomic)
    assert len(reservations(redis_client)) == 2

    async def reaped() -> ReapedCount | None:
        count = await worker.reaper.step()
        return count if any(count) else None

    ended = await eventually(reaped)
    assert ended == (ReapedCount(confirmed=2) if journaled else ReapedCount(released=2))
    await settled_down(other, redis_client)
    answers = await send(other, *asked, atomic=atomic)
    taken = [each for each in answers if isinstance(each, Acceptance)]
    assert [each.replayed for each in taken] == [journaled] * 2
    assert (await other.ledger.balance("A")).available_minor == 600
    assert (await other.ledger.balance("B")).available_minor == 200
    await settled_down(other, redis_client)


class Died(Exception):
    """Stands for a process that ends at this point."""


async def left_over(
    services: Services,
    monkeypatch: pytest.MonkeyPatch,
    *asked: TransactionRequest,
    journaled: bool,
    atomic: bool,
) -> None:
    """Leave what a process leaves that dies before or after the journal call of a part."""
    pipeline = pipeline_of(services)
    write = pipeline._journal.write

    async def die_at_the_journal(*arguments: Any, **more: Any) -> Any:
        if journaled:
            await write(*arguments, **more)
        raise Died

    async def untold(*_arguments: Any) -> None:
        return

    with monkeypatch.context() as patched:
        patched.setattr(pipeline._journal, "write", die_at_the_journal)
        patched.setattr(pipeline._admission, "confirm", untold)
        patched.setattr(pipeline._admission, "release", untold)
        assert set(codes(await send(services, *asked, atomic=atomic))) == {"internal_error"}


@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "each"])
async def test_a_part_whose_attempt_is_void_is_decided_again(
    services: Services,
    worker: WorkerServices,
    open_account: OpenAccount,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
    atomic: bool,
) -> None:
    await open_account("A", "10.00")
    journal = pipeline_of(services)._journal
    write = journal.write

    async def void_first(ruling: Any, attempt_id: int, *arguments: Any, **more: Any) -> Any:
        monkeypatch.setattr(journal, "write", write)
        assert await worker.reaper._store.void_attempt(attempt_id)
        return await write(ruling, attempt_id, *arguments, **more)

    monkeypatch.setattr(journal, "write", void_first)
    answers = await send(services, request("A", "4"), request("A", "6"), atomic=atomic)
    assert codes(answers) == ["accepted"] * 2
    await settled_down(services, redis_client)


# Several parts, several instances.


async def test_a_request_done_in_part_is_finished_by_its_repetition(
    services: Services,
    open_account: OpenAccount,
    database: Any,
    redis_client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The journal of one part in the middle refuses the first time."""
    await open_account("A", "5000.00")
    journal = pipeline_of(services)._journal
    write = journal.write

    async def refuse_the_second(*arguments: Any, claim: Any, **more: Any) -> Any:
        if ":1:" in (claim.name or ""):
            raise errors.PostgresUnavailable
        return await write(*arguments, claim=claim, **more)

    asked = [request("A", "1")] * 2_500
    with monkeypatch.context() as patched:
        patched.setattr(journal, "write", refuse_the_second)
        first = await send(services, *asked)
    assert codes(first) == [
        *["accepted"] * 1_000, *["postgres_unavailable"] * 1_000, *["accepted"] * 500
    ]  # fmt: skip
    again = await send(services, *asked)
    assert codes(again) == ["accepted"] * 2_500
    assert said(again[:1_000]) == said(first[:1_000])
    assert said(again[2_000:]) == said(first[2_000:])
    assert said(await send(services, *asked)) == said(again)
    assert await entries(database) == 2_500
    await settled_down(services, redis_client)


@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "each"])
async def test_copies_over_two_instances_at_once_get_one_answer(
    services: Services,
    other: Services,
    open_account: OpenAccount,
    database: Any,
    redis_client: Any,
    atomic: bool,
) -> None:
    """There is enough for one copy and not for two."""
    count = 1_000
    await open_account("A", "1000.00")
    await open_account("B", "700.00")
    asked = [request("AB"[number % 2], "1") for number in range(count)]
    calls = [send(each, *asked, atomic=atomic) for each in (services, other) * 3]
    answers = await asyncio.gather(*calls)
    assert {str(said(each)) for each in answers} == {str(said(answers[0]))}
    assert codes(answers[0]) == ["accepted"] * count
    assert await entries(database) == count
    await settled_down(services, redis_client)


async def test_atomic_requests_that_share_names_over_two_instances_move_each_name_once(
    services: Services, other: Services, open_account: OpenAccount, database: Any, redis_client: Any
) -> None:
    """Chains of three names that overlap: of two neighbours at most one can be accepted."""
    await open_account("A", "1000.00")
    await open_account("B", "1000.00")

    def chain(first: int) -> list[TransactionRequest]:
        names = [f"x{number % 20}" for number in range(first, first + 3)]
        random.Random(first).shuffle(names)
        return [request("AB"[int(name[1:]) % 2], "1", idempotency_key=name) for name in names]

    calls = [
        send(each, *chain(first), key=None, atomic=True)
        for first in range(0, 20, 2)
        for each in (services, other)
    ]
    answers = await asyncio.wait_for(asyncio.gather(*calls), 25)
    told = [
        (answer.transaction.reference, answer.transaction.transaction_id)
        for each in answers
        for answer in each
        if isinstance(answer, Acceptance)
    ]
    assert {code for each in answers for code in codes(each)} <= {"accepted", "others_refused"}
    assert len({number for _, number in told}) == await entries(database)
    names = await database.fetchval(
        "SELECT count(*) FROM idempotency_keys WHERE name LIKE 'key:x%'"
    )
    assert names == await entries(database)
    await settled_down(services, redis_client)


# Sizes, queues, connections.


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


# Everything at once.


class Storm:
    """Copies of the same requests to two instances, while who decides changes and replies are lost.

    Keeps every answer that may not change any more.
    """

    def __init__(self, seed: int, instances: tuple[Services, ...]) -> None:
        self.numbers = random.Random(seed)
        self.instances = instances
        self.asked = {f"k{n}": self._drawn(f"k{n}") for n in range(24)}
        self.answers: dict[str, list[Any]] = {key: [] for key in self.asked}
        self.over = False

    def _drawn(self, key: str) -> tuple[bool, list[TransactionRequest]]:
        is_atomic = self.numbers.random() < 0.4
        asked = mixed(self.numbers, self.numbers.choice((2, 5, 30)))
        return is_atomic, [each for each in asked if each.account_id not in "XY"] or asked[:1]

    async def copy(self, key: str) -> bool:
        """Send one copy; True when its answer is final."""
        is_atomic, asked = self.asked[key]
        instance = self.numbers.choice(self.instances)
        try:
            answers = await send(instance, *asked, key=key, atomic=is_atomic)
        except errors.Unavailable:
            return False
        if any(isinstance(each, errors.LedgerError) and each.retryable for each in answers):
            return False
        assert not any(isinstance(each, errors.InvariantViolation) for each in answers), answers
        if any(isinstance(each, Acceptance) for each in answers):
            self.answers[key].append(said(answers))
            return True
        return True

    async def client(self) -> None:
        while not self.over:
            await self.copy(self.numbers.choice(list(self.asked)))
            await asyncio.sleep(0)


@pytest.mark.reliability(breaker_timeout_ms=200)
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
async def test_copies_in_a_storm_are_told_one_thing_and_every_cent_is_where_it_was_said_to_be(
    behind: Behind, other: Services, database: Any, open_account: OpenAccount, seed: int
) -> None:
    for name, opening in (("B", "9.00"), ("C", "1.00"), ("D", "0")):
        await open_account(name, opening)
    opened = {"A": 1_000, "B": 900, "C": 100, "D": 0}
    storm = Storm(seed, (behind.services, other))
    clients = [asyncio.create_task(storm.client()) for _ in range(8)]
    keeper = pipeline_of(other)._mode
    for number in range(12):
        await asyncio.sleep(0.1)
        if number % 4 == 0:
            await database.execute(CONTROL, "force_postgres")
        elif number % 4 == 2:
            await database.execute(CONTROL, "automatic")
            with contextlib.suppress(errors.LedgerError):
                await keeper.open_redis((await keeper.read_ruling()).epoch, "storm")
        else:
            marker = storm.numbers.choice((b"part:", ADMIT, CONFIRM))
            (behind.postgres if marker == b"part:" else behind.redis).lose_reply_to(marker)
    storm.over = True
    await asyncio.wait_for(asyncio.gather(*clients), 20)
    accepted: dict[str, int] = dict.fromkeys(opened, 0)
    for key in storm.asked:

        async def is_final(key: str = key) -> bool:
            return await storm.copy(key)

        await eventually(is_final)
        told = {str(each) for each in storm.answers[key]}
        assert len(told) <= 1, f"{key} was told different things"
        for line in storm.answers[key][-1] if told else ():
            if isinstance(line[0], UUID):
                accepted[line[1]] += line[2]
    assert sum(map(bool, storm.answers.values())) > 5
    for name, opening in opened.items():
        balance = await other.ledger.balance(name)
        assert balance.available_minor == opening + accepted[name]
        assert balance.available_minor >= 0
    verification = await other.ledger.verify()
    assert verification.is_clean, verification.mismatches


async def test_lost_connections_to_redis_are_given_back(behind: Behind) -> None:
    line = pipeline_of(behind.services)._admission._scripts._line
    for number in range(20):
        call = asyncio.create_task(send(behind.services, request("A", "0.01"), key=f"part{number}"))
        await asyncio.sleep(0.002 * (number % 3))
        behind.redis.cut()
        await call
    await eventually(lambda: len(line._pool._in_use_connections) <= 1)  # type: ignore[attr-defined]
