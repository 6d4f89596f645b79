"""Random programs of postings, transfers, holds, reversals, changes of accounts and settlements."""

from random import Random
from typing import NamedTuple

from tests.conformance.reference import AMOUNT_MAX

ACCOUNTS = {"A": (300, 0), "B": (0, 200), "C": (AMOUNT_MAX, 0), "D": (0, 0)}
STEPS = 120
FROZEN = ("none", "none", "debit", "credit", "all")


class Step(NamedTuple):
    """A posting; with no account a settlement; with a change of the account, transfers or something
    about a hold, that: a name, an amount, and for a new one whom it is for, else whether it ends.

    What a posting expects is told by how far it is from the version and from what is available.
    For a reversal `change_of` is the name of what it takes back.
    """

    account_id: str
    change: int
    key: str
    change_of: str = ""
    transfers: tuple[tuple[str, str, int], ...] = ()
    hold: tuple[str, int | None, str | bool | None] | None = None
    expected: tuple[int | None, int | None] = (None, None)


def program(seed: int, step_count: int = STEPS) -> list[Step]:
    """Draw a program: small and largest amounts, both ways, keys that come again."""
    random = Random(seed)
    steps: list[Step] = []
    for number in range(step_count):
        if random.random() < 0.08:
            steps.append(Step("", 0, ""))
            continue
        if random.random() < 0.12:
            steps.append(drawn_change(random))
            continue
        if random.random() < 0.25:
            steps.append(drawn_group(random, number))
            continue
        if random.random() < 0.3:
            steps.append(drawn_hold(random, number, steps))
            continue
        if steps and random.random() < 0.2:
            earlier = random.choice(steps)
            if earlier.account_id in ACCOUNTS and not earlier.change_of:
                steps.append(earlier if random.random() < 0.7 else earlier._replace(change=7))
                continue
        amount = random.choice([random.randint(1, 150), AMOUNT_MAX, random.randint(1, AMOUNT_MAX)])
        if steps and random.random() < 0.25:
            name, key = random.choice(steps).key, f"r{number - random.choice([0, 0, 3])}"
            steps.append(Step("reversal", 0, key, name))
            continue
        expected = random.choice(
            [(None, None)] * 3 + [(0, None), (None, 0), (0, -5), (1, None), (None, 1)]
        )
        change = amount * random.choice([-1, 1])
        account_id = random.choice(list(ACCOUNTS))
        steps.append(Step(account_id, change, f"k{number}", expected=expected))
    return steps


def drawn_group(random: Random, number: int) -> Step:
    """Draw a group of one to three transfers, under a key that comes again now and then."""
    transfers = tuple(
        (*random.sample(list(ACCOUNTS), 2), random.choice([random.randint(1, 150), AMOUNT_MAX]))
        for _ in range(random.randint(1, 3))
    )
    return Step("groups", 0, f"g{number - random.choice([0, 0, 0, 9])}", "", transfers)


def drawn_hold(random: Random, number: int, steps: list[Step]) -> Step:
    """Draw a hold, or something to be done to an earlier one, now and then under an earlier key."""
    names = [step.key for step in steps if step.account_id == "hold"]
    if not names or random.random() < 0.4:
        asked = (random.choice(list(ACCOUNTS)), random.randint(1, 150), random.choice([None, "D"]))
        return Step("hold", 0, f"h{number}", hold=asked)
    key = f"e{number - random.choice([0, 0, 0, 5])}"
    amount = random.choice([None, 0, random.randint(1, 90)])
    final = random.choice([None, True]) if amount else None
    return Step("end", 0, key, hold=(random.choice(names), amount, final))


def drawn_change(random: Random) -> Step:
    """Draw a change of an account's limit or of what it is frozen for, or, rarely, its end."""
    account_id, kind = (
        random.choice(list(ACCOUNTS)),
        random.choice(["limit", "frozen"] * 4 + ["close"]),
    )
    if kind == "frozen":
        return Step(account_id, 0, random.choice(FROZEN), kind)
    limit = random.choice([0, random.randint(0, 300), AMOUNT_MAX])
    return Step(account_id, limit, "", kind)
