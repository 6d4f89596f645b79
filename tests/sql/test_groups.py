"""Groups of transfers in PostgreSQL: journaled, decided and left out whole, and found again."""

from typing import Any

import pytest

from tests.sql.conftest import Groups, Sql

SHORT, OTHER = "insufficient_available", "group_refused"


async def opened(sql: Sql, *openings: int) -> list[int]:
    return [await sql.open_account("ABCDEF"[n], opening) for n, opening in enumerate(openings)]


def transfers(*groups: list[tuple[int, int, int]]) -> tuple[list[tuple[int, int]], Groups]:
    """The items of groups of (debit, credit, amount): a group's debits, then its credits."""
    items, transfer_nos, group_nos, first = [], [], [], 0
    for group in groups:
        items += [(debit, -amount) for debit, _, amount in group]
        items += [(credit, amount) for _, credit, amount in group]
        transfer_nos += 2 * [first + number for number in range(len(group))]
        group_nos += 2 * len(group) * [first]
        first += len(group)
    return items, Groups(transfer_nos, group_nos)


async def test_a_duplicate_leaves_its_whole_group_out(sql: Sql) -> None:
    a, b, c = await opened(sql, 100, 100, 0)
    await sql.journal([(a, -1)], keys=[(0, "key:taken")])
    items, groups = transfers([(a, c, 10), (b, c, 20)], [(a, b, 30)])
    keys = [(0, "key:free"), (1, "key:taken"), (4, "key:other")]
    row = await sql.journal(items, attempt=70, keys=keys, groups=groups)
    assert (row["outcome"], row["duplicate_items"]) == ("journaled", [0, 1, 2, 3])
    batch = await sql.connection.fetchrow(
        "SELECT entry_count, changes_minor, transfer_nos, group_nos FROM journal_batches"
        " WHERE attempt_id = 70"
    )
    assert tuple(batch) == (2, [None] * 4 + [-30, 30], *groups)
    assert await sql.count("journal_entries", f"batch_seq = {row['accepted_seq']}") == 2
    assert await sql.count("idempotency_keys", "name = 'key:free'") == 0
    assert await sql.count("idempotency_keys", "name = 'key:other'") == 1
    again = await sql.journal(items, attempt=70, keys=keys, groups=groups)
    assert tuple(again) == tuple(row)


@pytest.mark.parametrize(
    ("openings", "groups", "words"),
    [
        ((100, 0), [[("a", "b", 100)]], ["admitted"] * 2),
        ((100, 0), [[("a", "b", 101)]], [SHORT, OTHER]),
        ((100, 10, 0), [[("a", "c", 60), ("b", "c", 11)]], [OTHER, SHORT, OTHER, OTHER]),
        (
            (100, 0, 0),
            [[("a", "b", 60)], [("a", "b", 50)], [("a", "c", 40)]],
            ["admitted", "admitted", SHORT, OTHER, "admitted", "admitted"],
        ),
        ((100, 0, 0), [[("a", "b", 60), ("b", "c", 60)]], [OTHER, SHORT, OTHER, OTHER]),
        (
            (100, 0, 0),
            [[("a", "b", 60)], [("b", "c", 60)]],
            ["admitted", "admitted", "credit_in_flight", OTHER],
        ),
        ((100, 950), [[("a", "b", 60)]], [OTHER, "balance_limit_exceeded"]),
        ((100, 900), [[("b", "a", 900)], [("a", "b", 100)]], ["admitted"] * 4),
        # What a refused group took and brought is taken back, whoever refused it.
        (
            (100, 900, 950),
            [[("a", "b", 60), ("a", "c", 40), ("a", "c", 1)], [("a", "b", 99)]],
            [OTHER, OTHER, SHORT, OTHER, OTHER, OTHER, "admitted", "admitted"],
        ),
        (
            (100, 900, 950),
            [[("a", "b", 60), ("a", "c", 40), ("b", "c", 20)], [("a", "b", 99)]],
            [OTHER, OTHER, OTHER, OTHER, OTHER, "balance_limit_exceeded", "admitted", "admitted"],
        ),
    ],
)
async def test_groups_are_decided_in_order_each_wholly_or_not_at_all(
    fallen_back: Sql, openings: tuple[int, ...], groups: list[Any], words: list[str]
) -> None:
    numbers = dict(zip("abc", await opened(fallen_back, *openings), strict=False))
    items, links = transfers(
        *([(numbers[debit], numbers[credit], n) for debit, credit, n in group] for group in groups)
    )
    row = await fallen_back.decide(items, attempt=70, groups=links, balance_max=1_000)
    assert row["words"] == words
    kept = await fallen_back.connection.fetch(
        "SELECT item_no FROM journal_entries e JOIN journal_batches USING (batch_seq)"
        " WHERE attempt_id = 70 ORDER BY item_no"
    )
    assert [entry["item_no"] for entry in kept] == [
        number for number, word in enumerate(words) if word == "admitted"
    ]


