"""Transactions, alone and many at once, transfers and groups of them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import msgspec

from subbalance import limits
from subbalance.amounts import Amount, amount_text
from subbalance.answers import Bulk, Foreseen, ForeseenBulk, Group, Transaction, Transfer, Type
from subbalance.call import (
    Call,
    Query,
    checked_key,
    get,
    given,
    instant_text,
    reads,
    segment,
    write,
)
from subbalance.dry_run import foresee

_TRANSACTION = "/api/v1/transaction"
_TRANSACTIONS = "/api/v1/transactions"
_TRANSFERS = "/api/v1/transfers"
_GROUPS = "/api/v1/groups"
_read_transaction = reads(Transaction)
_read_bulk = reads(Bulk)
_read_transfer = reads(Transfer)
_read_group = reads(Group)


class Expect(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an account must be like for a transaction to be done."""

    available_at_least: Amount | None = None
    version: int | None = None

    def body(self) -> dict[str, Any]:
        """Write what is expected."""
        least = self.available_at_least
        return given(
            {
                "available_at_least": None if least is None else amount_text(least),
                "version": self.version,
            }
        )


class NewTransaction(msgspec.Struct, frozen=True):
    """A debit or credit that is to be done; `key` names it where the request has no key itself."""

    account_id: str
    type: Type
    amount: Amount
    key: str | None = None
    id: UUID | None = None
    reference: str | None = None
    metadata: Mapping[str, str] | None = None
    expect: Expect | None = None
    effective_at: datetime | str | None = None

    def body(self) -> dict[str, Any]:
        """Write it without its key."""
        return given(
            {
                "account_id": self.account_id,
                "amount": amount_text(self.amount),
                "type": self.type,
                "id": self.id,
                "reference": self.reference,
                "metadata": self.metadata,
                "expect": None if self.expect is None else self.expect.body(),
                "effective_at": instant_text(self.effective_at),
            }
        )


class NewTransfer(msgspec.Struct, frozen=True):
    """A transfer that is to be done in a group."""

    debit_account_id: str
    credit_account_id: str
    amount: Amount
    id: UUID | None = None
    reference: str | None = None
    metadata: Mapping[str, str] | None = None

    def body(self) -> dict[str, Any]:
        """Write it."""
        return given(
            {
                "debit_account_id": self.debit_account_id,
                "credit_account_id": self.credit_account_id,
                "amount": amount_text(self.amount),
                "id": self.id,
                "reference": self.reference,
                "metadata": self.metadata,
            }
        )


def post(
    account_id: str,
    type: Type,  # noqa: A002  the service's word
    amount: Amount,
    *,
    key: str | None = None,
    id: UUID | None = None,  # noqa: A002  the service's word
    reference: str | None = None,
    metadata: Mapping[str, str] | None = None,
    expect: Expect | None = None,
    effective_at: datetime | str | None = None,
) -> Call[Transaction]:
    """Debit or credit an account; durable when this returns.

    What it is to `expect` of the account holds when it is decided, or it is refused; with
    `effective_at` it counts for an earlier time, for those who ask by effective time.
    """
    new = NewTransaction(
        account_id, type, amount, None, id, reference, metadata, expect, effective_at
    )
    return write(_TRANSACTION, _read_transaction, new.body(), key)


def debit(
    account_id: str,
    amount: Amount,
    *,
    key: str | None = None,
    reference: str | None = None,
    metadata: Mapping[str, str] | None = None,
    expect: Expect | None = None,
) -> Call[Transaction]:
    """Take an amount from an account."""
    return post(
        account_id,
        "debit",
        amount,
        key=key,
        reference=reference,
        metadata=metadata,
        expect=expect,
    )


