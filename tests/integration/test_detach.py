"""Detached months: what is answered afterwards is what was answered before, or a clear refusal, and
verification proves what is left without finding fault with what is gone.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import asyncpg
import pytest

from app import errors
from app.bootstrap import Services
from app.kit.money import parse_amount
from app.ledger.codes import Direction
from app.ledger.detachment import detach_months, month_of
from app.ledger.history import Basis, Period, Place, Search
from app.ledger.model import TransactionRequest
from app.settings import Settings
from tests.conftest import OpenAccount, serving
from tests.integration.test_controls import operate
from tests.integration.test_history import post

SETTLE = "SELECT outcome FROM settle_chunk_v2($1, 1000000)"
ACCOUNTS = ("A", "B")


class Past(NamedTuple):
    """A ledger that began last month: the beginning of this one, and every entry's instant."""

    month: datetime
    instants: list[datetime]


@pytest.fixture
async def past(services: Services, open_account: OpenAccount, database: Any) -> Past:
    """Twelve batches, six of them of last month; the third settlement folded of both months."""
    for account_id in ACCOUNTS:
        await open_account(account_id, "100.00")
    await database.fetchval(SETTLE, 1_000)
    for number in range(12):
        await asyncio.gather(post(services, "A", number + 1), post(services, "B", -1 - number))
        if number % 4 == 3:
            await database.fetchval(SETTLE, 1_000)
    batches = await database.fetch("SELECT created_at FROM journal_batches ORDER BY created_at")
    middle = batches[len(batches) // 2]["created_at"]
    now = datetime.now(UTC)
    month = datetime(now.year, now.month, 1, tzinfo=UTC)
    await move_back(database, month, middle - month)
    rows = await database.fetch("SELECT created_at FROM journal_batches ORDER BY 1")
    return Past(month, [row["created_at"] for row in rows])


async def move_back(database: Any, month: datetime, by: timedelta) -> None:
    """Let everything have happened earlier by so much, in partitions as they would have been."""
    first = (month - timedelta(days=1)).replace(day=1)
    name = f"journal_entries_y{first:%Y}m{first:%m}"
    await database.execute(
        f"CREATE TABLE {name} PARTITION OF journal_entries"
        f" FOR VALUES FROM ('{first.isoformat()}') TO ('{month.isoformat()}')"
    )
    async with database.transaction():
        await database.execute("SET LOCAL session_replication_role = replica")
        for table, columns in (
            ("journal_entries", ("created_at",)),
            ("journal_batches", ("created_at", "settled_at")),
            ("settlements", ("settled_at", "complete_to")),
            ("accounts", ("created_at", "updated_at", "last_settlement_at")),
        ):
            moved = ", ".join(f"{column} = {column} - $1::interval" for column in columns)
            await database.execute(f"UPDATE {table} SET {moved}", by)


async def balances_at(services: Services, instants: list[datetime]) -> list[int | str]:
    """The balance of each account at each instant, or why there is none."""
    answers: list[int | str] = []
    for account_id in ACCOUNTS:
        for at in instants:
            try:
                answer = await services.ledger.statements.balance_at(account_id, at, Basis.BOOKED)
                answers.append(answer.balance_minor)
            except errors.HistoryDetached as error:
                answers.append(error.code)
    return answers


async def test_what_is_left_is_answered_as_before_and_the_rest_refused(
    settings: Settings, services: Services, past: Past, database: Any
) -> None:
    before = await balances_at(services, past.instants)
    page = await services.ledger.statements.statement("A", Period(start=past.month))
    assert len(page.entries) > 4
    verified = await services.ledger.verify()
    assert verified.mismatches == ()
    done = await asyncio.to_thread(operate, settings, "detach", "--before", f"{past.month:%Y-%m}")
    assert done.returncode == 0, done.stderr
    available_from = await database.fetchval("SELECT available_from FROM journal_detachments")
    assert available_from > past.month

    after = await balances_at(services, past.instants)
    expected = [
        answer if at >= available_from else "history_detached"
        for answer, at in zip(before, past.instants * len(ACCOUNTS), strict=True)
    ]
    assert after == expected
    assert "history_detached" in after
    assert after[-1] != "history_detached"
    assert (await services.ledger.balance("A")).available_minor == before[len(past.instants) - 1]

    again = await services.ledger.statements.statement("A", Period(start=available_from))
    kept = [entry for entry in page.entries if entry.place.at >= available_from]
    assert [entry.place for entry in again.entries] == [entry.place for entry in kept]
    assert again.closing_minor == page.closing_minor
    for period in (Period(), Period(start=past.month - timedelta(seconds=1))):
        with pytest.raises(errors.HistoryDetached) as refused:
            await services.ledger.statements.statement("A", period)
        assert datetime.fromisoformat(refused.value.members["from"]) == available_from


async def test_search_says_where_history_ends(
    services: Services, past: Past, database: Any
) -> None:
    wanted = Search(account_id="A")
    before = (await services.ledger.searches.search(wanted)).entries
    await detach_months(services.ledger._store, past.month, "ops", "")
    found = await services.ledger.searches.search(wanted)
    assert [each.place for each in found.entries] == [
        each.place for each in before if each.place.at >= past.month
    ]
    assert found.next_place == Place(past.month)
    for reaching in (
        Search(account_id="A", before=found.next_place),
        Search(account_id="A", start=past.month - timedelta(seconds=1)),
        Search(account_id="A", end=past.month),
    ):
        with pytest.raises(errors.HistoryDetached):
            await services.ledger.searches.search(reaching)
    whole = await services.ledger.searches.search(Search(account_id="A", start=past.month))
    assert (len(whole.entries), whole.next_place) == (len(found.entries), None)


async def test_settlement_and_verification_go_on(
    services: Services, past: Past, database: Any
) -> None:
    sums = await services.ledger.verify()
    await detach_months(services.ledger._store, past.month, "ops", "")
    verified = await services.ledger.verify()
    assert verified.mismatches == ()
    assert verified.complete
    detached = verified.compared["detached_entries"]
    assert 0 < detached < sums.compared["entries"]
    assert verified.compared["entries"] == sums.compared["entries"] - detached
    assert 0 < verified.compared["detached_lines"] < sums.compared["settlement_lines"]
    await post(services, "A", 5)
    assert await database.fetchval(SETTLE, 1_000) == "settled"
    assert (await services.ledger.verify()).mismatches == ()


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        ("UPDATE journal_entries SET change_minor = change_minor + 1", "settlement_line"),
        ("UPDATE detached_sums SET credit_minor = credit_minor + 1", "settlement_line"),
        ("DELETE FROM detached_sums", "settlement_line"),
        ("UPDATE journal_entries SET change_minor = change_minor + 1", "entry"),
    ],
)
async def test_verification_still_finds_what_is_wrong(
    services: Services, past: Past, database: Any, spoil: str, kind: str
) -> None:
    await detach_months(services.ledger._store, past.month, "ops", "")
    async with database.transaction():
        await database.execute("SET LOCAL session_replication_role = replica")
        await database.execute(spoil)
    assert kind in {each.kind for each in (await services.ledger.verify()).mismatches}


