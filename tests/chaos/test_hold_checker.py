"""The checker of holds finds each error that is planted, and nothing where nothing is wrong."""

from collections.abc import Callable

import msgspec
import pytest

from tests.chaos.facts import EntryRow, Facts, HoldActRow, HoldRow, Ruling
from tests.chaos.history import HoldAct, Operation, Outcome, Sending
from tests.chaos.hold_checker import ending_holds, wrong_holds

Plant = Callable[[Operation, Facts], Facts]
REFUSED = Sending("api1", 0.0, 1.0, Outcome.REFUSED)
UNKNOWN = Sending("api1", 0.0, 1.0, Outcome.UNKNOWN)
BROKEN = Sending("api1", 0.0, 1.0, Outcome.BROKEN)


def accepted(**fields: object) -> Sending:
    return Sending("api1", 0.0, 1.0, Outcome.ACCEPTED, answer=msgspec.json.encode(fields))


def entry(number: int, account_id: str, change_minor: int) -> EntryRow:
    place = (number, 0, account_id, change_minor, f"t{number}", "held", "SETTLED", 1)
    return EntryRow(*place, 1, "redis", "h")


def clean() -> tuple[Operation, Facts]:
    """40 held for B; 15 captured, told; 20 captured by an answer that got lost; the rest back."""
    operation = Operation(
        reference="held",
        account_id="A",
        amount="0.40",
        amount_minor=40,
        is_credit=False,
        key="k",
        holds=True,
        hold_for="B",
        expires_in_s=3,
        sendings=[accepted(hold_id="h")],
        acts=[
            HoldAct("capture", "k1", 15, sendings=[accepted(version=2, captured="0.15")]),
            HoldAct("capture", "k2", 20, sendings=[UNKNOWN]),
            HoldAct("release", "k3", sendings=[REFUSED]),
        ],
    )
    facts = Facts(
        ruling=Ruling("redis", 1, "token"),
        accounts={},
        entries=[
            entry(1, "A", -40),
            entry(2, "B", 15),
            entry(3, "B", 20),
            entry(4, "A", 5),
        ],
        batches=[],
        keys=[],
        lines=[],
        views={},
        found=[],
        holds=(HoldRow("h", "held", "A", "B", 40, 35, 5, "EXPIRED", 4, -1.0),),
        hold_acts=(
            HoldActRow("h", 1, "place", 0, 0),
            HoldActRow("h", 2, "capture", 15, 0),
            HoldActRow("h", 3, "capture", 20, 0),
            HoldActRow("h", 4, "expire", 0, 5),
        ),
    )
    return operation, facts


def row(**changes: object) -> Plant:
    """Change the row of the hold."""
    return lambda _, facts: facts._replace(holds=(facts.holds[0]._replace(**changes),))


def act(number: int, **changes: object) -> Plant:
    """Change one row of what was done to it."""

    def plant(_: Operation, facts: Facts) -> Facts:
        acts = list(facts.hold_acts)
        acts[number] = acts[number]._replace(**changes)
        return facts._replace(hold_acts=tuple(acts))

    return plant


def moved(number: int, **changes: object) -> Plant:
    """Change one movement."""

    def plant(_: Operation, facts: Facts) -> Facts:
        rows = list(facts.entries)
        rows[number] = rows[number]._replace(**changes)
        return facts._replace(entries=rows)

    return plant


def told(number: int, *sendings: Sending) -> Plant:
    """Let the clients have been told something else of an act."""

    def plant(operation: Operation, facts: Facts) -> Facts:
        operation.acts[number].sendings[:] = sendings
        return facts

    return plant


def answered(*sendings: Sending) -> Plant:
    """Let the clients have been told something else of the hold."""

    def plant(operation: Operation, facts: Facts) -> Facts:
        operation.sendings[:] = sendings
        return facts

    return plant


def nothing(_: Operation, facts: Facts) -> Facts:
    return facts._replace(holds=(), hold_acts=(), entries=[])


def twice(_: Operation, facts: Facts) -> Facts:
    return facts._replace(holds=facts.holds * 2)


def of_nobody(operation: Operation, facts: Facts) -> Facts:
    operation.reference = "another"
    return facts


def without_time(operation: Operation, facts: Facts) -> Facts:
    operation.expires_in_s = None
    return facts


PLANTED: list[tuple[Plant, str]] = [
    (nothing, "acknowledged_and_lost"),
    (twice, "held_more_than_once"),
    (of_nobody, "hold_nobody_asked_for"),
    (answered(REFUSED), "refused_and_applied"),
    (answered(accepted(hold_id="g")), "answer_names_another_row"),
    (row(amount_minor=41), "row_differs_from_request"),
    (row(credit_account_id="C"), "row_differs_from_request"),
    (row(captured_minor=36), "hold_is_not_the_sum_of_its_acts"),
    (row(version=5), "hold_acts_are_no_chain"),
    (act(0, kind="capture"), "hold_acts_are_no_chain"),
    (row(status="HELD"), "hold_ended_wrongly"),
    (row(status="CAPTURED"), "hold_ended_wrongly"),
    (row(captured_minor=36), "hold_ended_wrongly"),
    (moved(3, change_minor=6), "held_money_not_where_it_belongs"),
    (moved(2, change_minor=21), "captured_money_not_where_it_belongs"),
    (moved(2, hold_id=""), "entry_names_another_hold"),
    (moved(3, hold_id="i"), "entry_names_another_hold"),
    (moved(3, reference="another"), "entry_names_a_hold"),
    (told(0, accepted(version=2, captured="0.15"), accepted(version=2)), "replay_differs"),
    (told(0, *[accepted(version=2, captured="0.15")] * 2), "accepted_anew_twice"),
    (told(0, BROKEN), "broken_answer"),
    (told(0, accepted(version=5, captured="0.15")), "acknowledged_and_lost"),
    (told(0, accepted(version=4, captured="0.35")), "acknowledged_and_lost"),
    (told(1, accepted(version=2, captured="0.15")), "one_version_told_twice"),
    (told(0, accepted(version=2, captured="0.16")), "act_told_wrongly"),
    (told(1, REFUSED), "act_nobody_asked_for"),
    (without_time, "expired_without_a_time"),
]


def test_where_nothing_is_wrong_nothing_is_found() -> None:
    operation, facts = clean()
    assert not list(wrong_holds([operation], facts))
    assert not list(ending_holds(facts))


@pytest.mark.parametrize(("plant", "kind"), PLANTED)
def test_a_planted_error_is_found(plant: Plant, kind: str) -> None:
    operation, facts = clean()
    facts = plant(operation, facts)
    assert kind in {found for found, _, _ in wrong_holds([operation], facts)}


@pytest.mark.parametrize(
    ("status", "ends_in_s", "is_ending"),
    [("HELD", -1.0, True), ("HELD", 2.5, True), ("HELD", 3_600.0, False), ("HELD", None, False)],
)
def test_a_hold_that_is_about_to_end_is_waited_for(
    status: str, ends_in_s: float | None, is_ending: bool
) -> None:
    _, facts = clean()
    facts = facts._replace(holds=(facts.holds[0]._replace(status=status, ends_in_s=ends_in_s),))
    assert list(ending_holds(facts)) == ["held"] * is_ending
