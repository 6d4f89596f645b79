"""What the scripts decide about money, on every server that can be had."""

import random

import pytest
from redis.exceptions import ResponseError

from app.infra.embedded import EmbeddedRedis
from app.infra.redis import open_redis
from app.infra.scripts import LuaScripts
from app.ledger.flights import Flight, FlightRecord, read_record
from tests.lua.conftest import OWN, Scripts, words_of

LARGEST = str(9 * 10**18)
# available, debit, word
DEBITS = [
    ("100", "100", "admitted"),
    ("100", "101", "insufficient_available"),
    ("0", "1", "insufficient_available"),
    ("-5", "1", "insufficient_available"),
    ("999999999", "1000000000", "insufficient_available"),
    ("1000000000", "999999999", "admitted"),
    (str(2**53), str(2**53 + 1), "insufficient_available"),
    (str(2**53 + 1), str(2**53 + 1), "admitted"),
    (LARGEST, str(10**18 - 1), "admitted"),
]


@pytest.mark.parametrize(("available", "amount", "word"), DEBITS)
async def test_a_debit_is_admitted_exactly_when_it_fits(
    scripts: Scripts, available: str, amount: str, word: str
) -> None:
    await scripts.load("A", available)
    assert await scripts.admit("A", f"-{amount}") == [word]
    left = int(available) - int(amount) if word == "admitted" else int(available)
    assert (await scripts.fields("A"))["available"] == str(left)
    assert await scripts.attempts() == ({"1"} if word == "admitted" else set())


async def test_amounts_stay_exact_for_random_pairs_of_1_to_19_digits(scripts: Scripts) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    available = 5 * 10**18
    await scripts.load("A", str(available))
    for number in range(300):
        change = rng.choice([-1, 1]) * rng.randrange(1, 10 ** rng.randrange(1, 19))
        (word,) = await scripts.admit("A", str(change), attempt=str(number))
        if change < 0:
            assert word == ("admitted" if available + change >= 0 else "insufficient_available")
        else:
            assert word == (
                "admitted" if available + change <= 9 * 10**18 else "balance_limit_exceeded"
            )
        outcome = rng.choice(["journaled", "released"])
        await scripts.confirm("A", outcome, attempt=str(number))
        if word == "admitted" and outcome == "journaled":
            available += change
        fields = await scripts.fields("A")
        assert (fields["available"], fields["incoming"]) == (str(available), "0")


async def test_items_of_one_batch_see_each_other_in_order(scripts: Scripts) -> None:
    await scripts.load("A", "100")
    words = await scripts.admit("A", "-60", "-60", "-40")
    assert words == ["admitted", "insufficient_available", "admitted"]
    assert (await scripts.fields("A"))["available"] == "0"


async def test_all_or_nothing_reserves_nothing_where_one_is_refused(scripts: Scripts) -> None:
    await scripts.load("A", "100")
    before = await scripts.fields("A")
    words = await scripts.admit("A", "-60", "-60", "5", extent="all")
    assert words == ["admitted", "insufficient_available", "admitted"]
    assert (await scripts.fields("A"), await scripts.attempts()) == (before, set())
    assert await scripts.admit("A", "-60", "-40", "5", extent="all") == ["admitted"] * 3
    assert (await scripts.fields("A"))["available"] == "0"


async def test_a_credit_is_spendable_only_when_confirmed(scripts: Scripts) -> None:
    await scripts.load("A", "0")
    assert await scripts.admit("A", "50") == ["admitted"]
    assert await scripts.admit("A", "-1", attempt="2") == ["credit_in_flight"]
    assert await scripts.admit("A", "-51", attempt="2") == ["insufficient_available"]
    await scripts.confirm("A", "journaled")
    assert await scripts.admit("A", "-50", attempt="3") == ["admitted"]
    fields = await scripts.fields("A")
    assert (fields["pending_credit"], fields["pending_debit"], fields["incoming"]) == (
        "50",
        "50",
        "0",
    )


async def test_credits_on_their_way_count_against_the_largest_balance(scripts: Scripts) -> None:
    await scripts.load("A", "10")
    words = await scripts.admit("A", "60", "31", "30", balance_max="100")
    assert words == ["admitted", "balance_limit_exceeded", "admitted"]


async def test_an_attempt_sent_again_reserves_once_and_is_told_the_same(scripts: Scripts) -> None:
    await scripts.load("A", "100")
    for _ in range(3):
        words = await scripts.admit("A", "-60", "-50", "-30", "7")
        assert words == ["admitted", "insufficient_available", "admitted", "admitted"]
    fields = await scripts.fields("A")
    assert (fields["available"], fields["incoming"]) == ("10", "7")