async def test_a_detached_table_stays_as_append_only_as_it_was(
    services: Services, past: Past, database: Any
) -> None:
    (table,) = await detach_months(services.ledger._store, past.month, "ops", "")
    assert await database.fetchval(f"SELECT count(*) FROM {table}") > 0
    for change in ("UPDATE {} SET reference = 'x'", "DELETE FROM {}", "TRUNCATE {}"):
        with pytest.raises(asyncpg.RestrictViolationError):
            await database.execute(change.format(table))


async def test_the_act_is_written_down_with_who_did_it_and_why(
    settings: Settings, past: Past, database: Any
) -> None:
    month = f"{past.month:%Y-%m}"
    why = ("--by", "ops", "--reason", "disk")
    done = await asyncio.to_thread(operate, settings, "detach", "--before", month, *why)
    assert "journal_entries_y" in done.stdout
    row = await database.fetchrow("SELECT action, actor, reason FROM operator_actions")
    assert tuple(row) == ("detach", "ops", "disk")
    again = await asyncio.to_thread(operate, settings, "detach", "--before", month)
    assert (again.returncode, "no month" in again.stderr) == (1, True)
    assert await database.fetchval("SELECT count(*) FROM operator_actions") == 1


@pytest.mark.parametrize("text", [None, "", "2026", "2026-13", "2026-1", "0000-01", "2026-01-01"])
async def test_a_month_is_asked_for_as_such(text: str | None) -> None:
    with pytest.raises(errors.InvalidParameter):
        month_of(text)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        ("UPDATE journal_batches SET status = 'PENDING', settlement_id = NULL", "not settled"),
        ("UPDATE settlements SET complete_to = NULL", "no settlement"),
        (
            "INSERT INTO journal_entries_default VALUES (1, 1, '2001-01-01Z', 1, 0)",
            "journal_entries_default",
        ),
    ],
)
async def test_what_may_not_be_detached_yet_is_refused(
    services: Services, past: Past, database: Any, spoil: str, why: str
) -> None:
    async with database.transaction():
        await database.execute("SET LOCAL session_replication_role = replica")
        await database.execute(spoil)
    with pytest.raises(errors.DetachmentRefused, match=why):
        await detach_months(services.ledger._store, past.month, "ops", "")
    assert await database.fetchval("SELECT count(*) FROM journal_detachments") == 0


