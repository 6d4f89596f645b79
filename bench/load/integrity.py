"""The balance integrity check of a load: what clients were told against what the service holds.

Pure: what was told and what was found in, checks out, so that a test can falsify either.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from app.kit.money import decimal_text
from bench.load.outcome import Change, Promised
from tests.drills.integrity import Check, judged
from tests.drills.load import EXPONENT
from tests.drills.observed import Balance


class Rows(NamedTuple):
    """How many transactions an account has in PostgreSQL, and their sum in minor units."""

    row_count: int
    change_minor: int


NO_ROWS = Rows(0, 0)


def money_minor(balance: Balance) -> int:
    """What an account has, settled or not; its credit limit is not in it."""
    return balance.settled_minor + balance.pending_credit_minor - balance.pending_debit_minor


def check_balances(
    openings: Mapping[str, Balance],
    changes: Mapping[str, Change],
    found: Mapping[str, Balance],
) -> Check:
    """Opening + accepted credits - accepted debits is the balance, for each account."""
    wrong = []
    for account_id, change in changes.items():
        expected = money_minor(openings[account_id]) + change.change_minor
        balance = found.get(account_id)
        if balance is None or money_minor(balance) != expected:
            told = "no account" if balance is None else _text(money_minor(balance))
            wrong.append(f"{account_id}: expected {_text(expected)}, API says {told}")
    count = sum(change.transactions for change in changes.values())
    return judged(
        "opening + accepted credits - accepted debits = API balance",
        wrong,
        f"{count} transactions on {len(changes)} accounts, to the cent",
    )


def check_parts(
    openings: Mapping[str, Balance], found: Mapping[str, Balance], *, settled: bool
) -> Check:
    """The parts of each balance agree with each other; when all is settled nothing is pending."""
    wrong = []
    for account_id, balance in found.items():
        before = openings[account_id]
        limit = before.available_minor - money_minor(before)
        if balance.available_minor != money_minor(balance) + limit:
            wrong.append(f"{account_id}: {_parts(balance)}, limit {_text(limit)}")
        elif settled and money_minor(balance) != balance.settled_minor:
            wrong.append(f"{account_id} is not settled: {_parts(balance)}")
    when = "nothing is pending after settlement" if settled else "checked while some is pending"
    return judged("available = settled + pending credit - pending debit + limit", wrong, when)


def check_row_counts(
    before: Mapping[str, Rows], after: Mapping[str, Rows], changes: Mapping[str, Change]
) -> Check:
    """PostgreSQL has exactly the rows that were accepted, with their sum."""
    wrong = []
    for account_id, change in changes.items():
        had, has = before.get(account_id, NO_ROWS), after.get(account_id, NO_ROWS)
        new = Rows(has.row_count - had.row_count, has.change_minor - had.change_minor)
        if new != (change.transactions, change.change_minor):
            wrong.append(f"{account_id}: accepted {change.transactions}, {new.row_count} new rows")
    count = sum(change.transactions for change in changes.values())
    return judged("each accepted transaction has one row", wrong, f"{count} rows in PostgreSQL")


def check_entry_count(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    changes: Mapping[str, Change],
    *,
    alone: bool,
) -> Check:
    """The service counted the rows too, where both proofs went through the whole history.

    Others may use a running service at the same time: there may be more entries then, never fewer.
    """
    name = "GET /api/v1/verify counts the rows"
    if not (before.get("complete") and after.get("complete")):
        return Check(name, True, "not counted: the history is too long for one proof")
    count = sum(change.transactions for change in changes.values())
    new = after["compared"].get("entries", 0) - before["compared"].get("entries", 0)
    wrong = (
        [f"accepted {count}, {new} new entries"] if new < count or (alone and new > count) else []
    )
    return judged(name, wrong, f"{new} new entries")


def check_keys(
    promised: Promised, found: Mapping[int, bool], refused_found: Mapping[int, bool]
) -> Check:
    """Accepted keys are found with what was asked, refused ones are not found."""
    wrong = [
        f"accepted request {number} is not found as asked" for number, ok in found.items() if not ok
    ]
    wrong += [f"refused request {number} is found" for number, ok in refused_found.items() if ok]
    detail = f"{len(found)} of {sum(promised.accepted)} accepted and {len(refused_found)} of "
    detail += f"{len(promised.refused)} refused keys looked up"
    return judged("GET /api/v1/transactions finds what was accepted", wrong, detail)


def check_repeats(promised: Promised) -> Check:
    """A key's answers were the same bytes but for the replay header."""
    wrong = list(promised.contradictions)
    if promised.contradiction_count > len(wrong):
        wrong.append(f"and {promised.contradiction_count - len(wrong)} more")
    return judged("a repeated key gets the same answer", wrong, f"{promised.replay_count} replays")


def check_known(promised: Promised, unknown_before: int) -> Check:
    """Every request's outcome is known in the end."""
    wrong = [f"{len(promised.unknown)} outcomes unknown"] if promised.unknown else []
    return judged("no outcome is left unknown", wrong, f"{unknown_before} learnt by asking again")


def check_verified(proof: Mapping[str, Any]) -> Check:
    """The service proves its books."""
    wrong = [str(mismatch) for mismatch in proof.get("mismatches", [])]
    if proof.get("status") != "verified":
        wrong.append(f"status: {proof.get('status')}")
    facts = ", ".join(
        f"{name} {count}" for name, count in sorted(proof.get("compared", {}).items())
    )
    complete = "" if proof.get("complete") else "; the history is too long for one proof"
    return judged("GET /api/v1/verify says verified", wrong, facts + complete)


def _text(amount_minor: int) -> str:
    return decimal_text(amount_minor, EXPONENT)


def _parts(balance: Balance) -> str:
    return (
        f"settled {_text(balance.settled_minor)}, debit {_text(balance.pending_debit_minor)},"
        f" credit {_text(balance.pending_credit_minor)}, available {_text(balance.available_minor)}"
    )
