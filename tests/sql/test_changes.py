"""The change of an account in PostgreSQL: exact, once, under the fence, and written down."""

import asyncio
from typing import Any

import asyncpg
import pytest

from tests.conftest import eventually
from tests.sql.conftest import Sql
from tests.sql.test_decide import waits

REFUSED = {
    "precondition_failed": {"versions": [1, 3], "frozen": "all"},
    "limit_in_use": {"limit": 99},
    "account_not_empty": {"closed": True},
    "balance_limit_exceeded": {"limit": 1_101, "balance_max": 1_000},
    "differs": {"frozen": "all", "available": 1},
}


async def overdrawn_to_its_limit(sql: Sql) -> int:
    """An account with a limit of 1,000 that needs 100 of it."""
    account = await sql.open_account("A")
    await sql.change(limit=1_000)
    await sql.journal([(account, -100)])
    return account


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ({"limit": 50}, "credit_limit_minor", 50),
        ({"frozen": "debit"}, "frozen", "debit"),
        ({"metadata": '{"a": "b"}'}, "metadata", '{"a": "b"}'),
        ({"closed": True}, "closed", True),
        ({"frozen": "all", "versions": [7, 1]}, "frozen", "all"),
        ({"limit": 50, "available": 0}, "credit_limit_minor", 50),
    ],
)
async def test_an_account_is_changed_and_the_change_written_down(
    sql: Sql, change: dict[str, Any], field: str, value: Any
) -> None:
    await sql.open_account("A")
    assert (await sql.change(**change))["outcome"] == "changed"
    account = await sql.account()
    assert (account[field], account["config_version"]) == (value, 2)
    assert await sql.count(
        "account_changes", "outcome = 'changed' AND before <> after AND mode = 'redis'"
    )


@pytest.mark.parametrize("change", [{"limit": 0}, {"frozen": "none"}, {"metadata": "{}"}, {}])
async def test_what_changes_nothing_keeps_the_version(sql: Sql, change: dict[str, Any]) -> None:
    await sql.open_account("A")
    before = await sql.account()
    assert (await sql.change(**change))["outcome"] == "unchanged"
    assert await sql.account() == before


@pytest.mark.parametrize("outcome", REFUSED)
async def test_a_refused_change_changes_nothing_now_or_later(sql: Sql, outcome: str) -> None:
    """A late copy finds the refusal, although the account would allow the change by then."""
    number = await overdrawn_to_its_limit(sql)
    before, change = await sql.account(), REFUSED[outcome]
    row = await sql.change(attempt=70, **change)
    assert tuple(row) == (outcome, -100, 1_000)
    assert await sql.account() == before
    await sql.journal([(number, 100)])
    late = await sql.change(attempt=70, **{**change, "versions": None, "available": None})
    assert tuple(late) == tuple(row)
    assert await sql.account() == before


async def test_there_is_no_such_account(sql: Sql) -> None:
    assert (await sql.change("B", frozen="all"))["outcome"] == "account_not_found"
    await sql.open_account("A", 5)
    outcome = (await sql.change("external:USD", frozen="all"))["outcome"]
    assert outcome == "account_not_found"


async def test_a_limit_is_lowered_to_what_is_needed_pending_included(sql: Sql) -> None:
    await overdrawn_to_its_limit(sql)
    assert (await sql.change(limit=99))["outcome"] == "limit_in_use"
    assert (await sql.change(limit=100))["outcome"] == "changed"
    await sql.settle()
    assert (await sql.change(limit=99))["outcome"] == "limit_in_use"
    assert (await sql.account())["credit_limit_minor"] == 100


async def test_a_limit_that_is_in_use_may_be_raised(sql: Sql) -> None:
    await overdrawn_to_its_limit(sql)
    assert (await sql.change(limit=1_001))["outcome"] == "changed"


async def test_what_was_accepted_under_a_higher_limit_is_settled_in_any_chunk(sql: Sql) -> None:
    """The debit is folded before the credit that made up for it."""
    account = await overdrawn_to_its_limit(sql)
    await sql.journal([(account, 100)])
    assert (await sql.change(limit=0))["outcome"] == "changed"
    for settled in (-100, 0):
        assert (await sql.settle(batches_max=1))["outcome"] == "settled"
        assert (await sql.account())["settled_minor"] == settled
    assert (await sql.change(frozen="debit"))["outcome"] == "changed"
    await sql.journal([(account, -1)])
    with pytest.raises(asyncpg.CheckViolationError):
        await sql.settle()


async def test_a_closed_account_is_never_changed_again(sql: Sql) -> None:
    await sql.open_account("A")
    assert (await sql.change(closed=True))["outcome"] == "changed"
    closed = await sql.account()
    assert (await sql.change(limit=5))["outcome"] == "account_closed"
    assert (await sql.change(closed=True))["outcome"] == "unchanged"
    assert await sql.account() == closed


@pytest.mark.parametrize(
    "ruling",
    [
        "epoch = 1",
        "mode = 'postgres'",
        "mode = 'closed'",
        "redis_token = 'other'",
        "postgres_identity = 'other'",
        "protocol_version = 3",
    ],
)
async def test_under_another_ruling_nothing_is_changed(sql: Sql, ruling: str) -> None:
    await sql.open_account("A")
    before = await sql.account()
    await sql.connection.execute(f"UPDATE ledger_shards SET {ruling}")
    assert (await sql.change(frozen="all"))["outcome"] == "fenced"
    assert await sql.account() == before
    assert await sql.count("account_changes") == 0


