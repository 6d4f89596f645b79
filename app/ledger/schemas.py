"""The wire: what clients send and get. Amounts are decimal strings in major units, instants are
RFC 3339 in UTC with microseconds.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from app import errors, limits
from app.kit.decoding import check_metadata, check_text
from app.kit.ids import is_assigned_form
from app.kit.money import decimal_text, parse_amount, parse_signed
from app.ledger.codes import Direction, Mode
from app.ledger.model import (
    Balance,
    Expectation,
    PendingPage,
    Transaction,
    TransactionRequest,
    Verification,
    check_customer_account_id,
)

# What is later than the booking is not kept, so that a client's clock may be ahead of this one.
CLOCKS_DIFFER = timedelta(seconds=5)
_EFFECTIVE_FIRST = datetime(1970, 1, 1, tzinfo=UTC)
MESSAGE_ACCEPTED = "Transaksi berhasil diproses"
Amount = Annotated[
    str | int,
    Meta(
        description="Decimal string in major units, or an integer; never a float",
        examples=["100.50"],
    ),
]


def check_said(chosen: UUID | None, reference: str | None, metadata: dict[str, str] | None) -> None:
    """Refuse an id that is no client's to choose, and a reference or metadata past its bounds."""
    if chosen is not None and is_assigned_form(chosen):
        raise errors.InvalidValue("Version 8 ids are issued by this service.", pointer="/id")
    check_text(reference, limits.REFERENCE_LENGTH_MAX, "/reference")
    check_metadata(metadata)


class ExpectBody(msgspec.Struct, forbid_unknown_fields=True):
    """What must be true of the account at the decision, or the transaction is refused."""

    available_at_least: Annotated[
        str | int | None,
        Meta(description="The least `available_balance` before it", examples=["100.50"]),
    ] = None
    version: Annotated[
        Annotated[int, Meta(ge=0, le=limits.VERSION_MAX)] | None,
        Meta(description="The balance's `version`"),
    ] = None

    def to_expectation(self) -> Expectation:
        """Check it; raises one error for each way to be wrong."""
        if self.available_at_least is None and self.version is None:
            raise errors.InvalidValue(
                "It needs `available_at_least` or `version`.", pointer="/expect"
            )
        amount, is_negative = None, False
        if self.available_at_least is not None:
            amount, is_negative = parse_signed(
                self.available_at_least, "/expect/available_at_least"
            )
        return Expectation(version=self.version, available_at_least=amount, is_negative=is_negative)


class TransactionBody(msgspec.Struct, forbid_unknown_fields=True):
    """A debit or credit of one account."""

    account_id: Annotated[str, Meta(examples=["ACC001"])]
    amount: Amount
    type: Annotated[Direction, Meta(description="Which way the account's balance moves")]
    id: Annotated[
        UUID | None,
        Meta(description="Your own id for this transaction, any UUID but version 8"),
    ] = None
    reference: Annotated[str | None, Meta(description="At most 140 characters")] = None
    metadata: Annotated[dict[str, str] | None, Meta(description="At most 16 entries of text")] = (
        None
    )
    expect: ExpectBody | None = None
    effective_at: Annotated[
        Annotated[datetime, Meta(tz=True)] | None,
        Meta(description="When it counts by effective time, if that is earlier than now"),
    ] = None

    def to_request(self, idempotency_key: str | None) -> TransactionRequest:
        """Check everything that needs no account; raises one error for each way to be wrong."""
        check_customer_account_id(self.account_id)
        amount = parse_amount(self.amount)
        check_said(self.id, self.reference, self.metadata)
        expect, effective_at = self.expect, self.effective_at
        return TransactionRequest(
            expect=None if expect is None else expect.to_expectation(),
            effective_at=None if effective_at is None else past_instant(effective_at),
            account_id=self.account_id,
            amount=amount,
            direction=self.type,
            transaction_id=self.id,
            idempotency_key=idempotency_key,
            reference=self.reference,
            metadata=self.metadata or None,
        )


