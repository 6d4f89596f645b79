"""The wire of history: balances as of an instant, statements in JSON and in CSV, what was found."""

import asyncio
import csv
import io
from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

from app import limits
from app.kit.money import decimal_text
from app.ledger.codes import Direction, EntryStatus
from app.ledger.history import BalanceAt, Basis, Found, HistoryEntry, Statement
from app.ledger.model import Account
from app.ledger.schemas import TransactionView, instant, transaction_view

# What a spreadsheet takes for the beginning of a formula.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_FINAL = "True when this can never change any more"
_WATERMARK = "Everything booked before this instant is known"


class BalanceAtAnswer(msgspec.Struct, kw_only=True):
    """An account's balance as of an instant, settled and pending entries alike."""

    account_id: str
    currency: str
    at: str
    by: Basis
    balance: str
    watermark: Annotated[str, Meta(description=_WATERMARK)]
    is_final: Annotated[
        bool,
        Meta(description=f"{_FINAL}; never by effective time, for more may be backdated"),
    ]


class StatementRow(msgspec.Struct, kw_only=True):
    """One entry of a statement, and the balance after it."""

    transaction_id: str
    booked_at: str
    effective_at: Annotated[
        str | None, Meta(description="When it counts by effective time, if earlier")
    ] = None
    type: Direction
    amount: str
    balance: str
    status: Annotated[
        EntryStatus, Meta(description="PENDING becomes SETTLED; nothing else of a row changes")
    ]
    reference: str | None = None
    transfer_id: str | None = None
    other_account_id: str | None = None
    reverses: Annotated[
        str | None, Meta(description="The transaction that this is the reversal of")
    ] = None
    hold_id: Annotated[
        str | None, Meta(description="The hold that this sets aside, captures or gives back")
    ] = None


class StatementAnswer(msgspec.Struct, kw_only=True):
    """A page of what moved an account, in the order it was booked.

    `opening_balance` is what the account had before the first row of the page and
    `closing_balance` after its last one.
    """

    account_id: str
    currency: str
    from_: Annotated[str, Meta(description="Rows booked at this instant or later")] = msgspec.field(
        name="from"
    )
    to: Annotated[str, Meta(description="Rows booked before this instant, the watermark at most")]
    opening_balance: str
    rows: list[StatementRow]
    closing_balance: str
    next_cursor: str | None = None
    watermark: Annotated[str, Meta(description=_WATERMARK)]
    is_final: Annotated[
        bool, Meta(description="True when nothing can be added to the period that was asked for")
    ]


class SearchAnswer(msgspec.Struct, kw_only=True):
    """A page of transactions, the newest first."""

    transactions: list[TransactionView]
    next_cursor: Annotated[
        str | None,
        Meta(
            description="Goes on from here. A page looks at a bounded number of transactions, so "
            "it may have fewer than `limit` of those that are wanted, or none, although there are "
            "more: only null is the end."
        ),
    ] = None


_COLUMNS = tuple(StatementRow.__struct_fields__)


def balance_at_answer(balance: BalanceAt) -> BalanceAtAnswer:
    """Show a balance as of an instant."""
    return BalanceAtAnswer(
        account_id=balance.account.account_id,
        currency=balance.account.currency,
        at=instant(balance.at),
        by=balance.by,
        balance=decimal_text(balance.balance_minor, balance.account.exponent),
        watermark=instant(balance.watermark),
        is_final=balance.is_final,
    )


def statement_answer(page: Statement) -> StatementAnswer:
    """Show a page of a statement."""
    exponent = page.account.exponent
    return StatementAnswer(
        account_id=page.account.account_id,
        currency=page.account.currency,
        from_=instant(page.start),
        to=instant(page.end),
        opening_balance=decimal_text(page.opening_minor, exponent),
        rows=list(_rows(page.account, page.opening_minor, page.entries)),
        closing_balance=decimal_text(page.closing_minor, exponent),
        next_cursor=None if page.next_place is None else page.next_place.cursor,
        watermark=instant(page.watermark),
        is_final=page.is_final,
    )


async def statement_csv(page: Statement) -> bytes:
    """Write a page's rows as CSV (RFC 4180), the names of the columns first.

    Text that a spreadsheet would run as a formula gets an apostrophe in front. Others get their
    turn now and then, for a page may be long.
    """
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_MINIMAL, lineterminator="\r\n")
    writer.writerow(_COLUMNS)
    for number, row in enumerate(_rows(page.account, page.opening_minor, page.entries)):
        if row.reference is not None and row.reference.startswith(_FORMULA_STARTS):
            row.reference = f"'{row.reference}"
        writer.writerow([getattr(row, column) for column in _COLUMNS])
        if number % limits.STATEMENT_SLICE_ROWS == 0:
            await asyncio.sleep(0)
    return text.getvalue().encode()


def search_answer(found: Found) -> SearchAnswer:
    """Show a page of what was found."""
    return SearchAnswer(
        transactions=[transaction_view(each.transaction) for each in found.entries],
        next_cursor=None if found.next_place is None else found.next_place.cursor,
    )


def _rows(
    account: Account, balance_minor: int, entries: Iterable[HistoryEntry]
) -> Iterable[StatementRow]:
    for entry in entries:
        transaction = entry.transaction
        balance_minor += transaction.change_minor
        transfer_id, effective_at = transaction.transfer_id, transaction.effective_at
        yield StatementRow(
            transaction_id=str(transaction.transaction_id),
            booked_at=instant(transaction.accepted_at),
            effective_at=None if effective_at is None else instant(effective_at),
            type=transaction.direction,
            amount=transaction.amount_text,
            balance=decimal_text(balance_minor, account.exponent),
            status=transaction.status,
            reference=transaction.reference,
            transfer_id=None if transfer_id is None else str(transfer_id),
            other_account_id=transaction.other_account_id,
            reverses=None if transaction.reverses is None else str(transaction.reverses),
            hold_id=None if transaction.hold_id is None else str(transaction.hold_id),
        )