async def test_a_month_that_is_not_over_is_refused(
    services: Services, past: Past, database: Any
) -> None:
    coming = (past.month + timedelta(days=32)).replace(day=1)
    with pytest.raises(errors.DetachmentRefused, match="on its way"):
        await detach_months(services.ledger._store, coming, "ops", "")


async def test_a_busy_journal_is_waited_for_within_bounds(
    services: Services, past: Past, database: Any
) -> None:
    async with database.transaction():
        await database.execute("LOCK TABLE journal_entries IN ACCESS SHARE MODE")
        with pytest.raises(errors.PostgresUnavailable):
            await detach_months(services.ledger._store, past.month, "ops", "")
    assert await database.fetchval("SELECT count(*) FROM journal_detachments") == 0


async def test_a_client_is_told_from_when_on_there_is_history(
    settings: Settings, services: Services, past: Past
) -> None:
    await detach_months(services.ledger._store, past.month, "ops", "")
    async with serving(settings) as client:
        answer = await client.get("/api/v1/balance/A", params={"at": past.instants[0].isoformat()})
        problem = answer.json()
        assert (answer.status_code, problem["code"]) == (410, "history_detached")
        known = await client.get("/api/v1/balance/A", params={"at": problem["from"]})
        assert known.status_code == 200
        first = await client.get("/api/v1/accounts/A/statement", params={"from": problem["from"]})
        assert first.status_code == 200


async def test_a_repetition_of_what_is_detached_moves_nothing(
    services: Services, open_account: OpenAccount, database: Any
) -> None:
    await open_account("A", "100.00")
    request = TransactionRequest(
        account_id="A",
        amount=parse_amount("1"),
        direction=Direction.DEBIT,
        idempotency_key="k",
    )
    await services.ledger.post_transaction(request)
    await database.fetchval(SETTLE, 1_000)
    (kept,) = await post(services, "A", 5)
    await database.fetchval(SETTLE, 1_000)
    month = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    await move_back(database, month, kept.at - month)
    await detach_months(services.ledger._store, month, "ops", "")
    for _ in range(2):
        with pytest.raises(errors.IdempotencyKeyReused):
            await services.ledger.post_transaction(request)
    assert (await services.ledger.balance("A")).available_minor == 9_905
    assert (await services.ledger.verify()).mismatches == ()