async def test_refusals_come_with_the_names_that_others_have_in_flight(scripts: Scripts) -> None:
    await scripts.load("A", "100")
    for attempt, own, name in (("1", OWN, "mine"), ("100", ("100", "199"), "k1 k2")):
        await scripts.numbered(
            "admit", ["A"], attempt, LARGEST, "each", *own, "0", name, "", "1", "-30"
        )
    asked = ("2", LARGEST, "each", *OWN, "0", "- -", "")
    reply = await scripts.numbered("admit", ["A"], *asked, "1", "-60")
    assert reply == ["done", [1], ["insufficient_available"], ["40"], ["k1 k2"]]
    for _ in range(2):
        reply = await scripts.numbered("admit", ["A"], *asked, "2", "-60", "-40")
        assert reply == ["done", [1], ["insufficient_available"], ["40"], ["k1 k2"]]
    await scripts.numbered("confirm", ["A"], "100", "released")
    reply = await scripts.numbered(
        "admit", ["A"], "3", LARGEST, "each", *OWN, "0", "-", "", "1", "-60"
    )
    assert reply == ["done", [1], ["insufficient_available"], ["30"], []]


@pytest.mark.parametrize(
    ("change", "outcome", "available", "incoming"),
    [
        ("-60", "journaled", "40", "0"),
        ("-60", "released", "100", "0"),
        ("60", "journaled", "160", "0"),
        ("60", "released", "100", "0"),
    ],
)
async def test_confirm_acts_once_and_only_for_its_attempt(
    scripts: Scripts, change: str, outcome: str, available: str, incoming: str
) -> None:
    await scripts.load("A", "100")
    await scripts.admit("A", change, attempt="1")
    reserved = await scripts.fields("A")
    await scripts.confirm("A", outcome, attempt="2")
    assert await scripts.fields("A") == reserved
    for _ in range(2):
        await scripts.confirm("A", outcome, attempt="1")
    fields = await scripts.fields("A")
    assert (fields["available"], fields["incoming"]) == (available, incoming)
    assert await scripts.attempts() == set()


async def test_confirm_gives_back_what_has_the_other_outcome(scripts: Scripts) -> None:
    """Items are counted among the admitted ones, as the journal counts them."""
    await scripts.load("A", "100")
    words = await scripts.admit("A", "-70", "-50", "-20", "8", "9")
    assert words == ["admitted", "insufficient_available", "admitted", "admitted", "admitted"]
    assert await scripts.confirm("A", "journaled", "1", "3") == "done"
    fields = await scripts.fields("A")
    names = ("available", "incoming", "pending_debit", "pending_credit")
    assert [fields[name] for name in names] == ["38", "0", "70", "8"]


async def test_journaled_debits_are_confirmed_without_their_accounts(scripts: Scripts) -> None:
    await scripts.load("A", "100")
    await scripts.admit("A", "-60")
    reserved = await scripts.fields("A")
    assert await scripts.numbered("confirm", [], "1", "journaled") == "done"
    assert (await scripts.fields("A"), await scripts.attempts()) == (reserved, set())


async def test_an_admission_confirms_the_debits_before_it(scripts: Scripts) -> None:
    await scripts.load("A", "100")
    await scripts.admit("A", "-60", attempt="1")
    assert await scripts.admit("A", "-30", attempt="2", journaled="1") == ["admitted"]
    fields = await scripts.fields("A")
    assert (fields["available"], fields["pending_debit"]) == ("10", "90")
    assert await scripts.attempts() == {"2"}
    assert await scripts.admit("A", "-30", attempt="3", journaled="2") == ["insufficient_available"]
    assert await scripts.attempts() == set()


async def test_a_large_batch_of_others_does_not_hold_up_a_refusal(
    server: EmbeddedRedis, scripts: Scripts
) -> None:
    """The names in flight are looked for in every record, a thousand accounts long or not."""
    accounts = [f"A{number}-{'a' * 40}" for number in range(1_000)]
    for account in accounts:
        await scripts.load(account, "100")
    items = [part for _ in accounts for part in ("1", "-1")]
    names = " ".join(f"0:key:{account}" for account in accounts)
    theirs = ("100", LARGEST, "each", "100", "199", "0", names, "", *items)
    assert words_of(await scripts.numbered("admit", accounts, *theirs), 1_000)[0] == "admitted"
    async with open_redis(server.url, 1_000, 1) as impatient:
        scripts.scripts = LuaScripts(impatient)
        refused = ("1", LARGEST, "each", *OWN, "0", "-", "", "1", "-1000")
        reply = await scripts.numbered("admit", accounts[:1], *refused)
    assert reply == ["done", [1], ["insufficient_available"], ["99"], [names]]


