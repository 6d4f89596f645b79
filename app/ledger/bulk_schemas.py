"""The wire of bulk requests, in JSON or MessagePack."""

from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from app import errors, limits
from app.infra.http import problem_content
from app.kit.decoding import idempotency_key
from app.ledger.bulk import Answered, Asked, ForeseenBulk
from app.ledger.codes import Direction, Mode
from app.ledger.dry_run_schemas import ForeseenAccount, foreseen_accounts
from app.ledger.model import Acceptance, TransactionRequest
from app.ledger.schemas import TransactionBody, instant, instant_or_unset, ordered_metadata


class BulkTransactionBody(TransactionBody, forbid_unknown_fields=True):
    """One transaction of several."""

    idempotency_key: Annotated[
        str | None,
        Meta(description="Your name for this one transaction, where the request has no key itself"),
    ] = None

    def to_checked(self, *, has_own_name: bool) -> TransactionRequest | errors.LedgerError:
        """Check everything that needs no account; what is wrong with it is returned."""
        try:
            if not has_own_name and self.idempotency_key is not None:
                raise errors.InvalidValue(
                    "The request's Idempotency-Key names all of it.", pointer="/idempotency_key"
                )
            if not has_own_name and self.id is not None:
                raise errors.InvalidValue(
                    "The request's Idempotency-Key names all of it.", pointer="/id"
                )
            return self.to_request(_item_key(self.idempotency_key))
        except errors.Rejected as error:
            return error


class BulkBody(msgspec.Struct, forbid_unknown_fields=True):
    """Several transactions, each on its own unless `atomic`."""

    transactions: Annotated[
        list[BulkTransactionBody], Meta(min_length=1, max_length=limits.REQUEST_ITEMS_MAX)
    ]
    atomic: Annotated[bool, Meta(description="All of them or none")] = False

    def to_asked(self, key: str | None) -> Asked:
        """Check each transaction, in order; `key` is the one that names all of them, if any."""
        return [each.to_checked(has_own_name=key is None) for each in self.transactions]


class BulkTransactionView(msgspec.Struct, kw_only=True):
    """An accepted transaction, as it was when it was accepted."""

    transaction_id: UUID
    account_id: str
    amount: str
    type: Direction
    currency: str
    status: str = "PENDING"
    mode: Mode
    timestamp: str
    reference: str | None = None
    metadata: dict[str, str] | None = None
    effective_at: str | UnsetType = UNSET


class AcceptedResult(msgspec.Struct, kw_only=True):
    """What became of an accepted transaction; `replayed` when it was accepted before."""

    success: bool = True
    transaction: BulkTransactionView
    replayed: bool = False


class RefusedResult(msgspec.Struct, kw_only=True):
    """What became of a transaction that was not accepted."""

    success: bool = False
    problem: dict[str, Any]


class BulkAnswer(msgspec.Struct, kw_only=True):
    """One result for each transaction, in order."""

    results: list[AcceptedResult | RefusedResult]


class ForeseenResult(msgspec.Struct, kw_only=True):
    """What would become of a transaction that would not be refused; `replayed` when it was accepted
    before, or would be by an earlier one of the request.
    """

    success: bool = True
    replayed: bool
    transaction_id: UUID | None = None


class BulkDryRunAnswer(msgspec.Struct, kw_only=True):
    """What would become of each transaction, in order, and what that leaves; nothing was
    changed.
    """

    dry_run: Literal[True] = True
    results: list[ForeseenResult | RefusedResult]
    accounts: list[ForeseenAccount]


class BulkResultView(msgspec.Struct, kw_only=True):
    """One result, for the API document: the transaction or its problem."""

    success: bool
    transaction: BulkTransactionView | None = None
    replayed: bool | None = None
    problem: dict[str, Any] | None = None


class ForeseenResultView(msgspec.Struct, kw_only=True):
    """One result of a dry run, for the API document: what would be accepted, or the problem."""

    success: bool
    replayed: bool | None = None
    transaction_id: UUID | None = None
    problem: dict[str, Any] | None = None


class BulkDryRunView(msgspec.Struct, kw_only=True):
    """What would become of each transaction, in order, and what that leaves; nothing was
    changed.
    """

    dry_run: Literal[True]
    results: list[ForeseenResultView]
    accounts: list[ForeseenAccount]


class BulkAnswerView(msgspec.Struct, kw_only=True):
    """One result for each transaction, in order."""

    results: list[BulkResultView]


def bulk_results(answers: Answered) -> list[AcceptedResult | RefusedResult]:
    """Show what became of each transaction."""
    return [
        _refused(answer, position) if isinstance(answer, errors.LedgerError) else _accepted(answer)
        for position, answer in enumerate(answers)
    ]


def bulk_dry_run_answer(foreseen: ForeseenBulk) -> BulkDryRunAnswer:
    """Show what would become of each transaction."""
    return BulkDryRunAnswer(
        results=[
            _refused(answer, position)
            if isinstance(answer, errors.LedgerError)
            else ForeseenResult(replayed=answer.is_replayed, transaction_id=answer.transaction_id)
            for position, answer in enumerate(foreseen.answers)
        ],
        accounts=foreseen_accounts(foreseen.available_minor),
    )


def _accepted(acceptance: Acceptance) -> AcceptedResult:
    transaction = acceptance.transaction
    view = BulkTransactionView(
        transaction_id=transaction.transaction_id,
        account_id=transaction.account.account_id,
        amount=transaction.amount_text,
        type=transaction.direction,
        currency=transaction.account.currency,
        mode=transaction.mode,
        timestamp=instant(transaction.accepted_at),
        reference=transaction.reference,
        metadata=ordered_metadata(transaction.metadata),
        effective_at=instant_or_unset(transaction.effective_at),
    )
    return AcceptedResult(transaction=view, replayed=acceptance.replayed)


def _refused(error: errors.LedgerError, position: int) -> RefusedResult:
    return RefusedResult(
        problem=problem_content(error, f"/transactions/{position}") | error.members
    )


def _item_key(sent: str | None) -> str | None:
    """Check an item's key as the header is checked, naming its own field when it is wrong."""
    try:
        return idempotency_key(sent)
    except errors.InvalidIdempotencyKey as error:
        error.pointer = "/idempotency_key"
        raise
