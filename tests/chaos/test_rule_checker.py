"""The checker of rules finds each error that is planted, and nothing where nothing is wrong."""

from collections.abc import Callable

import pytest

from tests.chaos.history import (
    BalanceRead,
    History,
    HoldAct,
    Operation,
    Outcome,
    Rule,
    Sending,
)
from tests.chaos.rule_checker import wrong_by_rules

Plant = Callable[[History], None]


def sending(
    started_s: float, outcome: Outcome = Outcome.ACCEPTED, *, code: str = "", replayed: bool = False
) -> Sending:
    """One that took a tenth of a second."""
    return Sending("api1", started_s, started_s + 0.1, outcome, code=code, replayed=replayed)


def operation(change_minor: int, *sendings: Sending) -> Operation:
    return Operation(
        reference="o",
        account_id="A",
        amount="",
        amount_minor=abs(change_minor),
        is_credit=change_minor > 0,
        key="k",
        sendings=list(sendings),
    )


def clean() -> History:
    """A takes no debits from 2 to 3 and nothing from 6 to 7, both told half a second before and
    until half a second after; B never changes.
    """
    history = History()
    history.rules = {
        "A": [
            Rule("none", "0.00", 0.0, 1.5),
            Rule("debit", "0.00", 2.0, 3.0),
            Rule("none", "5.00", 3.5, 5.5),
            Rule("all", "5.00", 6.0, 7.0),
            Rule("none", "5.00", 7.5),
        ],
        "B": [Rule("none", "0.00", 0.0)],
    }
    refused = Outcome.REFUSED
    history.operations = [
        operation(-1, sending(1.45), sending(1.95), sending(2.95)),
        operation(-1, sending(2.5, replayed=True), sending(4.0)),
        operation(1, sending(2.5)),
        operation(-1, sending(2.5, refused, code="account_frozen")),
        operation(-1, sending(2.5, Outcome.UNKNOWN), sending(4.0, refused, code="account_frozen")),
        operation(-1, sending(4.0, refused, code="insufficient_available")),
    ]
    history.balances = [
        BalanceRead("A", "api1", 1.0, 1.1, "0.00", "0.00"),
        BalanceRead("A", "api1", 3.2, 3.3, "0.00", "1.00"),
        BalanceRead("A", "api1", 4.0, 4.1, "5.00", "6.00"),
    ]
    return history


def asked(change_minor: int, *sendings: Sending) -> Plant:
    """Something more was asked for."""
    return lambda history: history.operations.append(operation(change_minor, *sendings))


def in_a_group(history: History) -> None:
    added = operation(-1, sending(2.5))
    added.transfers = [("B", "A", 1), ("A", "B", 1)]
    history.operations.append(added)


def by_an_act(kind: str, account_id: str, *sendings: Sending) -> Plant:
    """Something was done to a hold of B for A, or of A."""

    def plant(history: History) -> None:
        added = operation(-1, sending(1.0))
        added.holds, added.account_id, added.hold_for = True, account_id, "A"
        added.acts = [HoldAct(kind, "k", 1, sendings=list(sendings))]
        history.operations.append(added)

    return plant


def read(started_s: float, limit: str, available: str) -> Plant:
    """A balance was shown."""
    shown = BalanceRead("A", "api1", started_s, started_s + 0.1, limit, available)
    return lambda history: history.balances.append(shown)


def tell_wrongly(history: History) -> None:
    history.rules["A"][1].is_told_right = False


FROZEN = (Outcome.REFUSED, "account_frozen")
PLANTED: list[tuple[Plant, str]] = [
    (asked(-1, sending(2.1)), "moved_while_frozen"),
    (asked(-1, sending(6.5)), "moved_while_frozen"),
    (asked(1, sending(6.5)), "moved_while_frozen"),
    (in_a_group, "moved_while_frozen"),
    (by_an_act("capture", "B", sending(6.5)), "moved_while_frozen"),
    (by_an_act("release", "A", sending(6.5)), "moved_while_frozen"),
    (asked(-1, sending(4.0, FROZEN[0], code=FROZEN[1])), "refused_though_thawed"),
    (
        by_an_act("release", "A", sending(8.0, FROZEN[0], code=FROZEN[1])),
        "refused_though_thawed",
    ),
    (read(4.0, "0.00", "1.00"), "limit_shown_wrongly"),
    (read(5.8, "5.00", "-0.01"), "available_below_zero"),
    (tell_wrongly, "change_told_wrongly"),
]


def test_where_nothing_is_wrong_nothing_is_found() -> None:
    assert not list(wrong_by_rules(clean()))


@pytest.mark.parametrize(("plant", "kind"), PLANTED)
def test_a_planted_error_is_found(plant: Plant, kind: str) -> None:
    history = clean()
    plant(history)
    assert {found for found, _, _ in wrong_by_rules(history)} == {kind}
