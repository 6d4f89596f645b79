"""What `admit_groups` decides: each group wholly or not at all, on every server that can be had."""

import random

import pytest

from tests.lua.conftest import Scripts, words_of

SHORT, OTHER = "insufficient_available", "group_refused"
Fields = dict[str, dict[str, str]]


async def loaded(scripts: Scripts, **available: int) -> None:
    for account, figure in available.items():
        await scripts.load(account, str(figure))


async def fields(scripts: Scripts, *accounts: str) -> dict[str, tuple[int, int, int]]:
    """Available, incoming and pending debit of accounts."""
    names = ("available", "incoming", "pending_debit")
    shown = {account: await scripts.fields(account) for account in accounts}
    return {account: tuple(int(shown[account][name]) for name in names) for account in accounts}


async def test_a_transfer_reserves_its_debit_and_announces_its_credit(scripts: Scripts) -> None:
    await loaded(scripts, A=100, B=5)
    reply = await scripts.admit_groups({"A": ["-60"], "B": ["60"]}, "1,2")
    assert words_of(reply, 2) == ["admitted", "admitted"]
    assert await fields(scripts, "A", "B") == {"A": (40, 0, 60), "B": (5, 60, 0)}


async def test_a_group_is_refused_whole_and_leaves_nothing(scripts: Scripts) -> None:
    await loaded(scripts, A=100, B=10, C=0)
    before = await fields(scripts, "A", "B", "C")
    reply = await scripts.admit_groups({"A": ["-60"], "B": ["-11"], "C": ["60", "11"]}, "1,2,3,4")
    assert words_of(reply, 4) == [OTHER, SHORT, OTHER, OTHER]
    assert reply[3] == ["10"] * 4
    assert await fields(scripts, "A", "B", "C") == before
    assert await scripts.attempts() == set()


async def test_groups_are_decided_in_order_and_one_stops_no_other(scripts: Scripts) -> None:
    """The second takes what the first leaves, the third what the second, refused, did not take."""
    await loaded(scripts, A=100, B=0, C=0)
    accounts = {"A": ["-60", "-50", "-40"], "B": ["60", "50"], "C": ["40"]}
    reply = await scripts.admit_groups(accounts, "1,4;2,5;3,6")
    assert words_of(reply, 6) == ["admitted", SHORT, "admitted", "admitted", OTHER, "admitted"]
    assert await fields(scripts, "A", "B", "C") == {
        "A": (0, 0, 100),
        "B": (0, 60, 0),
        "C": (0, 40, 0),
    }


async def test_the_order_of_groups_is_the_callers_not_that_of_the_accounts(
    scripts: Scripts,
) -> None:
    await loaded(scripts, A=100, B=0)
    reply = await scripts.admit_groups({"A": ["-60", "-50"], "B": ["60", "50"]}, "2,4;1,3")
    assert words_of(reply, 4) == [SHORT, "admitted", OTHER, "admitted"]


async def test_the_credits_of_a_group_fund_none_of_its_debits(scripts: Scripts) -> None:
    await loaded(scripts, A=100, B=0, C=0)
    reply = await scripts.admit_groups({"A": ["-60"], "B": ["-60", "60"], "C": ["60"]}, "1,2,3,4")
    assert words_of(reply, 4) == [OTHER, SHORT, OTHER, OTHER]


@pytest.mark.parametrize("unit", [1, 10**16], ids=["small", "large"])
async def test_what_a_refused_group_would_have_brought_is_taken_back(
    scripts: Scripts, unit: int
) -> None:
    """Its first credit had room, its second has not; the group beside it is admitted."""
    await loaded(scripts, A=100 * unit, B=0, C=95 * unit)
    changes = {"A": [-20, -10, -7], "B": [20, 7], "C": [10]}
    accounts = {name: [str(change * unit) for change in some] for name, some in changes.items()}
    reply = await scripts.admit_groups(accounts, "1,2,4,6;3,5", balance_max=str(100 * unit))
    assert words_of(reply, 6) == [
        OTHER,
        OTHER,
        "admitted",
        OTHER,
        "admitted",
        "balance_limit_exceeded",
    ]
    assert await fields(scripts, "A", "B", "C") == {
        "A": (93 * unit, 0, 7 * unit),
        "B": (0, 7 * unit, 0),
        "C": (95 * unit, 0, 0),
    }


async def test_what_another_group_credits_is_on_its_way(scripts: Scripts) -> None:
    await loaded(scripts, A=100, B=0, C=0)
    accounts = {"A": ["-60"], "B": ["60", "-60"], "C": ["60"]}
    reply = await scripts.admit_groups(accounts, "1,2;3,4")
    assert words_of(reply, 4) == ["admitted", "admitted", "credit_in_flight", OTHER]


@pytest.mark.parametrize(
    ("stop", "words"),
    [
        ("debit", ["account_frozen", OTHER]),
        ("closed", ["account_closed", OTHER]),
        ("credit", ["admitted", "admitted"]),
    ],
)
async def test_what_a_frozen_account_takes_no_more(
    scripts: Scripts, stop: str, words: list[str]
) -> None:
    await scripts.load("A", "100", stop=stop)
    await scripts.load("B", "0")
    reply = await scripts.admit_groups({"A": ["-60"], "B": ["60"]}, "1,2")
    assert words_of(reply, 2) == words


