"""Parts of bulk requests meet lost replies, stalls and kills between admit, journal and confirm."""

import asyncio
from typing import Any

import pytest

from app import errors
from app.bootstrap import Services, WorkerServices
from app.ledger.codes import Mode
from app.ledger.model import Acceptance, TransactionRequest
from app.ledger.reaper import ReapedCount
from app.settings import Settings
from tests.conftest import OpenAccount, eventually
from tests.failure.conftest import Behind, pipeline_of, reservations
from tests.failure.interruptions import (
    dying_at_its_journal,
    held_before_its_journal,
    void_before_its_journal,
)
from tests.failure.modes import rule_by
from tests.failure.parts import JOURNAL, codes, entries, said, send, settled_down
from tests.failure.proxy import ADMIT, CONFIRM
from tests.integration.test_controls import CONTROL
from tests.integration.test_transactions import request


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


async def left_over(
    services: Services,
    monkeypatch: pytest.MonkeyPatch,
    *asked: TransactionRequest,
    journaled: bool,
    atomic: bool,
) -> None:
    """Leave what a process leaves that dies before or after the journal call of a part."""
    with dying_at_its_journal(services, monkeypatch, journaled=journaled):
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
    void_before_its_journal(services, worker, monkeypatch)
    answers = await send(services, request("A", "4"), request("A", "6"), atomic=atomic)
    assert codes(answers) == ["accepted"] * 2
    await settled_down(services, redis_client)


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
