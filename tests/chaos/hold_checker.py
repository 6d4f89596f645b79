"""Compares what clients were told of holds with the holds: one end each, each act as told."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from tests.chaos.facts import EntryRow, Facts, HoldActRow, HoldRow
from tests.chaos.history import Operation, Outcome

CLAIMS_NOTHING = frozenset({Outcome.REFUSED, Outcome.DEFERRED, Outcome.NOT_SENT})
SOON_S = 15.0
_ENDS = {"capture": "CAPTURED", "release": "RELEASED", "expire": "EXPIRED"}


def wrong_holds(operations: list[Operation], facts: Facts) -> Iterator[tuple[str, str, Any]]:
    """Each kind of thing that must not be, the operation's reference and the numbers."""
    holds: dict[str, list[HoldRow]] = defaultdict(list)
    for hold in facts.holds:
        holds[hold.reference].append(hold)
    acts: dict[str, list[HoldActRow]] = defaultdict(list)
    for act in facts.hold_acts:
        acts[act.hold_id].append(act)
    rows: dict[str, list[EntryRow]] = defaultdict(list)
    for entry in facts.entries:
        rows[entry.reference].append(entry)
    for operation in operations:
        if operation.holds:
            found = holds.pop(operation.reference, [])
            done = acts.get(found[0].hold_id, []) if found else []
            for kind in _wrong(operation, found, done, rows.pop(operation.reference, [])):
                detail = {"operation": operation.summary(), "holds": found, "acts": done}
                yield kind, operation.reference, detail
    for reference, left in holds.items():
        yield "hold_nobody_asked_for", reference, left
    for reference, others in rows.items():
        if any(row.hold_id for row in others):
            yield "entry_names_a_hold", reference, others


def ending_holds(facts: Facts) -> Iterator[str]:
    """Holds whose time is over, or so near that what their accounts have is about to change."""
    for hold in facts.holds:
        is_near = hold.ends_in_s is not None and hold.ends_in_s < SOON_S
        if hold.status == "HELD" and is_near:
            yield hold.reference


def _wrong(
    operation: Operation, found: list[HoldRow], done: list[HoldActRow], rows: list[EntryRow]
) -> Iterator[str]:
    sent = [sending for sending in operation.sendings if not sending.is_other_body]
    if len(found) > 1:
        yield "held_more_than_once"
    if operation.accepted and not found:
        yield "acknowledged_and_lost"
    if found and all(sending.outcome in CLAIMS_NOTHING for sending in sent):
        yield "refused_and_applied"
    if not found:
        return
    hold = found[0]
    yield from _wrong_row(operation, hold, done)
    yield from _wrong_money(hold, rows)
    yield from _wrong_acts(operation, hold, done)


def _wrong_row(operation: Operation, hold: HoldRow, done: list[HoldActRow]) -> Iterator[str]:
    """The hold is what was asked for, and the sum of what was done to it."""
    asked = (operation.account_id, operation.hold_for or "", operation.amount_minor)
    if (hold.account_id, hold.credit_account_id, hold.amount_minor) != asked:
        yield "row_differs_from_request"
    told = {sending.fields.get("hold_id") for sending in operation.accepted}
    if told - {hold.hold_id}:
        yield "answer_names_another_row"
    sums = (sum(act.captured_minor for act in done), sum(act.released_minor for act in done))
    if sums != (hold.captured_minor, hold.released_minor):
        yield "hold_is_not_the_sum_of_its_acts"
    if [act.version for act in done] != list(range(1, hold.version + 1)):
        yield "hold_acts_are_no_chain"
    left = hold.amount_minor - hold.captured_minor - hold.released_minor
    expected = "HELD" if left else _ENDS.get(done[-1].kind, "")
    if left < 0 or hold.status != expected:
        yield "hold_ended_wrongly"


def _wrong_money(hold: HoldRow, rows: list[EntryRow]) -> Iterator[str]:
    """What its account gave and got back, and what was captured for somebody."""
    sums: dict[str, int] = defaultdict(int)
    for row in rows:
        sums[row.account_id] += row.change_minor
    if sums[hold.account_id] != hold.released_minor - hold.amount_minor:
        yield "held_money_not_where_it_belongs"
    if hold.credit_account_id and sums[hold.credit_account_id] != hold.captured_minor:
        yield "captured_money_not_where_it_belongs"
    if any(row.hold_id != hold.hold_id for row in rows):
        yield "entry_names_another_hold"


def _wrong_acts(operation: Operation, hold: HoldRow, done: list[HoldActRow]) -> Iterator[str]:
    """Each acknowledged act is one version, told to it alone; no act is there that none sent."""
    by_version = {act.version: act for act in done}
    told: set[int] = set()
    for act in operation.acts:
        if len({sending.answer for sending in act.accepted}) > 1:
            yield "replay_differs"
        if sum(not sending.replayed for sending in act.accepted) > 1:
            yield "accepted_anew_twice"
        if any(sending.outcome is Outcome.BROKEN for sending in act.sendings):
            yield "broken_answer"
        if not act.accepted:
            continue
        fields = act.accepted[0].fields
        version = int(fields.get("version", 0))
        row = by_version.get(version)
        if row is None or row.kind != act.kind:
            yield "acknowledged_and_lost"
            continue
        if version in told:
            yield "one_version_told_twice"
        told.add(version)
        captured = sum(each.captured_minor for each in done if each.version <= version)
        if int(str(fields.get("captured", "0")).replace(".", "")) != captured:
            yield "act_told_wrongly"
    possible = sum(
        any(sending.outcome not in CLAIMS_NOTHING for sending in act.sendings)
        for act in operation.acts
    )
    asked_for = [act for act in done if act.kind not in ("place", "expire")]
    if len(asked_for) > possible:
        yield "act_nobody_asked_for"
    if operation.expires_in_s is None and any(act.kind == "expire" for act in done):
        yield "expired_without_a_time"
    if hold.version > 1 and done[0].kind != "place":
        yield "hold_acts_are_no_chain"
