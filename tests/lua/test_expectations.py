"""What items expect of their accounts: the version, and what is at least available."""

import pytest

from tests.lua.conftest import OWN, Scripts

LARGEST = str(9 * 10**18)


@pytest.mark.parametrize(
    ("expected", "change", "word"),
    [
        ("1:4:", "-1", "admitted"),
        ("1:5:", "-1", "version_mismatch"),
        ("1:3:", "1", "version_mismatch"),
        ("1::100", "-1", "admitted"),
        ("1::101", "-1", "available_below_expected"),
        ("1::101", "1", "available_below_expected"),
        ("1::-5", "-1", "admitted"),
        ("1:4:100", "-100", "admitted"),
        ("1:4:101", "-1", "available_below_expected"),
        ("1:5:101", "-1", "version_mismatch"),
        ("1:4:100", "-101", "insufficient_available"),
        ("1::101", "-200", "available_below_expected"),
        ("1:5:", "-200", "version_mismatch"),
        ("1::1000000000000000000", "-1", "available_below_expected"),
    ],
)
async def test_an_item_is_admitted_where_its_account_is_as_expected(
    scripts: Scripts, expected: str, change: str, word: str
) -> None:
    await scripts.load("A", "100", entries="4")
    assert await scripts.admit("A", change, expected=expected) == [word]
    fields = await scripts.fields("A")
    admitted = word == "admitted"
    assert fields["entries"] == ("5" if admitted else "4")
    assert (fields["available"] == "100") == (not admitted or int(change) > 0)


async def test_a_version_counts_the_items_before_it_in_its_batch(scripts: Scripts) -> None:
    await scripts.load("A", "100", entries="4")
    words = await scripts.admit("A", "-1", "-1", "-1", expected="1:4:;2:4:;3:5:")
    assert words == ["admitted", "version_mismatch", "admitted"]
    assert (await scripts.fields("A"))["entries"] == "6"


async def test_the_version_is_told_where_another_was_expected(scripts: Scripts) -> None:
    await scripts.load("A", "100", entries="4")
    asked = ("1", LARGEST, "each", *OWN, "0", "-", "1:9:", "1", "-1")
    reply = await scripts.numbered("admit", ["A"], *asked)
    assert reply == ["done", [1], ["version_mismatch"], ["4"], []]


async def test_credits_on_their_way_may_bring_what_is_expected(scripts: Scripts) -> None:
    await scripts.load("A", "100")
    assert await scripts.admit("A", "50") == ["admitted"]
    assert await scripts.admit("A", "-1", attempt="2", expected="1::150") == ["credit_in_flight"]
    assert await scripts.admit("A", "-1", attempt="3", expected="1::151") == [
        "available_below_expected"
    ]


@pytest.mark.parametrize(("outcome", "entries"), [("journaled", "6"), ("released", "4")])
async def test_what_is_released_counts_as_no_entry(
    scripts: Scripts, outcome: str, entries: str
) -> None:
    await scripts.load("A", "100", entries="4")
    await scripts.admit("A", "-1", "5")
    assert (await scripts.fields("A"))["entries"] == "6"
    await scripts.numbered("confirm", ["A"], "1", outcome)
    assert (await scripts.fields("A"))["entries"] == entries


async def test_an_item_that_has_the_other_outcome_is_counted_so(scripts: Scripts) -> None:
    await scripts.load("A", "100", entries="4")
    await scripts.admit("A", "-1", "-200", "5")
    await scripts.numbered("confirm", ["A"], "1", "journaled", "1")
    fields = await scripts.fields("A")
    assert (fields["entries"], fields["available"]) == ("5", "99")


@pytest.mark.parametrize("stop", ["all", "debit", "closed"])
async def test_a_stop_is_told_before_an_expectation(scripts: Scripts, stop: str) -> None:
    await scripts.load("A", "100", stop=stop)
    word = "account_closed" if stop == "closed" else "account_frozen"
    assert await scripts.admit("A", "-1", expected="1:7:900") == [word]


async def test_groups_count_their_items_and_none_of_a_refused_one(scripts: Scripts) -> None:
    await scripts.load("A", "100", entries="4")
    await scripts.load("B", "0", entries="9")
    await scripts.admit_groups({"A": ["-60", "-60"], "B": ["60", "60"]}, "1,3;2,4")
    counts = [(await scripts.fields(name))["entries"] for name in ("A", "B")]
    assert counts == ["5", "10"]
    await scripts.numbered("confirm", ["A", "B"], "1", "released")
    counts = [(await scripts.fields(name))["entries"] for name in ("A", "B")]
    assert counts == ["4", "9"]