async def test_a_credit_that_has_no_room_takes_its_group_along(scripts: Scripts) -> None:
    await loaded(scripts, A=100, B=50)
    reply = await scripts.admit_groups({"A": ["-60"], "B": ["60"]}, "1,2", balance_max="109")
    assert words_of(reply, 2) == [OTHER, "balance_limit_exceeded"]
    assert await fields(scripts, "A", "B") == {"A": (100, 0, 0), "B": (50, 0, 0)}


async def test_an_attempt_sent_again_reserves_once_and_is_told_the_same(scripts: Scripts) -> None:
    await loaded(scripts, A=100, B=0)
    accounts = {"A": ["-60", "-50"], "B": ["60", "50"]}
    replies = [await scripts.admit_groups(accounts, "1,3;2,4") for _ in range(3)]
    assert replies[0] == replies[1] == replies[2]
    assert await fields(scripts, "A", "B") == {"A": (40, 0, 60), "B": (0, 60, 0)}


async def test_accounts_that_are_missing_are_named_and_nothing_is_done(scripts: Scripts) -> None:
    await loaded(scripts, B=100)
    reply = await scripts.admit_groups({"A": ["60"], "B": ["-60"], "C": ["5"]}, "2,1")
    assert reply == ["unloaded", [1, 3], [], [], []]
    assert await fields(scripts, "B") == {"B": (100, 0, 0)}
    await loaded(scripts, A=0, C=0)
    await scripts.redis.delete(scripts.account("A"))
    assert (await scripts.admit_groups({"A": ["60"], "B": ["-60"]}, "2,1"))[0] == "vanished"


async def test_a_refusal_comes_with_the_names_that_others_have_in_flight(scripts: Scripts) -> None:
    await loaded(scripts, A=100, B=0)
    accounts = {"A": ["-60"], "B": ["60"]}
    await scripts.admit_groups(accounts, "1,2", attempt="100", own=("100", "199"), names="k1 -")
    reply = await scripts.admit_groups(accounts, "1,2", attempt="2")
    assert reply == ["done", [1, 2], [SHORT, OTHER], ["40", "40"], ["k1 -"]]


async def test_the_record_is_confirmed_as_any_other(scripts: Scripts) -> None:
    """The journal numbers what was admitted in the record's order; item 1 and 3 were left out."""
    await loaded(scripts, A=100, B=0, C=0)
    accounts = {"A": ["-60", "-50", "-40"], "B": ["60", "50"], "C": ["40"]}
    await scripts.admit_groups(accounts, "1,4;2,5;3,6")
    await scripts.numbered("confirm", ["A", "B", "C"], "1", "journaled", "1", "3")
    assert await fields(scripts, "A", "B", "C") == {
        "A": (40, 0, 60),
        "B": (60, 0, 0),
        "C": (0, 0, 0),
    }
    assert await scripts.attempts() == set()


async def test_random_groups_are_decided_as_a_plain_model_does(scripts: Scripts) -> None:
    """The model takes groups one by one from a dictionary of balances."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for number in range(40):
        names = [f"{number}.{letter}" for letter in "ABCD"]
        balances = {name: rng.randint(0, 200) for name in names}
        coming = dict.fromkeys(names, 0)
        await loaded(scripts, **balances)
        accounts: dict[str, list[str]] = {name: [] for name in names}
        placed: list[list[tuple[str, int, int]]] = []
        for _ in range(rng.randint(1, 6)):
            pairs = [(*rng.sample(names, 2), rng.randint(1, 90)) for _ in range(rng.randint(1, 3))]
            legs = [(debit, -amount) for debit, _, amount in pairs]
            legs += [(credit, amount) for _, credit, amount in pairs]
            group = []
            for name, change in legs:
                accounts[name].append(str(change))
                group.append((name, len(accounts[name]) - 1, change))
            placed.append(group)
        used = {name: changes for name, changes in accounts.items() if changes}
        starts, start = {}, 1
        for name, changes in used.items():
            starts[name], start = start, start + len(changes)
        texts = [",".join(str(starts[name] + at) for name, at, _ in group) for group in placed]
        reply = await scripts.admit_groups(used, ";".join(texts), attempt=str(number))
        refused = set(reply[1])
        for group, text in zip(placed, texts, strict=True):
            after = dict(balances)
            is_admitted = True
            for name, _, change in group:
                is_admitted = is_admitted and (change > 0 or after[name] + change >= 0)
                after[name] += min(change, 0)
            positions = {int(position) for position in text.split(",")}
            assert positions.isdisjoint(refused) if is_admitted else positions <= refused
            if is_admitted:
                balances = after
                for name, _, change in group:
                    coming[name] += max(change, 0)
        found = await fields(scripts, *used)
        assert {name: found[name][:2] for name in used} == {
            name: (balances[name], coming[name]) for name in used
        }
