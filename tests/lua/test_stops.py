"""Stopping an account, reloading it, and what admission makes of it, on every server to be had."""

import pytest

from app.ledger.flights import read_record
from tests.lua.conftest import OWN, Scripts

LARGEST = str(9 * 10**18)
ADMITTED, FROZEN, CLOSED = "admitted", "account_frozen", "account_closed"
CHANGING = "account_changing"
# stop, what becomes of a debit, of a credit
STOPS = [
    ("", ADMITTED, ADMITTED),
    ("debit", FROZEN, ADMITTED),
    ("credit", ADMITTED, FROZEN),
    ("all", FROZEN, FROZEN),
    ("closed", CLOSED, CLOSED),
    ("changing 7 ", CHANGING, CHANGING),
    ("changing 7 debit", CHANGING, CHANGING),
]


@pytest.mark.parametrize(("stop", "debit", "credit"), STOPS)
async def test_an_account_admits_what_its_stop_leaves(
    scripts: Scripts, stop: str, debit: str, credit: str
) -> None:
    await scripts.load("A", "100", stop=stop)
    assert await scripts.admit("A", "-1", "1") == [debit, credit]
    fields = await scripts.fields("A")
    assert fields["available"] == ("99" if debit == ADMITTED else "100")
    assert fields["incoming"] == ("1" if credit == ADMITTED else "0")
    assert await scripts.attempts() == ({"1"} if ADMITTED in (debit, credit) else set())


async def test_a_stop_goes_before_the_figures(scripts: Scripts) -> None:
    await scripts.load("A", "100", stop="all")
    assert await scripts.admit("A", "-101", LARGEST) == [FROZEN, FROZEN]


async def test_other_accounts_of_a_batch_are_not_stopped(scripts: Scripts) -> None:
    await scripts.load("A", "100", stop="debit")
    await scripts.load("B", "100")
    reply = await scripts.numbered(
        "admit", ["A", "B"], "1", LARGEST, "each", *OWN, "0", "- -", "", "1", "-1", "1", "-1"
    )
    assert reply == ["done", [1], [FROZEN], ["100"], []]
    assert (await scripts.fields("B"))["available"] == "99"


async def test_all_or_nothing_reserves_nothing_where_one_account_is_stopped(
    scripts: Scripts,
) -> None:
    await scripts.load("A", "100", stop="changing 7 ")
    await scripts.load("B", "100")
    reply = await scripts.numbered(
        "admit", ["A", "B"], "1", LARGEST, "all", *OWN, "0", "- -", "", "1", "-1", "1", "-1"
    )
    assert reply == ["done", [1], [CHANGING], ["100"], []]
    assert (await scripts.fields("B"))["available"] == "100"


@pytest.mark.parametrize("before", ["", "debit", "all", "closed"])
async def test_a_stop_that_is_undone_leaves_what_was_before(scripts: Scripts, before: str) -> None:
    await scripts.load("A", "100", stop=before)
    fields = await scripts.fields("A")
    assert await scripts.stop("A") == "done"
    assert (await scripts.fields("A"))["stop"] == f"changing 7 {before}"
    assert await scripts.attempts() == {"7"}
    assert await scripts.reload("A", outcome="undone") == "done"
    assert (await scripts.fields("A"), await scripts.attempts()) == (fields, set())


async def test_a_decided_change_shows_what_postgres_has(scripts: Scripts) -> None:
    await scripts.load("A", "100", pending_debit="30")
    await scripts.stop("A")
    assert await scripts.reload("A", "50", "credit") == "done"
    fields = await scripts.fields("A")
    assert (fields["available"], fields["stop"]) == ("50", "credit")
    assert (fields["pending_debit"], fields["settled"], fields["version"]) == ("30", "100", "0")
    assert await scripts.attempts() == set()
    assert await scripts.admit("A", "-50", "-1", "1") == [
        ADMITTED,
        "insufficient_available",
        FROZEN,
    ]


async def test_what_was_admitted_before_a_stop_is_confirmed_after_it(scripts: Scripts) -> None:
    await scripts.load("A", "100")
    assert await scripts.admit("A", "-60") == [ADMITTED]
    await scripts.stop("A")
    assert await scripts.admit("A", "-60") == [ADMITTED], "told again, reserved once"
    assert await scripts.attempts() == {"1", "7"}
    await scripts.confirm("A", "released")
    assert (await scripts.fields("A"))["available"] == "100"
    assert await scripts.attempts() == {"7"}