class TransactionAnswer(msgspec.Struct, kw_only=True):
    """An accepted transaction, as it was when it was accepted."""

    success: Literal[True] = True
    message: str = MESSAGE_ACCEPTED
    transaction_id: UUID
    account_id: str
    amount: str
    type: Direction
    currency: str
    status: Literal["PENDING"] = "PENDING"
    mode: Annotated[Mode, Meta(description="Who decided it; says nothing about what it is worth")]
    timestamp: str
    reference: str | None = None
    metadata: dict[str, str] | None = None
    effective_at: str | UnsetType = UNSET
    reverses: UUID | UnsetType = UNSET


class TransactionView(msgspec.Struct, kw_only=True):
    """A transaction as it is now."""

    transaction_id: UUID
    account_id: str
    amount: str
    type: Direction
    currency: str
    status: str
    mode: Mode
    timestamp: str
    updated_at: str
    reference: str | None = None
    metadata: dict[str, str] | None = None
    transfer_id: Annotated[
        UUID | None, Meta(description="The transfer that this is half of, if it is")
    ] = None
    other_account_id: Annotated[str | None, Meta(description="Its other account")] = None
    effective_at: Annotated[
        str | UnsetType, Meta(description="When it counts by effective time, if earlier")
    ] = UNSET
    reverses: Annotated[
        UUID | UnsetType, Meta(description="The transaction that it takes back, if it does")
    ] = UNSET
    hold_id: Annotated[
        UUID | UnsetType,
        Meta(description="The hold that it sets aside, captures or gives back, if it does"),
    ] = UNSET
    reversed_by: Annotated[
        UUID | UnsetType,
        Meta(description="The transaction that takes it back, if one does; not told in lists"),
    ] = UNSET


class BalanceAnswer(msgspec.Struct, kw_only=True):
    """An account's balance at one instant; available = settled + credits - debits + limit."""

    account_id: str
    currency: str
    settled_balance: str
    pending_debit: str
    pending_credit: str
    available_balance: str
    credit_limit: str
    held: Annotated[str, Meta(description="What is set aside by holds, not part of the balance")]
    version: int
    last_updated: str


class PendingAnswer(msgspec.Struct, kw_only=True):
    """What is accepted and not settled: count and totals of all of it, and a page of items."""

    account_id: str
    currency: str
    count: int
    total: Annotated[str, Meta(description="Sum of all pending amounts, debits and credits alike")]
    total_debit: str
    total_credit: str
    items: list[TransactionView]
    next_cursor: str | None = None


class MismatchView(msgspec.Struct, kw_only=True):
    """One thing that is not as it must be, with both figures and the store that is wrong."""

    kind: str
    store: str
    account_id: str | None
    expected: str
    found: str
    place: str


class VerifyAnswer(msgspec.Struct, kw_only=True):
    """What was compared with what, and what differs; `complete` when nothing was left out."""

    status: Literal["verified", "mismatch"]
    complete: bool
    mode: Mode
    epoch: int
    compared: dict[str, int]
    mismatches: list[MismatchView]
    duration_ms: float
    verified_at: str


class TestAccountsAnswer(msgspec.Struct, kw_only=True):
    """How many test accounts were opened, or were there already."""

    opened: int
    present: int


class TestCleanupAnswer(msgspec.Struct, kw_only=True):
    """How many test accounts were brought to zero by ordinary transactions."""

    accounts: int
    emptied: int


def transaction_answer(transaction: Transaction) -> TransactionAnswer:
    """Answer an accepted request; a replay gets the very same."""
    return TransactionAnswer(
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
        reverses=UNSET if transaction.reverses is None else transaction.reverses,
    )


def transaction_view(transaction: Transaction, reversed_by: UUID | None = None) -> TransactionView:
    """Show a transaction, and what takes it back where that was looked up."""
    return TransactionView(
        transaction_id=transaction.transaction_id,
        account_id=transaction.account.account_id,
        amount=transaction.amount_text,
        type=transaction.direction,
        currency=transaction.account.currency,
        mode=transaction.mode,
        status=transaction.status.value,
        timestamp=instant(transaction.accepted_at),
        updated_at=instant(transaction.updated_at),
        reference=transaction.reference,
        metadata=ordered_metadata(transaction.metadata),
        transfer_id=transaction.transfer_id,
        other_account_id=transaction.other_account_id,
        effective_at=instant_or_unset(transaction.effective_at),
        reverses=UNSET if transaction.reverses is None else transaction.reverses,
        hold_id=UNSET if transaction.hold_id is None else transaction.hold_id,
        reversed_by=UNSET if reversed_by is None else reversed_by,
    )


