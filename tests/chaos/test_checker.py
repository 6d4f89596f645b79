"""The checker finds each error that is planted, and nothing where nothing is wrong."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from tests.chaos.checker import FORGOTTEN, check, count_behind
from tests.chaos.facts import (
    AccountRow,
    BatchRow,
    EntryRow,
    Facts,
    FoundRow,
    KeyRow,
    LineRow,
    RedisFacts,
    Ruling,
    ViewRow,
)
from tests.chaos.history import Account, Bulk, History, Invisible, Operation, Outcome, Sending

EPOCH = 3
Plant = Callable[[History, Facts], Facts]


def sending(outcome: Outcome, transaction_id: str = "", **more: Any) -> Sending:
    answer = msgspec.json.encode({"success": True, "transaction_id": transaction_id})
    return Sending("api1", 0.0, 1.0, outcome, answer=answer if transaction_id else b"{}", **more)


def operation(name: str, change_minor: int, *sendings: Sending) -> Operation:
    return Operation(
        reference=name,
        account_id="A",
        amount="",
        amount_minor=abs(change_minor),
        is_credit=change_minor > 0,
        key=f"k:{name}",
        sendings=list(sendings),
    )


def entry(seq: int, change_minor: int, reference: str, status: str = "SETTLED") -> EntryRow:
    settlement = 1 if status == "SETTLED" else None
    place = (seq, 0, "A", change_minor, f"t{seq}", reference, status, settlement)
    return EntryRow(*place, EPOCH, "redis")


def clean() -> tuple[History, Facts]:
    """Opened with 100, debited 40 (settled), credited 25 (pending), 500 refused, one unknown."""
    history = History()
    history.accounts["A"] = Account("A", "USD", 2, 100, 0, "hot")
    history.operations = [
        operation("debit", -40, sending(Outcome.ACCEPTED, "t2")),
        operation(
            "credit",
            25,
            sending(Outcome.UNKNOWN),
            sending(Outcome.ACCEPTED, "t3", replayed=True),
            sending(Outcome.REFUSED, code="idempotency_key_reused", is_other_body=True),
        ),
        operation("refused", -500, sending(Outcome.REFUSED, code="insufficient_available")),
        operation("deferred", -1, sending(Outcome.DEFERRED), sending(Outcome.NOT_SENT)),
        operation("unknown", -1, sending(Outcome.UNKNOWN)),
    ]
    facts = Facts(
        ruling=Ruling("redis", EPOCH, "token"),
        accounts={
            "A": AccountRow("A", "customer", "USD", 2, 0, 60, 2),
            "external:USD": AccountRow("external:USD", "external", "USD", 2, 0, -60, 2),
        },
        entries=[
            entry(1, 100, "opening balance"),
            entry(2, -40, "debit"),
            entry(3, 25, "credit", "PENDING"),
        ],
        batches=[
            *(BatchRow(seq, "SETTLED", EPOCH, 1, 1) for seq in (1, 2, 3)),
            BatchRow(4, "VOID", 1, 0, 0),
        ],
        keys=[
            KeyRow("opening:A", 1, 0, "A"),
            KeyRow("key:k:debit", 2, 0, "A"),
            KeyRow("key:k:credit", 3, 0, "A"),
        ],
        lines=[
            LineRow("A", 2, 1, 2, 40, 100, 60),
            LineRow("external:USD", 2, 1, 2, 100, 40, -60),
        ],
        views={"A": ViewRow("A", *map(Decimal, ("0.60", "0.00", "0.25", "0.85")))},
        found=[],
        redis=RedisFacts(True, {"A": held()}, frozenset({"A"}), {}),
    )
    return history, facts


def held(**more: str) -> dict[str, str]:
    fields = {"available": "85", "incoming": "0", "settled": "60", "version": "2"}
    fields["entries"] = "3"
    return {**fields, "pending_debit": "0", "pending_credit": "25", **more}


def without_row(facts: Facts, reference: str) -> list[EntryRow]:
    return [row for row in facts.entries if row.reference != reference]


def lose_a_row(_: History, facts: Facts) -> Facts:
    return facts._replace(entries=without_row(facts, "credit"))


def double_a_row(_: History, facts: Facts) -> Facts:
    return facts._replace(entries=[*facts.entries, entry(5, -40, "debit", "PENDING")])


def apply_what_was_refused(_: History, facts: Facts) -> Facts:
    return facts._replace(entries=[*facts.entries, entry(5, -500, "refused", "PENDING")])


def apply_what_was_deferred(_: History, facts: Facts) -> Facts:
    return facts._replace(entries=[*facts.entries, entry(5, -1, "deferred", "PENDING")])


def change_an_amount(_: History, facts: Facts) -> Facts:
    rows = [
        row._replace(change_minor=-41) if row.reference == "debit" else row for row in facts.entries
    ]
    return facts._replace(entries=rows)


def answer_with_another_id(history: History, facts: Facts) -> Facts:
    history.operations[0].sendings = [sending(Outcome.ACCEPTED, "t9")]
    return facts


def accept_twice_anew(history: History, facts: Facts) -> Facts:
    history.operations[0].sendings *= 2
    return facts


def answer_a_replay_otherwise(history: History, facts: Facts) -> Facts:
    again = sending(Outcome.ACCEPTED, "t2", replayed=True)
    again.answer += b" "
    history.operations[0].sendings.append(again)
    return facts


def accept_another_body(history: History, facts: Facts) -> Facts:
    other = sending(Outcome.ACCEPTED, "t2", is_other_body=True, replayed=True)
    history.operations[0].sendings.append(other)
    return facts


def break_an_answer(history: History, facts: Facts) -> Facts:
    history.operations[4].sendings.append(sending(Outcome.BROKEN, status=500))
    return facts


def not_find_what_was_accepted(history: History, facts: Facts) -> Facts:
    history.invisible.append(Invisible(history.operations[0], "api2", 2.0, "404"))
    return facts


def use_a_version_twice(history: History, facts: Facts) -> Facts:
    for each in history.operations[:2]:
        each.version = 1
    return facts


def take_back_twice(history: History, facts: Facts) -> Facts:
    for each in history.operations[:2]:
        each.reverses = "t0"
    return facts


def invent_a_row(_: History, facts: Facts) -> Facts:
    return facts._replace(entries=[*facts.entries, entry(5, 1, "nobody's", "PENDING")])


def lose_a_key(_: History, facts: Facts) -> Facts:
    return facts._replace(keys=facts.keys[:-1])


def keep_a_key_without_row(_: History, facts: Facts) -> Facts:
    return facts._replace(keys=[*facts.keys, KeyRow("key:k:unknown", 4, 0, "")])


def overdraw_for_a_moment(_: History, facts: Facts) -> Facts:
    """The debit stands in the journal before the money it spends."""
    rows = [
        row._replace(batch_seq={1: 2, 2: 1}.get(row.batch_seq, row.batch_seq))
        for row in facts.entries
    ]
    return facts._replace(entries=rows)


def settle_a_cent_too_much(_: History, facts: Facts) -> Facts:
    account = facts.accounts["A"]._replace(settled_minor=61)
    return facts._replace(accounts={**facts.accounts, "A": account})


def break_the_chain(_: History, facts: Facts) -> Facts:
    return facts._replace(lines=[facts.lines[0]._replace(version_after=3), facts.lines[1]])


def count_a_line_wrongly(_: History, facts: Facts) -> Facts:
    line = facts.lines[0]._replace(debit_minor=41, credit_minor=101)
    return facts._replace(lines=[line, facts.lines[1]])


def forget_a_line(_: History, facts: Facts) -> Facts:
    return facts._replace(lines=facts.lines[1:])


def count_a_batch_wrongly(_: History, facts: Facts) -> Facts:
    return facts._replace(batches=[BatchRow(1, "SETTLED", EPOCH, 2, 1), *facts.batches[1:]])


def fill_a_void_batch(_: History, facts: Facts) -> Facts:
    return facts._replace(batches=[*facts.batches[:-1], BatchRow(4, "VOID", EPOCH, 1, 1)])


def diverge_meanwhile(_: History, facts: Facts) -> Facts:
    """By now the service has repaired it."""
    return facts._replace(found=[FoundRow("redis_available", "A", "0.85", "0.84")])


def journal_after_the_epoch(_: History, facts: Facts) -> Facts:
    return facts._replace(batches=[BatchRow(1, "SETTLED", EPOCH + 1, 1, 1), *facts.batches[1:]])


def lose_a_batch(_: History, facts: Facts) -> Facts:
    return facts._replace(batches=facts.batches[1:])


def show_another_balance(_: History, facts: Facts) -> Facts:
    view = facts.views["A"]._replace(pending_credit=Decimal("0.24"))
    return facts._replace(views={"A": view})


def in_redis(**more: Any) -> Plant:
    def plant(_: History, facts: Facts) -> Facts:
        assert facts.redis is not None
        return facts._replace(redis=facts.redis._replace(**more))

    return plant


RECORD = "\n".join(("[{},{},{}]", "subbalance:{0}:1:account:A", "1 -5", "0:key:k"))

PLANTED: list[tuple[Plant, str]] = [
    (lose_a_row, "acknowledged_and_lost"),
    (double_a_row, "moved_more_than_once"),
    (apply_what_was_refused, "refused_and_applied"),
    (apply_what_was_deferred, "refused_and_applied"),
    (change_an_amount, "row_differs_from_request"),
    (answer_with_another_id, "answer_names_another_row"),
    (accept_twice_anew, "accepted_anew_twice"),
    (answer_a_replay_otherwise, "replay_differs"),
    (accept_another_body, "other_body_not_refused_as_reused"),
    (break_an_answer, "broken_answer"),
    (not_find_what_was_accepted, "accepted_and_not_visible"),
    (use_a_version_twice, "one_version_two_transactions"),
    (take_back_twice, "reversed_twice"),
    (invent_a_row, "row_nobody_asked_for"),
    (lose_a_key, "key_and_row_disagree"),
    (keep_a_key_without_row, "key_without_row"),
    (overdraw_for_a_moment, "below_limit_at_a_prefix"),
    (settle_a_cent_too_much, "settled_is_not_the_sum"),
    (settle_a_cent_too_much, "money_not_conserved"),
    (break_the_chain, "settlement_chain_broken"),
    (count_a_line_wrongly, "settlement_line_wrong"),
    (forget_a_line, "settled_without_line"),
    (count_a_batch_wrongly, "batch_count_wrong"),
    (fill_a_void_batch, "batch_count_wrong"),
    (diverge_meanwhile, "verification_found"),
    (journal_after_the_epoch, "journaled_after_its_epoch"),
    (lose_a_batch, "row_without_batch"),
    (show_another_balance, "view_differs"),
    (in_redis(accounts={"A": held(entries="4")}), "redis_entries_differ"),
    (in_redis(accounts={"A": held(available="84")}), "redis_available_differs"),
    (in_redis(accounts={"A": held(settled="85", pending_credit="0")}), "redis_split_differs"),
    (in_redis(accounts={"A": held(version="1")}), "redis_split_differs"),
    (in_redis(accounts={"A": held(version="3")}), "redis_split_differs"),
    (in_redis(flight={"7": RECORD}), "leaked_reservation"),
    (in_redis(flight={"7": RECORD}), "left_in_flight"),
    (in_redis(accounts={"A": held(incoming="5")}), "incoming_left"),
    (in_redis(accounts={"A": held(), "Z": held()}), "redis_knows_an_account_that_is_not"),
    (in_redis(accounts={}), "loaded_set_differs"),
    (in_redis(flight={"7": "1"}), "left_in_flight"),
    (in_redis(has_token=False), "ruling_epoch_has_no_token"),
]


def test_where_nothing_is_wrong_nothing_is_found() -> None:
    assert check(*clean()) == []
    assert check(*with_bulks()) == []


def with_bulks() -> tuple[History, Facts]:
    """The debit and the credit were one atomic request; what was unknown was one under a key."""
    history, facts = clean()
    debit, credit, _, _, unknown = history.operations
    unknown.key = None
    history.bulks = [Bulk([debit, credit], is_atomic=True), Bulk([unknown], "all")]
    return history, facts


def name_all(batch_seq: int, *names: str) -> Plant:
    """Let keys stand for a whole request."""
    named = [KeyRow(name, batch_seq, -1, "") for name in names]
    return lambda _, facts: facts._replace(keys=[*facts.keys, *named])


PLANTED_IN_BULKS: list[tuple[Plant, str]] = [
    (lose_a_row, "done_in_part"),
    (name_all(4, "key:all", "part:0:all"), "key_and_rows_disagree"),
    (name_all(4, "key:another", "part:0:another"), "key_without_request"),
]


@pytest.mark.parametrize(("plant", "kind"), PLANTED_IN_BULKS)
def test_an_error_planted_in_requests_of_several_is_found(plant: Plant, kind: str) -> None:
    history, facts = with_bulks()
    found = {violation.kind for violation in check(history, plant(history, facts))}
    assert kind in found


@pytest.mark.parametrize(("plant", "kind"), PLANTED)
def test_a_planted_error_is_found(plant: Plant, kind: str) -> None:
    history, facts = clean()
    found = {violation.kind for violation in check(history, plant(history, facts))}
    assert kind in found


def test_what_the_service_found_must_be_explained_by_a_fault() -> None:
    history, facts = clean()
    facts = facts._replace(found=[FoundRow("reservation_leaked", "A", "released", "held")])
    assert check(history, facts) == []
    (violation,) = check(history, facts, explained=frozenset())
    assert violation.kind == "verification_found"


@pytest.mark.parametrize(
    ("kind", "expected", "found", "is_explained"),
    [
        ("redis_available", "8.09", "2.64", True),
        ("redis_available", "2.64", "8.09", False),
        ("redis_incoming", "0.00", "6.28", True),
        ("redis_incoming", "6.28", "0.00", False),
        ("redis_settled", "8.09", "2.64", False),
    ],
)
def test_what_was_in_flight_and_forgotten_may_stay_taken_but_not_be_free(
    kind: str, expected: str, found: str, is_explained: bool
) -> None:
    history, facts = clean()
    facts = facts._replace(found=[FoundRow(kind, "A", expected, found)])
    forgotten = frozenset({FORGOTTEN})
    assert (check(history, facts, explained=forgotten) == []) is is_explained
    assert check(history, facts, explained=frozenset())


def test_redis_may_show_an_earlier_settlement() -> None:
    history, facts = clean()
    earlier = held(settled="0", version="0", pending_debit="40", pending_credit="125")
    facts = facts._replace(redis=RedisFacts(True, {"A": earlier}, frozenset({"A"}), {}))
    assert check(history, facts) == []
    assert count_behind(facts) == 1


def test_an_unknown_outcome_may_have_been_applied_or_not() -> None:
    history, facts = clean()
    row = entry(4, -1, "unknown", "PENDING")
    key = KeyRow("key:k:unknown", 4, 0, "A")
    view = ViewRow("A", *map(Decimal, ("0.60", "0.01", "0.25", "0.84")))
    facts = facts._replace(
        entries=[*facts.entries, row],
        keys=[*facts.keys, key],
        views={"A": view},
        batches=[*facts.batches[:-1], BatchRow(4, "PENDING", EPOCH, 1, 1)],
        redis=RedisFacts(
            True, {"A": held(available="84", pending_debit="1", entries="4")}, frozenset({"A"}), {}
        ),
    )
    assert check(history, facts) == []