async def test_the_record_of_a_change_reserves_nothing(scripts: Scripts) -> None:
    await scripts.load("A", "100")
    await scripts.stop("A")
    (call_word, held) = await scripts.call("flights", [])  # type: ignore[misc]
    record = read_record(int(held[0]), held[1])
    assert call_word == "done"
    assert (record.keys, record.flights, record.is_change) == ((scripts.account("A"),), (), True)


async def test_an_account_is_changed_by_one_at_a_time(scripts: Scripts) -> None:
    await scripts.load("A", "100")
    assert await scripts.stop("A", "7") == "done"
    assert await scripts.stop("A", "7") == "done"
    assert await scripts.stop("A", "8") == "changing"
    stopped = await scripts.fields("A")
    assert await scripts.attempts() == {"7"}
    for outcome in ("decided", "undone"):
        assert await scripts.reload("A", "1", "all", attempt="8", outcome=outcome) == "done"
        assert (await scripts.fields("A"), await scripts.attempts()) == (stopped, {"7"})


@pytest.mark.parametrize("outcome", ["decided", "undone"])
async def test_an_account_that_is_not_changing_is_left_alone(
    scripts: Scripts, outcome: str
) -> None:
    await scripts.load("A", "100", stop="debit")
    before = await scripts.fields("A")
    assert await scripts.reload("A", "1", "", outcome=outcome) == "done"
    assert await scripts.fields("A") == before


async def test_late_copies_of_stop_and_reload_do_nothing(scripts: Scripts) -> None:
    await scripts.load("A", "100")
    old = str(scripts.number + 1)
    await scripts.stop("A")
    await scripts.reload("A", "40", "debit")
    before = await scripts.fields("A")
    assert await scripts.call("stop", ["A"], "s", old, "7") == "stale"
    assert (await scripts.fields("A"), await scripts.attempts()) == (before, set())
    await scripts.stop("A", "8")
    late = str(scripts.number)
    assert await scripts.call("reload", ["A"], "s", late, "8", "decided", "1", "") == "stale"
    assert (await scripts.fields("A"))["stop"] == "changing 8 debit"


async def test_stops_that_are_refused_are_numbered_as_well(scripts: Scripts) -> None:
    await scripts.load("A", "100")
    await scripts.stop("A", "7")
    refused = str(scripts.number + 1)
    assert await scripts.stop("A", "8") == "changing"
    await scripts.call("reload", ["A"], "reaper", "1", "7", "undone", "", "")
    assert await scripts.call("stop", ["A"], "s", refused, "8") == "stale"
    assert (await scripts.fields("A"))["stop"] == ""


async def test_a_refresh_changes_nothing_that_a_reload_does(scripts: Scripts) -> None:
    await scripts.load("A", "100", pending_debit="30")
    await scripts.stop("A")
    line = ("0", "3", "70", "30", "0")
    assert await scripts.call("refresh", ["A"], *line) == ["done", ["refreshed"], ["0"]]
    await scripts.reload("A", "90", "all")
    fields = await scripts.fields("A")
    assert (fields["version"], fields["settled"], fields["pending_debit"]) == ("3", "70", "0")
    assert (fields["available"], fields["stop"]) == ("90", "all")


async def test_without_its_epoch_nothing_is_stopped_or_reloaded(scripts: Scripts) -> None:
    await scripts.load("A", "100")
    await scripts.stop("A")
    before = await scripts.fields("A")
    other = {"identity": "other other token"}
    assert await scripts.numbered("stop", ["A"], "8", **other) == "fenced"
    assert await scripts.numbered("reload", ["A"], "7", "decided", "1", "", **other) == "fenced"
    assert (await scripts.fields("A"), await scripts.attempts()) == (before, {"7"})


async def test_a_stop_tells_what_is_missing(scripts: Scripts) -> None:
    assert await scripts.stop("A") == "unloaded"
    await scripts.load("A", "100")
    await scripts.stop("A", "7")
    await scripts.redis.hdel(scripts.flight_key, "7")
    assert await scripts.stop("A", "7") == "vanished", "its record is gone"
    assert await scripts.stop("A", "8") == "vanished", "nobody would end that change"
    await scripts.redis.delete(scripts.account("A"))
    assert await scripts.stop("A") == "vanished"
    assert await scripts.reload("A", "1", "") == "done"
    assert await scripts.fields("A") == {}, "an account that is gone stays gone"
