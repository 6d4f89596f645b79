"""What items expect in mode `postgres`, when they count by effective time, and the watermark."""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from tests.sql.conftest import Sql


@pytest.mark.parametrize(
    ("version", "available", "change", "word", "figure"),
    [
        (1, None, -1, "admitted", None),
        (2, None, -1, "version_mismatch", 1),
        (None, 110, -1, "admitted", None),
        (None, 111, 1, "available_below_expected", 110),
        (None, -3, -110, "admitted", None),
        (2, 111, -1, "version_mismatch", 1),
        (1, 110, -111, "insufficient_available", 110),
        (1, 111, -111, "available_below_expected", 110),
    ],
)
async def test_an_item_is_admitted_where_its_account_is_as_expected(
    fallen_back: Sql,
    version: int | None,
    available: int | None,
    change: int,
    word: str,
    figure: int | None,
) -> None:
    account = await fallen_back.open_account("A", 110)
    row = await fallen_back.decide([(account, change)], expected=([version], [available]))
    assert (row["words"], row["availables"]) == ([word], [figure])
    assert await fallen_back.count("journal_entries") == (2 if word == "admitted" else 1)


async def test_a_version_goes_on_in_a_batch_and_over_settlements(fallen_back: Sql) -> None:
    account = await fallen_back.open_account("A", 110)
    nothing = [None, None, None]
    first = await fallen_back.decide([(account, -1)] * 3, expected=([1, 1, 2], nothing))
    assert first["words"] == ["admitted", "version_mismatch", "admitted"]
    await fallen_back.settle()
    second = await fallen_back.decide([(account, 1)] * 3, expected=([3, None, 5], nothing))
    assert second["words"] == ["admitted", "admitted", "admitted"]


async def test_a_credit_of_the_batch_may_bring_what_is_expected_later(fallen_back: Sql) -> None:
    account = await fallen_back.open_account("A", 110)
    row = await fallen_back.decide(
        [(account, 5), (account, -1)], expected=([None] * 2, [None, 115])
    )
    assert row["words"] == ["admitted", "credit_in_flight"]


async def test_an_effective_time_is_kept_where_it_is_earlier(sql: Sql) -> None:
    account = await sql.open_account("A")
    earlier = datetime(2026, 1, 2, tzinfo=UTC)
    later = datetime.now(UTC) + timedelta(minutes=1)
    await sql.journal(
        [(account, 1), (account, 2), (account, 3)], effective_ats=[earlier, None, later]
    )
    rows = await sql.connection.fetch("SELECT effective_at FROM journal_entries ORDER BY item_no")
    assert [row["effective_at"] for row in rows] == [earlier, None, None]


async def test_the_watermark_is_held_back_by_who_may_still_journal(
    sql: Sql, database_url: str
) -> None:
    """What it is below is seen by whoever asks afterwards; a batch that is written is above it."""
    account = await sql.open_account("A")
    watermark = "SELECT journal_watermark_v1(0::smallint)"
    other = await asyncpg.connect(database_url)
    try:
        transaction = other.transaction()
        await transaction.start()
        writing = Sql(other)
        writing.attempt = 100
        began = await other.fetchval("SELECT now()")
        row = await writing.journal([(account, 5)])
        assert row["outcome"] == "journaled"
        for _ in range(3):
            assert await sql.connection.fetchval(watermark) == began <= row["accepted_at"]
        await transaction.commit()
        assert await sql.connection.fetchval(watermark) > row["accepted_at"]
    finally:
        await other.close()
