"""What PostgreSQL lets be done to a hold: one act for each version, and none after its end."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from app.ledger.store import QUERIES
from tests.sql.conftest import Groups, Sql

PLACE = {"item": 0, "kind": "place", "captured_minor": 0, "released_minor": 0, "asked": ""}


async def placed(sql: Sql, amount: int = 60, **more: Any) -> tuple[int, int, str]:
    """An account, a holding account, and a hold between them."""
    account = await sql.open_account("A", 100)
    holding = await sql.open_account("H")
    await sql.journal(
        [(account, -amount), (holding, amount)],
        groups=Groups([0, 0], [0, 0]),
        holds=json.dumps([{**PLACE, **more}]),
    )
    hold_id = await sql.connection.fetchval("SELECT hold_id::text FROM holds")
    return account, holding, hold_id


def act(hold_id: str, item: int, version: int, **more: Any) -> dict[str, Any]:
    captured = more.pop("captured", 0)
    return {
        "item": item, "kind": "capture", "hold_id": hold_id, "version": version,
        "captured_minor": captured, "released_minor": 0, "asked": "", **more,
    }  # fmt: skip


async def journal(sql: Sql, holding: int, *acts: dict[str, Any], keys: Any = ()) -> Any:
    """Journal acts that give what they capture to nobody, each a group of its own."""
    items = [(holding, -each["captured_minor"]) for each in acts]
    numbers = list(range(len(acts)))
    groups = Groups([None] * len(acts), numbers)  # type: ignore[list-item]
    return await sql.journal(items, groups=groups, holds=json.dumps(acts), keys=keys)


async def state(sql: Sql) -> tuple[Any, ...]:
    return tuple(
        await sql.connection.fetchrow(
            "SELECT captured_minor, released_minor, status, version FROM holds"
        )
    )


async def test_of_two_acts_on_one_version_the_first_is_done(sql: Sql) -> None:
    _, holding, hold_id = await placed(sql)
    keys = [(0, "key:a"), (1, "key:b")]
    row = await journal(
        sql, holding, act(hold_id, 0, 1, captured=10), act(hold_id, 1, 1, captured=20), keys=keys
    )
    assert row["duplicate_items"] == [1]
    assert await state(sql) == (10, 0, "HELD", 2)
    assert await sql.count("idempotency_keys", "name = 'key:b'") == 0
    late = await journal(sql, holding, act(hold_id, 0, 1, captured=5))
    assert late["duplicate_items"] == [0]
    following = await journal(sql, holding, act(hold_id, 0, 2, captured=50))
    assert following["duplicate_items"] == []
    assert await state(sql) == (60, 0, "CAPTURED", 3)
    after = await journal(sql, holding, act(hold_id, 0, 3, captured=1))
    assert after["duplicate_items"] == [0]


@pytest.mark.parametrize(
    ("kind", "due", "is_done"),
    [("capture", True, False), ("capture", False, True), ("expire", True, True),
     ("expire", False, False), ("release", True, True)],
)  # fmt: skip
async def test_its_time_lets_it_expire_and_captures_no_more(
    sql: Sql, kind: str, due: bool, is_done: bool
) -> None:
    _, holding, hold_id = await placed(sql, expires_in_s=0 if due else 60)
    row = await journal(sql, holding, act(hold_id, 0, 1, captured=60, kind=kind))
    assert (row["duplicate_items"] == []) is is_done


async def test_an_attempt_run_again_does_nothing_more(sql: Sql) -> None:
    _, holding, hold_id = await placed(sql)
    groups = Groups([None], [0])  # type: ignore[list-item]
    told = [
        await sql.journal(
            [(holding, -10)],
            attempt=70,
            groups=groups,
            holds=json.dumps([act(hold_id, 0, 1, captured=10)]),
        )
        for _ in range(2)
    ]
    assert tuple(told[0]) == tuple(told[1])
    assert await state(sql) == (10, 0, "HELD", 2)


async def test_what_the_accounts_refuse_is_not_done_to_the_hold(fallen_back: Sql) -> None:
    account, holding, hold_id = await placed_by_postgres(fallen_back)
    row = await fallen_back.decide(
        [(holding, -61), (account, -1), (holding, 1)],
        groups=Groups([None, 1, 1], [0, 1, 1]),  # type: ignore[list-item]
        holds=json.dumps([act(hold_id, 0, 1, captured=60)]),
    )
    assert row["words"] == ["insufficient_available", "admitted", "admitted"]
    assert await state(fallen_back) == (0, 0, "HELD", 1)


async def placed_by_postgres(sql: Sql) -> tuple[int, int, str]:
    account = await sql.open_account("A", 100)
    holding = await sql.open_account("H")
    await sql.decide(
        [(account, -60), (holding, 60)], groups=Groups([0, 0], [0, 0]), holds=json.dumps([PLACE])
    )
    return account, holding, await sql.connection.fetchval("SELECT hold_id::text FROM holds")


@pytest.mark.parametrize(
    "change",
    [
        "captured_minor = 1",
        "version = 2, captured_minor = 61",
        "version = 2, status = 'RELEASED'",
        "version = 3, captured_minor = 1",
        "version = 2, amount_minor = 70",
        "version = 2, expires_at = now()",
    ],
)
async def test_a_hold_s_row_goes_ahead_by_what_is_done_to_it_only(sql: Sql, change: str) -> None:
    await placed(sql)
    with pytest.raises(Exception, match=r"refused|violates"):
        await sql.connection.execute(f"UPDATE holds SET {change}")
    with pytest.raises(Exception, match="append-only"):
        await sql.connection.execute("DELETE FROM hold_acts")


async def test_a_hold_that_has_ended_stays_as_it_is(sql: Sql) -> None:
    _, holding, hold_id = await placed(sql)
    await journal(sql, holding, act(hold_id, 0, 1, captured=60))
    with pytest.raises(Exception, match="refused"):
        await sql.connection.execute("UPDATE holds SET version = 3")


async def test_what_is_asked_each_second_reads_no_more_than_it_finds(sql: Sql) -> None:
    """The plan has no whole view and no whole journal in it."""
    await placed(sql, expires_in_s=0)
    await sql.connection.execute("SET enable_seqscan = off")
    for name, arguments in (
        ("holds_due", (datetime(1970, 1, 1, tzinfo=UTC), 0, 200)),
        ("hold_acts_at", ([1], [0])),
    ):
        await sql.connection.execute("SET plan_cache_mode = force_custom_plan")
        rows = await sql.connection.fetch(f"EXPLAIN {QUERIES[name]}", *arguments)
        plan = "\n".join(row[0] for row in rows)
        assert "Subquery Scan on d" not in plan, plan
        assert "Seq Scan" not in plan, plan


async def test_every_entry_of_an_act_leads_to_its_hold_wherever_it_stands(sql: Sql) -> None:
    account, holding, hold_id = await placed(sql)
    shop, bank = await sql.open_account("B", 100), await sql.open_account("C")
    # By account, as Redis places them: a capture's first leg behind its second, a transfer between.
    await sql.journal(
        [(shop, 20), (shop, -5), (account, 40), (bank, 5), (holding, -20), (holding, -40)],
        groups=Groups([0, 2, 1, 2, 0, 1], [0, 1, 0, 1, 0, 0]),
        holds=json.dumps([act(hold_id, 4, 1, captured=20, released_minor=40)]),
    )
    last = await sql.connection.fetchval("SELECT max(batch_seq) FROM journal_batches")
    holds = [
        await sql.connection.fetchval("SELECT hold_acted_on_v1($1, $2)::text", last, item_no)
        for item_no in range(6)
    ]
    assert holds == [hold_id, None, hold_id, None, hold_id, hold_id]
    sides = [("A", "holding:USD"), ("holding:USD", None), ("A", "B"), ("A", None)]
    told = [
        await sql.connection.fetchval(
            "SELECT hold_of_v1($1, 0::smallint, $2, $3)::text", last, *side
        )
        for side in sides
    ]
    assert told == [hold_id, hold_id, None, None]