async def test_an_attempt_sent_again_finds_what_it_did_whoever_rules(sql: Sql) -> None:
    await sql.open_account("A")
    first = await sql.change(attempt=70, frozen="debit")
    await sql.change(frozen="none")
    assert tuple(await sql.change(attempt=70, frozen="debit")) == tuple(first)
    await sql.connection.execute("UPDATE ledger_shards SET epoch = 1")
    assert tuple(await sql.change(attempt=70, frozen="debit")) == tuple(first)
    assert ((await sql.account())["frozen"], (await sql.account())["config_version"]) == ("none", 3)


async def test_a_void_attempt_changes_nothing(sql: Sql) -> None:
    await sql.open_account("A")
    assert await sql.void_change(70) == "void"
    assert await sql.void_change(70) == "void"
    assert (await sql.change(attempt=70, frozen="all"))["outcome"] == "void"
    assert (await sql.account())["frozen"] == "none"


@pytest.mark.parametrize("change", [{"frozen": "all"}, {"frozen": "none"}, {"versions": [9]}])
async def test_a_decided_attempt_is_not_voided(sql: Sql, change: dict[str, Any]) -> None:
    await sql.open_account("A")
    row = await sql.change(attempt=70, **change)
    assert await sql.void_change(70) == row["outcome"] != "void"
    assert tuple(await sql.change(attempt=70, **change)) == tuple(row)


async def test_a_tombstone_waits_for_a_change_under_way(sql: Sql, database_url: str) -> None:
    await sql.open_account("A")
    other = await asyncpg.connect(database_url)
    async with sql.connection.transaction():
        await sql.change(attempt=70, frozen="all")
        voiding = asyncio.create_task(other.fetchval("SELECT void_change_v1(70)"))
        await eventually(lambda: waits(other, database_url))
    assert await voiding == "changed"
    await other.close()


async def test_copies_of_a_change_at_once_change_once(sql: Sql, database_url: str) -> None:
    await sql.open_account("A")
    others = [await asyncpg.connect(database_url) for _ in range(8)]
    rows = await asyncio.gather(*(Sql(other).change(attempt=70, frozen="all") for other in others))
    assert {row["outcome"] for row in rows} == {"changed"}
    assert (await sql.account())["config_version"] == 2
    for other in others:
        await other.close()


async def test_a_change_waits_for_a_decision_on_its_account(
    fallen_back: Sql, database_url: str
) -> None:
    account = await fallen_back.open_account("A")
    await fallen_back.change(limit=100, mode="postgres")
    other = await asyncpg.connect(database_url)
    async with fallen_back.connection.transaction():
        await fallen_back.decide([(account, -60)])
        change = asyncio.create_task(Sql(other).change(attempt=70, limit=0, mode="postgres"))
        await eventually(lambda: waits(other, database_url))
    assert tuple(await change) == ("limit_in_use", -60, 100)
    await other.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE account_changes SET outcome = 'void'",
        "DELETE FROM account_changes",
        "TRUNCATE account_changes",
    ],
)
async def test_what_was_changed_stays_written_down(sql: Sql, statement: str) -> None:
    await sql.open_account("A")
    await sql.change(frozen="all")
    with pytest.raises(asyncpg.RestrictViolationError):
        await sql.connection.execute(statement)


@pytest.mark.parametrize(
    ("change", "debit", "credit"),
    [
        ({"frozen": "debit"}, "account_frozen", "admitted"),
        ({"frozen": "credit"}, "admitted", "account_frozen"),
        ({"frozen": "all"}, "account_frozen", "account_frozen"),
        ({"frozen": "none"}, "admitted", "admitted"),
    ],
)
async def test_postgres_decides_by_what_is_frozen(
    fallen_back: Sql, change: dict[str, Any], debit: str, credit: str
) -> None:
    account = await fallen_back.open_account("A", 100)
    other = await fallen_back.open_account("B", 100)
    await fallen_back.change(mode="postgres", **change)
    row = await fallen_back.decide([(account, -1), (other, -1), (account, 1)])
    assert row["words"] == [debit, "admitted", credit]


async def test_postgres_decides_nothing_on_a_closed_account(fallen_back: Sql) -> None:
    account = await fallen_back.open_account("A")
    await fallen_back.change(mode="postgres", limit=100)
    await fallen_back.change(mode="postgres", closed=True)
    row = await fallen_back.decide([(account, -1), (account, 1)])
    assert row["words"] == ["account_closed", "account_closed"]
    assert row["availables"] == [100, 100]


async def test_a_repetition_on_a_frozen_account_is_a_repetition(fallen_back: Sql) -> None:
    account = await fallen_back.open_account("A", 100)
    await fallen_back.decide([(account, -1)], keys=[(0, "key:a")])
    await fallen_back.change(mode="postgres", frozen="all")
    row = await fallen_back.decide([(account, -1), (account, -1)], keys=[(0, "key:a")])
    assert row["words"] == ["duplicate", "account_frozen"]