async def test_an_old_admission_confirms_nothing(scripts: Scripts) -> None:
    await scripts.load("A", "100")
    await scripts.admit("A", "-60", attempt="1")
    items = ("2", LARGEST, "each", *OWN, "1", "-", "", "1", "-30")
    assert await scripts.call("admit", ["A"], "s", "1", *items) == ["stale", [], [], [], []]
    assert await scripts.attempts() == {"1"}


async def test_confirm_refuses_accounts_that_are_not_the_attempts(scripts: Scripts) -> None:
    for account in ("A", "B"):
        await scripts.load(account, "100")
    await scripts.admit("A", "-60")
    with pytest.raises(ResponseError, match="not the accounts of attempt 1"):
        await scripts.confirm("B", "released")
    assert await scripts.attempts() == {"1"}


async def test_a_delayed_copy_of_an_old_call_does_nothing(scripts: Scripts) -> None:
    await scripts.load("A", "100")
    old = ("s", "1", "1", LARGEST, "each", *OWN, "0", "-", "", "1", "-60")
    await scripts.call("admit", ["A"], *old)
    await scripts.call("confirm", ["A"], "s", "2", "1", "released")
    assert await scripts.call("admit", ["A"], *old) == ["stale", [], [], [], []]
    assert await scripts.call("confirm", ["A"], "s", "1", "1", "journaled") == "stale"
    assert (await scripts.fields("A"))["available"] == "100"


async def test_a_copy_of_a_sending_that_was_told_again_does_nothing(scripts: Scripts) -> None:
    """Of three sendings the second is delayed until the attempt is in flight no more."""
    await scripts.load("A", "100")
    items = ("1", LARGEST, "each", *OWN, "0", "-", "", "1", "60")
    for number in ("1", "3"):
        reply = await scripts.call("admit", ["A"], "s", number, *items)
        assert reply == ["done", [], [], [], []]
    await scripts.call("confirm", ["A"], "another", "1", "1", "journaled")
    assert await scripts.call("admit", ["A"], "s", "2", *items) == ["stale", [], [], [], []]
    fields = await scripts.fields("A")
    assert (fields["available"], fields["incoming"]) == ("160", "0")


async def test_flights_reads_the_attempts_that_are_asked_for(scripts: Scripts) -> None:
    await scripts.load("A", "100")
    for attempt in ("1", "2", "3"):
        await scripts.admit("A", "-1", attempt=attempt)
    for asked, found in (([], {"1", "2", "3"}), (["3", "4", "1"], {"1", "3"}), (["4"], set())):
        reply = await scripts.call("flights", [], *asked)
        assert isinstance(reply, list)
        assert (reply[0], set(reply[1][::2])) == ("done", found)


@pytest.mark.parametrize("account", ["A", "B"], ids=["refused", "unloaded"])
async def test_a_delayed_copy_of_a_call_that_changed_nothing_does_nothing(
    scripts: Scripts, account: str
) -> None:
    await scripts.load("A", "10")
    old = ("s", "1", "1", LARGEST, "each", *OWN, "0", "-", "", "1", "-60")
    await scripts.call("admit", [account], *old)
    await scripts.load("B", "100")
    await scripts.redis.hset(scripts.account("A"), "available", "100")
    assert await scripts.call("admit", [account], *old) == ["stale", [], [], [], []]


async def test_without_its_token_an_epoch_is_fenced(scripts: Scripts) -> None:
    await scripts.load("A", "100")
    await scripts.redis.delete(scripts.epoch_key)
    before = await scripts.fields("A")
    admitted = await scripts.numbered(
        "admit", ["A"], "1", LARGEST, "each", *OWN, "0", "-", "", "1", "-60"
    )
    assert admitted == ["fenced", [], [], [], []]
    assert await scripts.numbered("confirm", ["A"], "1", "journaled") == "fenced"
    assert await scripts.call("inspect", ["A"]) == ["fenced", [], [], []]
    assert await scripts.call("flights", []) == ["fenced", []]
    assert await scripts.call("load", ["B"], "1", "1", "0", "0", "0", "", "0") == ["fenced", []]
    assert await scripts.call("refresh", ["A"], "0", "1", "1", "0", "0") == ["fenced", [], []]
    assert await scripts.fields("A") == before
    assert await scripts.fields("B") == {}