def balance_answer(balance: Balance) -> BalanceAnswer:
    """Show a balance."""
    exponent = balance.account.exponent
    return BalanceAnswer(
        account_id=balance.account.account_id,
        currency=balance.account.currency,
        settled_balance=decimal_text(balance.settled_minor, exponent),
        pending_debit=decimal_text(balance.pending_debit_minor, exponent),
        pending_credit=decimal_text(balance.pending_credit_minor, exponent),
        available_balance=decimal_text(balance.available_minor, exponent),
        credit_limit=decimal_text(balance.credit_limit_minor, exponent),
        held=decimal_text(balance.held_minor, exponent),
        version=balance.version,
        last_updated=instant(balance.last_updated_at),
    )


def pending_answer(page: PendingPage) -> PendingAnswer:
    """Show a page of pending movements."""
    exponent = page.account.exponent
    return PendingAnswer(
        account_id=page.account.account_id,
        currency=page.account.currency,
        count=page.count,
        total=decimal_text(page.debit_minor + page.credit_minor, exponent),
        total_debit=decimal_text(page.debit_minor, exponent),
        total_credit=decimal_text(page.credit_minor, exponent),
        items=[transaction_view(item) for item in page.items],
        next_cursor=page.next_cursor,
    )


def verify_answer(verification: Verification) -> VerifyAnswer:
    """Show a verification."""
    return VerifyAnswer(
        status="verified" if verification.is_clean else "mismatch",
        complete=verification.complete,
        mode=verification.mode,
        epoch=verification.epoch,
        compared=verification.compared,
        mismatches=[
            MismatchView(
                kind=mismatch.kind,
                store=mismatch.store,
                account_id=mismatch.account_id,
                expected=mismatch.expected,
                found=mismatch.found,
                place=mismatch.place,
            )
            for mismatch in verification.mismatches
        ],
        duration_ms=round(verification.duration_ms, 3),
        verified_at=instant(verification.verified_at),
    )


@lru_cache(maxsize=256)
def instant(moment: datetime) -> str:
    """Write an instant as RFC 3339 with microseconds, in UTC."""
    text = moment.astimezone(UTC).isoformat(timespec="microseconds")
    return text.removesuffix("+00:00") + "Z"


def instant_or_unset(moment: datetime | None) -> str | UnsetType:
    """Write an instant; nothing where there is none."""
    return UNSET if moment is None else instant(moment)


def past_instant(moment: datetime) -> datetime:
    """Check an effective time: not in the future, and not before money was counted like this."""
    if not _EFFECTIVE_FIRST <= moment <= datetime.now(UTC) + CLOCKS_DIFFER:
        raise errors.InvalidValue(
            "An effective time lies between 1970 and now.", pointer="/effective_at"
        )
    return moment


def ordered_metadata(metadata: dict[str, str] | None) -> dict[str, str] | None:
    """Order entries by key: the database forgets the order they came in, a replay must not show."""
    return dict(sorted(metadata.items())) if metadata else None


def refused(
    error: errors.LedgerError, pointer: str | None, **members: object
) -> errors.LedgerError:
    """Say of what was not done what a refused transaction says beside the problem.

    A whole batch may have failed with this one error, so it is not written to.
    """
    told: dict[str, Any] = {**error.members, "success": False, **members}
    if isinstance(error, errors.Rejected) and not error.retryable:
        told["status"] = "REJECTED"
    return type(error)(error.detail, pointer=pointer, **told)


def told_refusal(error: errors.LedgerError, of: str = "") -> errors.LedgerError:
    """Say so of what was refused; `of` is what its pointer begins with that no client wrote."""
    pointer = error.pointer
    if of and pointer is not None:
        pointer = pointer.removeprefix(of) or None
    return refused(error, pointer)


@contextmanager
def refusals(of: str = "") -> Iterator[None]:
    """Say so of what is refused inside, as `told_refusal` does."""
    try:
        yield
    except errors.LedgerError as error:
        raise told_refusal(error, of) from error