def credit(
    account_id: str,
    amount: Amount,
    *,
    key: str | None = None,
    reference: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Call[Transaction]:
    """Give an amount to an account."""
    return post(account_id, "credit", amount, key=key, reference=reference, metadata=metadata)


def post_bulk(
    transactions: Sequence[NewTransaction], *, atomic: bool = False, key: str | None = None
) -> Call[Bulk]:
    """Do up to 8,000 transactions, each on its own or, `atomic`, all or none.

    Either all of it has one key, or each transaction its own key or id: where any of them has one,
    those without get a key. What may succeed later is sent again with the rest, which is only
    replayed.
    """
    if not 1 <= len(transactions) <= limits.BULK_ITEMS_MAX:
        raise ValueError(f"a bulk request has 1 to {limits.BULK_ITEMS_MAX} transactions")
    have_names = any(each.key is not None or each.id is not None for each in transactions)
    if have_names and key is not None:
        raise ValueError("either the request has a key or its transactions have names")
    items = [each.body() for each in transactions]
    if have_names:
        for item, each in zip(items, transactions, strict=True):
            if each.key is not None:
                item["idempotency_key"] = checked_key(each.key)
            elif each.id is None:
                item["idempotency_key"] = str(uuid4())
    body = {"transactions": items, "atomic": atomic}
    return write(
        _TRANSACTIONS, _read_bulk, body, key, is_whole=_is_decided, is_named=not have_names
    )


def _is_decided(bulk: Bulk) -> bool:
    return not any(problem.retryable for _, problem in bulk.refused)


def reverse_transaction(
    transaction_id: UUID | str,
    *,
    key: str | None = None,
    id: UUID | None = None,  # noqa: A002  the service's word
    reference: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Call[Transaction]:
    """Take a transaction back by one of the same amount the other way.

    It is done once: under another key it is refused as `already_reversed`.
    """
    body = {"id": id, "reference": reference, "metadata": metadata}
    path = f"{_TRANSACTIONS}/{segment(transaction_id)}/reversal"
    return write(path, _read_transaction, body, key)


def get_transaction(transaction_id: UUID | str) -> Call[Transaction]:
    """Find a transaction by its id."""
    return get(f"{_TRANSACTIONS}/{segment(transaction_id)}", _read_transaction)


def find_transaction(key: str) -> Call[Transaction]:
    """Find what was accepted under a key; `NotFound` when nothing was, so far."""
    return get(_TRANSACTIONS, _read_transaction, {"idempotency_key": checked_key(key)})


def transfer(
    debit_account_id: str,
    credit_account_id: str,
    amount: Amount,
    *,
    key: str | None = None,
    id: UUID | None = None,  # noqa: A002  the service's word
    reference: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Call[Transfer]:
    """Move an amount from one account to another of the same currency."""
    new = NewTransfer(debit_account_id, credit_account_id, amount, id, reference, metadata)
    return write(_TRANSFERS, _read_transfer, new.body(), key)


def get_transfer(transfer_id: UUID | str) -> Call[Transfer]:
    """Find a transfer by its id."""
    return get(f"{_TRANSFERS}/{segment(transfer_id)}", _read_transfer)


def post_group(transfers: Sequence[NewTransfer], *, key: str | None = None) -> Call[Group]:
    """Do up to a hundred transfers, all or none; credits of a group fund none of its debits."""
    return write(_GROUPS, _read_group, {"transfers": [each.body() for each in transfers]}, key)


def get_group(group_id: UUID | str) -> Call[Group]:
    """Find a group by its id."""
    return get(f"{_GROUPS}/{segment(group_id)}", _read_group)


def find_group(key: str) -> Call[Group]:
    """Find the transfer or group that was accepted under a key."""
    query: Query = {"idempotency_key": checked_key(key)}
    return get(_GROUPS, _read_group, query)


foresee_post = foresee(post, Foreseen)
foresee_bulk = foresee(post_bulk, ForeseenBulk)
foresee_transfer = foresee(transfer, Foreseen)
foresee_group = foresee(post_group, Foreseen)
foresee_reversal = foresee(reverse_transaction, Foreseen)
