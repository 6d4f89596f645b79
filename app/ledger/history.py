"""Frozen values of reading history: places in it, balances as of an instant, pages of entries."""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

import msgspec

from app import errors, limits
from app.kit.cursor import decode_cursor, encode_cursor
from app.kit.instants import from_microseconds, to_microseconds
from app.ledger.codes import Direction, EntryStatus
from app.ledger.model import Account, Transaction


class Basis(StrEnum):
    """By which of its times an entry counts."""

    BOOKED = "booked"
    EFFECTIVE = "effective"


class Place(NamedTuple):
    """A place in the order of booking: an entry's, or with numbers below 0 one before them all."""

    at: datetime
    batch_seq: int = -1
    item_no: int = -1

    @classmethod
    def of_cursor(cls, cursor: str) -> "Place":
        """Read a cursor; raises `InvalidCursor`."""
        count, batch_seq, item_no = decode_cursor(cursor, 3)
        in_range = (
            -1 <= batch_seq <= limits.BATCH_SEQ_MAX and -1 <= item_no <= limits.ITEM_NUMBER_MAX
        )
        if not in_range:
            raise errors.InvalidCursor(pointer="/cursor")
        return cls(from_microseconds(count), batch_seq, item_no)

    @property
    def cursor(self) -> str:
        """Write it as a cursor."""
        return encode_cursor(to_microseconds(self.at), self.batch_seq, self.item_no)


class Horizon(NamedTuple):
    """How far history reaches: complete below `watermark`, and, where months were detached, rows
    from `rows_from` on and balances from `balances_from` on.
    """

    watermark: datetime
    now: datetime
    rows_from: datetime | None
    balances_from: datetime | None


class HistoryEntry(NamedTuple):
    """An entry and where it stands."""

    transaction: Transaction
    place: Place


class BalanceAt(msgspec.Struct, frozen=True, kw_only=True):
    """A balance as of an instant; it can never change when it is final."""

    account: Account
    at: datetime
    by: Basis
    balance_minor: int
    watermark: datetime
    is_final: bool


class Period(msgspec.Struct, frozen=True, kw_only=True):
    """What a statement is asked for: from an instant on and before another, None for all."""

    start: datetime | None = None
    end: datetime | None = None
    after: Place | None = None
    limit: int = limits.PAGE_ITEMS_DEFAULT


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """A page of an account's entries in order, between two balances.

    It covers what was booked from `start` on and before `end`, the watermark's instant at most.
    """

    account: Account
    start: datetime
    end: datetime
    opening_minor: int
    closing_minor: int
    entries: tuple[HistoryEntry, ...]
    next_place: Place | None
    watermark: datetime
    is_final: bool


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """Which transactions are sought; what is None does not matter. Amounts in major units."""

    account_id: str | None = None
    reference: str | None = None
    status: EntryStatus | None = None
    direction: Direction | None = None
    start: datetime | None = None
    end: datetime | None = None
    amount_min: Decimal | None = None
    amount_max: Decimal | None = None
    metadata: dict[str, str] | None = None
    before: Place | None = None
    limit: int = limits.PAGE_ITEMS_DEFAULT


class Found(NamedTuple):
    """A page of what was found, and the place to go on from."""

    entries: tuple[HistoryEntry, ...]
    next_place: Place | None
