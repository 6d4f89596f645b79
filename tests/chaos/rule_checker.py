"""What accounts were told to refuse was refused, by every instance, and nothing else was."""

from collections.abc import Iterator
from typing import NamedTuple

from tests.chaos.history import History, Operation, Outcome, Rule, Sending

FROZEN = "account_frozen"
_DIRECTIONS = {"none": (), "debit": ("debit",), "credit": ("credit",), "all": ("debit", "credit")}


def wrong_by_rules(history: History) -> Iterator[tuple[str, str, object]]:
    """Each kind of thing that must not be, its subject and the numbers."""
    for account_id, rules in history.rules.items():
        for rule in rules:
            if not rule.is_told_right:
                yield "change_told_wrongly", account_id, rule
    for read in history.balances:
        rule = _rule(history, read.account_id, read.started_s, read.ended_s)
        if rule is not None and rule.credit_limit != read.credit_limit:
            yield "limit_shown_wrongly", read.account_id, (rule, read)
        if read.available.startswith("-"):
            yield "available_below_zero", read.account_id, read
    for operation in history.operations:
        for asked in _asked(operation):
            for kind, detail in _wrong(history, asked):
                yield kind, operation.reference, detail


class _Asked(NamedTuple):
    """What was asked for, by one sending or several."""

    sendings: list[Sending]
    moves: list[tuple[str, int]]
    may_move: list[str]


def _asked(operation: Operation) -> Iterator[_Asked]:
    own = [sending for sending in operation.sendings if not sending.is_other_body]
    yield _Asked(own, operation.movements, [name for name, _ in operation.movements])
    for act in operation.acts:
        # What a final capture leaves goes back to the account.
        gains = operation.account_id if act.kind == "release" else operation.hold_for
        moves = [] if gains is None else [(gains, 1)]
        yield _Asked(act.sendings, moves, [operation.account_id, *(name for name, _ in moves)])


def _wrong(history: History, asked: _Asked) -> Iterator[tuple[str, object]]:
    first_s = min((sending.started_s for sending in asked.sendings), default=0.0)
    for sending in asked.sendings:
        if sending.outcome is Outcome.ACCEPTED and not sending.replayed:
            for account_id, change_minor in asked.moves:
                rule = _rule(history, account_id, sending.started_s, sending.ended_s)
                direction = "debit" if change_minor < 0 else "credit"
                if rule is not None and direction in _DIRECTIONS[rule.frozen]:
                    yield "moved_while_frozen", (account_id, rule, sending)
        elif sending.outcome is Outcome.REFUSED and sending.code == FROZEN:
            # It may be a repetition of what was told an earlier sending.
            found = [_rule(history, name, first_s, sending.ended_s) for name in asked.may_move]
            if all(rule is not None and rule.frozen == "none" for rule in found):
                yield "refused_though_thawed", (found, sending)


def _rule(history: History, account_id: str, from_s: float, until_s: float) -> Rule | None:
    """What an account took during all of a time; None where that is not known."""
    known = (
        rule
        for rule in history.rules.get(account_id, [])
        if rule.from_s < from_s and until_s < rule.until_s
    )
    return next(known, None)
