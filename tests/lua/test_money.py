"""What the scripts decide about money, on every server that can be had."""

import random

import pytest

from tests.lua.conftest import Scripts

LARGEST = str(9 * 10**18)
AROUND_2_53 = [2**53 - 1, 2**53, 2**53 + 1]
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
    assert await scripts.admit("A", "k", f"-{amount}") == [word]
    left = int(available) - int(amount) if word == "admitted" else int(available)
    fields = await scripts.fields("A")
    assert fields["available"] == str(left)
    assert ("f:k" in fields) == (word == "admitted")


async def test_amounts_stay_exact_for_random_pairs_of_1_to_19_digits(scripts: Scripts) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    available = 5 * 10**18
    await scripts.load("A", str(available))
    for number in range(300):
        change = rng.choice([-1, 1]) * rng.randrange(1, 10 ** rng.randrange(1, 19))
        (word,) = await scripts.admit("A", f"k{number}", str(change))
        if change < 0:
            assert word == ("admitted" if available + change >= 0 else "insufficient_available")
        else:
            assert word == (
                "admitted" if available + change <= 9 * 10**18 else "balance_limit_exceeded"
            )
        if word == "admitted":
            await scripts.confirm("A", f"k{number}", "journaled")
            available += change
        assert (await scripts.fields("A"))["available"] == str(available)


async def test_items_of_one_batch_see_each_other_in_order(scripts: Scripts) -> None:
    await scripts.load("A", "100")
    words = await scripts.admit("A", "a", "-60", "b", "-60", "c", "-40")
    assert words == ["admitted", "insufficient_available", "admitted"]
    assert (await scripts.fields("A"))["available"] == "0"


async def test_a_credit_is_spendable_only_when_confirmed(scripts: Scripts) -> None:
    await scripts.load("A", "0")
    assert await scripts.admit("A", "c", "50") == ["admitted"]
    assert await scripts.admit("A", "d", "-1", attempt="2") == ["credit_in_flight"]
    assert await scripts.admit("A", "d", "-51", attempt="2") == ["insufficient_available"]
    await scripts.confirm("A", "c", "journaled")
    assert await scripts.admit("A", "d", "-50", attempt="3") == ["admitted"]
    fields = await scripts.fields("A")
    assert (fields["pending_credit"], fields["pending_debit"], fields["incoming"]) == (
        "50",
        "50",
        "0",
    )


async def test_credits_on_their_way_count_against_the_largest_balance(scripts: Scripts) -> None:
    await scripts.load("A", "10")
    words = [
        (await scripts.numbered("admit", ["A"], "1", "100", "1", name, change))[1]
        for name, change in (("a", "60"), ("b", "31"), ("c", "30"))
    ]
    assert words == [["admitted"], ["balance_limit_exceeded"], ["admitted"]]


async def test_an_attempt_sent_again_reserves_once(scripts: Scripts) -> None:
    await scripts.load("A", "100")
    for _ in range(3):
        assert await scripts.admit("A", "k", "-60") == ["admitted"]
    assert (await scripts.fields("A"))["available"] == "40"


async def test_a_name_in_flight_for_another_attempt_is_not_reserved_again(scripts: Scripts) -> None:
    await scripts.load("A", "100")
    assert await scripts.admit("A", "k", "-60", attempt="1") == ["admitted"]
    assert await scripts.admit("A", "k", "-60", attempt="11") == ["in_flight"]
    assert (await scripts.fields("A"))["available"] == "40"


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
    await scripts.admit("A", "k", change, attempt="1")
    reserved = await scripts.fields("A")
    await scripts.confirm("A", "k", outcome, attempt="2")
    assert await scripts.fields("A") == reserved
    for _ in range(2):
        await scripts.confirm("A", "k", outcome, attempt="1")
    fields = await scripts.fields("A")
    assert (fields["available"], fields["incoming"], "f:k" in fields) == (
        available,
        incoming,
        False,
    )


async def test_a_delayed_copy_of_an_old_call_does_nothing(scripts: Scripts) -> None:
    await scripts.load("A", "100")
    old = ("s", "1", "1", LARGEST, "1", "k", "-60")
    await scripts.call("admit", ["A"], *old)
    await scripts.call("confirm", ["A"], "s", "2", "1", "whole", "1", "k", "released")
    assert await scripts.call("admit", ["A"], *old) == ["stale", [], []]
    late = ("s", "1", "1", "whole", "1", "k", "journaled")
    assert await scripts.call("confirm", ["A"], *late) == "stale"
    assert (await scripts.fields("A"))["available"] == "100"


async def test_without_its_token_an_epoch_is_fenced(scripts: Scripts) -> None:
    await scripts.load("A", "100")
    await scripts.redis.delete(scripts.epoch_key)
    before = await scripts.fields("A")
    assert (await scripts.numbered("admit", ["A"], "1", LARGEST, "1", "k", "-60")) == [
        "fenced",
        [],
        [],
    ]
    assert await scripts.numbered("confirm", ["A"], "1", "whole", "1", "k", "journaled") == "fenced"
    assert await scripts.call("load", ["B"], "1", "1", "0", "0", "0") == ["fenced", []]
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
    reply = await scripts.numbered("admit", ["A"], "1", LARGEST, "1", "k", "-60", identity=foreign)
    assert reply == ["fenced", [], []]


async def test_a_replica_is_fenced(scripts: Scripts) -> None:
    await scripts.load("A", "100")
    await scripts.redis.config_set("replica-read-only", "no")
    await scripts.redis.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        reply = await scripts.numbered("admit", ["A"], "1", LARGEST, "1", "k", "-60")
        assert reply == ["fenced", [], []]
    finally:
        await scripts.redis.execute_command("REPLICAOF", "NO", "ONE")
        await scripts.redis.config_set("replica-read-only", "yes")


async def test_the_first_load_wins_and_a_vanished_account_is_noticed(scripts: Scripts) -> None:
    assert await scripts.admit("A", "k", "-1") == ["unloaded"]
    assert await scripts.load("A", "100") == ["done", ["loaded"]]
    assert await scripts.load("A", "999") == ["done", ["present"]]
    assert (await scripts.fields("A"))["available"] == "100"
    await scripts.redis.delete(scripts.account("A"))
    assert await scripts.admit("A", "k", "-1") == ["vanished"]
    assert await scripts.load("A", "100") == ["done", ["vanished"]]


async def test_where_one_account_vanished_no_other_is_reserved(scripts: Scripts) -> None:
    for account in ("A", "B"):
        await scripts.load(account, "100")
    await scripts.redis.delete(scripts.account("B"))
    items = ("1", "a", "-60", "1", "b", "-60")
    reply = await scripts.numbered("admit", ["A", "B"], "1", LARGEST, *items)
    assert reply == ["done", ["admitted", "vanished"], ["", ""]]
    fields = await scripts.fields("A")
    assert (fields["available"], "f:a" in fields) == ("100", False)


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
    await scripts.admit("A", "k", "-60")
    for key in await scripts.redis.keys("*"):
        assert await scripts.redis.ttl(key) == -1


async def test_a_token_of_another_opening_is_not_taken_over(scripts: Scripts) -> None:
    assert await scripts.call("open", [], identity=scripts.identity + "x") == "fenced"


async def test_scripts_survive_a_script_flush(scripts: Scripts) -> None:
    await scripts.load("A", "100")
    await scripts.redis.script_flush()
    assert await scripts.admit("A", "k", "-60") == ["admitted"]
