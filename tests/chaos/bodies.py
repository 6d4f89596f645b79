"""What a client sends for an operation."""

from typing import Any

from tests.chaos.history import Account, HoldAct, Operation


def body_of(operation: Operation, account: Account, is_other_body: bool) -> dict[str, Any]:
    """A transaction, or a group of transfers; another amount where it is another body."""
    if operation.transfers:
        return _group_body(operation, account, is_other_body)
    if operation.holds:
        return _hold_body(operation, account, is_other_body)
    if operation.reverses is not None:
        return {"reference": operation.reference}
    amount = operation.amount
    if is_other_body:
        amount = major(operation.amount_minor + 1, account.exponent)
    body: dict[str, Any] = {
        "account_id": operation.account_id,
        "amount": amount,
        "type": "credit" if operation.is_credit else "debit",
        "reference": operation.reference,
    }
    if operation.transaction_id is not None:
        body["id"] = operation.transaction_id
    if operation.version is not None:
        body["expect"] = {"version": operation.version}
    return body


def _group_body(operation: Operation, account: Account, is_other_body: bool) -> dict[str, Any]:
    transfers: list[dict[str, Any]] = [
        {
            "debit_account_id": debit,
            "credit_account_id": credit,
            "amount": major(amount_minor + is_other_body, account.exponent),
            "reference": operation.reference,
        }
        for debit, credit, amount_minor in operation.transfers
    ]
    if operation.transaction_id is not None:
        transfers[0]["id"] = operation.transaction_id
    return {"transfers": transfers}


def _hold_body(operation: Operation, account: Account, is_other_body: bool) -> dict[str, Any]:
    body: dict[str, Any] = {
        "account_id": operation.account_id,
        "amount": major(operation.amount_minor + is_other_body, account.exponent),
        "credit_account_id": operation.hold_for,
        "expires_in_s": operation.expires_in_s,
        "reference": operation.reference,
    }
    return body if operation.transaction_id is None else {**body, "id": operation.transaction_id}


def act_body(act: HoldAct, account: Account) -> dict[str, Any]:
    """What is asked of a hold."""
    if act.kind == "release" or act.amount_minor is None:
        return {}
    return {"amount": major(act.amount_minor, account.exponent), "final": act.final}


def major(amount_minor: int, exponent: int) -> str:
    """Write minor units as a decimal text, by integers only."""
    sign, digits = ("-" if amount_minor < 0 else ""), str(abs(amount_minor)).zfill(exponent + 1)
    if not exponent:
        return sign + digits
    return f"{sign}{digits[:-exponent]}.{digits[-exponent:]}"