@pytest.mark.parametrize("part", [0, 1, 2], ids=["run_id", "replication_id", "token"])
async def test_another_redis_identity_is_fenced_even_with_its_token(
    scripts: Scripts, part: int
) -> None:
    """A stale snapshot brings the token back on a server of another identity."""
    await scripts.load("A", "100")
    words = scripts.identity.split()
    words[part] = "0" * 40
    foreign = " ".join(words)
    if part < 2:
        await scripts.redis.hset(scripts.epoch_key, "identity", foreign)
    reply = await scripts.numbered(
        "admit", ["A"], "1", LARGEST, "each", *OWN, "0", "-", "", "1", "-60", identity=foreign
    )
    assert reply == ["fenced", [], [], [], []]


async def test_a_replica_is_fenced(scripts: Scripts) -> None:
    await scripts.load("A", "100")
    await scripts.redis.config_set("replica-read-only", "no")
    await scripts.redis.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        reply = await scripts.numbered(
            "admit", ["A"], "1", LARGEST, "each", *OWN, "0", "-", "", "1", "-60"
        )
        assert reply == ["fenced", [], [], [], []]
    finally:
        await scripts.redis.execute_command("REPLICAOF", "NO", "ONE")
        await scripts.redis.config_set("replica-read-only", "yes")


async def test_the_first_load_wins_and_a_vanished_account_is_noticed(scripts: Scripts) -> None:
    item = ("1", LARGEST, "each", *OWN, "0", "-", "", "1", "-1")
    assert await scripts.numbered("admit", ["A"], *item) == ["unloaded", [1], [], [], []]
    assert await scripts.load("A", "100") == ["done", ["loaded"]]
    assert await scripts.load("A", "999") == ["done", ["present"]]
    assert (await scripts.fields("A"))["available"] == "100"
    await scripts.redis.delete(scripts.account("A"))
    assert await scripts.numbered("admit", ["A"], *item) == ["vanished", [], [], [], []]
    assert await scripts.load("A", "100") == ["done", ["vanished"]]


@pytest.mark.parametrize("lost", [True, False], ids=["vanished", "unloaded"])
async def test_where_one_account_is_missing_no_other_is_reserved(
    scripts: Scripts, lost: bool
) -> None:
    await scripts.load("A", "100")
    if lost:
        await scripts.load("B", "100")
        await scripts.redis.delete(scripts.account("B"))
    items = ("1", LARGEST, "each", *OWN, "0", "- -", "", "1", "-60", "1", "-60")
    reply = await scripts.numbered("admit", ["A", "B"], *items)
    assert reply == (["vanished", [], [], [], []] if lost else ["unloaded", [2], [], [], []])
    assert (await scripts.fields("A"))["available"] == "100"
    assert await scripts.attempts() == set()


async def test_inspect_reads_accounts_and_what_is_in_flight(scripts: Scripts) -> None:
    await scripts.load("A", "100")
    await scripts.numbered(
        "admit", ["A"], "7", LARGEST, "each", *OWN, "0", "k1 k2", "", "2", "-60", "-50"
    )
    reply = await scripts.call("inspect", ["A", "B"])
    assert isinstance(reply, list)
    assert reply[:2] == ["done", ["present", "unloaded"]]
    (record,) = [read_record(int(reply[3][0]), reply[3][1])]
    assert record == FlightRecord(
        7, (scripts.account("A"),), (Flight("A", 7, 0, -60),), frozenset({"k1", "k2"})
    )


async def test_refresh_moves_pending_to_settled_once_and_in_order(scripts: Scripts) -> None:
    await scripts.load("A", "100", pending_debit="30")
    line = ("0", "2", "70", "30", "0")
    assert await scripts.call("refresh", ["A"], *line) == ["done", ["refreshed"], ["0"]]
    assert await scripts.call("refresh", ["A"], *line) == ["done", ["current"], ["2"]]
    assert await scripts.call("refresh", ["A"], "3", "4", "70", "0", "0") == [
        "done",
        ["behind"],
        ["2"],
    ]
    assert await scripts.call("refresh", ["B"], *line) == ["done", ["unloaded"], [""]]
    fields = await scripts.fields("A")
    assert (fields["available"], fields["settled"], fields["pending_debit"]) == ("100", "70", "0")


async def test_no_money_key_expires(scripts: Scripts) -> None:
    await scripts.load("A", "100")
    await scripts.admit("A", "-60")
    for key in await scripts.redis.keys("*"):
        assert await scripts.redis.ttl(key) == -1


async def test_a_token_of_another_opening_is_not_taken_over(scripts: Scripts) -> None:
    assert await scripts.call("open", [], identity=scripts.identity + "x") == "fenced"


async def test_scripts_survive_a_script_flush(scripts: Scripts) -> None:
    await scripts.load("A", "100")
    await scripts.redis.script_flush()
    assert await scripts.admit("A", "-60") == ["admitted"]