async def test_what_refuses_a_group_tells_what_was_available(fallen_back: Sql) -> None:
    a, b, c = await opened(fallen_back, 100, 10, 0)
    items, groups = transfers([(a, c, 60), (b, c, 11)])
    row = await fallen_back.decide(items, groups=groups)
    assert row["availables"] == [None, 10, None, None]


@pytest.mark.parametrize(
    ("frozen", "words"),
    [("debit", ["account_frozen", OTHER]), ("credit", ["admitted"] * 2)],
)
async def test_a_frozen_account_refuses_its_group(
    fallen_back: Sql, frozen: str, words: list[str]
) -> None:
    a, b = await opened(fallen_back, 100, 0)
    await fallen_back.connection.execute(
        "UPDATE accounts SET frozen = $1 WHERE account_no = $2", frozen, a
    )
    items, groups = transfers([(a, b, 10)])
    assert (await fallen_back.decide(items, groups=groups))["words"] == words


async def test_a_used_key_and_an_unknown_account_refuse_their_group(fallen_back: Sql) -> None:
    a, b = await opened(fallen_back, 100, 0)
    await fallen_back.decide([(a, -1)], keys=[(0, "key:taken")])
    items, groups = transfers([(a, b, 10), (b, a, 1)], [(a, 999, 5)], [(a, b, 7)])
    row = await fallen_back.decide(
        items, groups=groups, keys=[(0, "key:free"), (1, "key:taken"), (4, "key:new")]
    )
    assert row["words"] == [
        OTHER, "duplicate", OTHER, OTHER, OTHER, "unknown_account", "admitted", "admitted",
    ]  # fmt: skip
    assert await fallen_back.count("idempotency_keys", "name = 'key:free'") == 0
    assert await fallen_back.count("idempotency_keys", "name = 'key:new'") == 0


async def test_a_group_that_was_done_before_is_a_duplicate_whatever_is_available(
    fallen_back: Sql,
) -> None:
    """Its name stands with its second transfer, and its first finds nothing left."""
    a, b, c = await opened(fallen_back, 100, 0, 0)
    items, groups = transfers([(a, b, 60), (a, c, 40)])
    keys = [(1, "id:second")]
    assert set((await fallen_back.decide(items, groups=groups, keys=keys))["words"]) == {"admitted"}
    again = await fallen_back.decide(items, groups=groups, keys=keys)
    assert again["words"] == [OTHER, "duplicate", OTHER, OTHER]


async def test_groups_whose_items_do_not_stand_together_are_not_decided(fallen_back: Sql) -> None:
    a, b = await opened(fallen_back, 100, 0)
    items, groups = transfers([(a, b, 1)], [(a, b, 2)])
    mixed = Groups(*([links[n] for n in (0, 2, 1, 3)] for links in groups))
    with pytest.raises(Exception, match="do not stand together"):
        await fallen_back.decide([items[n] for n in (0, 2, 1, 3)], attempt=70, groups=mixed)
    assert await fallen_back.count("journal_batches", "attempt_id = 70") == 0


async def test_a_group_is_found_by_any_of_its_entries(sql: Sql) -> None:
    a, b, c = await opened(sql, 100, 100, 0)
    items, groups = transfers([(a, b, 1)], [(a, c, 10), (b, c, 20)])
    row = await sql.journal(items, groups=groups)
    for item_no in range(2, 6):
        found = await sql.connection.fetch(
            "SELECT * FROM group_entries_v1($1, $2)", row["accepted_seq"], item_no
        )
        assert sorted((each["transfer_no"], each["change_minor"]) for each in found) == [
            (1, -10), (1, 10), (2, -20), (2, 20),
        ]  # fmt: skip
    alone = await sql.journal([(a, -1)])
    assert not await sql.connection.fetch(
        "SELECT * FROM group_entries_v1($1, 0::smallint)", alone["accepted_seq"]
    )


async def test_the_links_of_a_batch_never_change(sql: Sql) -> None:
    a, b = await opened(sql, 100, 0)
    items, groups = transfers([(a, b, 1)])
    await sql.journal(items, attempt=70, groups=groups)
    for column in groups._fields:
        with pytest.raises(Exception, match="refused"):
            await sql.connection.execute(
                f"UPDATE journal_batches SET status = 'SETTLED', settlement_id = 1,"
                f" {column} = '{{0,1}}' WHERE attempt_id = 70"
            )
