"""Identifiers that carry where they belong: transaction ids and attempt ids.

A transaction id assigned here is a version 8 UUID holding the milliseconds of acceptance, the low
twelve bits of the item number, its high three, and the batch sequence, so it is unique without an
index of its own. A client may choose an id of any other version.
"""

from typing import NamedTuple
from uuid import UUID, SafeUUID

from app import limits

_ASSIGNED_VERSION = 8
_MILLISECONDS_MASK = 2**48 - 1
_ITEM_LOW_BITS = 12
_ITEM_LOW_MASK = 2**_ITEM_LOW_BITS - 1
_ITEM_HIGH_MASK = 2**3 - 1
_BATCH_SEQ_BITS = 59
_new, _put = object.__new__, object.__setattr__


class EntryPosition(NamedTuple):
    """Where an accepted movement stands in the journal."""

    batch_seq: int
    item_no: int


def assigned_transaction_id(accepted_ms: int, position: EntryPosition) -> UUID:
    """Build the id of a transaction whose client chose none (RFC 9562 §5.8 layout)."""
    low_bits, high_bits = position.item_no & _ITEM_LOW_MASK, position.item_no >> _ITEM_LOW_BITS
    high = (accepted_ms & _MILLISECONDS_MASK) << 16 | _ASSIGNED_VERSION << 12 | low_bits
    low = 0b10 << 62 | high_bits << _BATCH_SEQ_BITS | position.batch_seq
    return _uuid(high << 64 | low)


def _uuid(number: int) -> UUID:
    """Make a UUID past its constructor, which takes four times as long for what is known here."""
    made = _new(UUID)
    _put(made, "int", number)
    _put(made, "is_safe", SafeUUID.unknown)
    return made


def assigned_position(transaction_id: UUID) -> EntryPosition | None:
    """Read the journal position out of an id, or None when a client chose the id."""
    if not is_assigned_form(transaction_id):
        return None
    number = transaction_id.int
    high_bits = number >> _BATCH_SEQ_BITS & _ITEM_HIGH_MASK
    item_no = high_bits << _ITEM_LOW_BITS | number >> 64 & _ITEM_LOW_MASK
    return EntryPosition(number & limits.BATCH_SEQ_MAX, item_no)


def is_assigned_form(transaction_id: UUID) -> bool:
    """Tell whether only this service may issue an id of this form."""
    return transaction_id.version == _ASSIGNED_VERSION


class AttemptNumbers:
    """Attempt ids of one process: unique for ever because its process number is."""

    def __init__(self, process_number: int) -> None:
        """Start below the first attempt of a process numbered by the database."""
        if not 0 < process_number <= limits.PROCESS_NUMBER_MAX:
            raise ValueError(f"process number {process_number} is out of range")
        self.process_number = process_number
        self._next = process_number * limits.ATTEMPTS_PER_PROCESS_MAX

    @property
    def bounds(self) -> tuple[int, int]:
        """The first and the last attempt id this process may have."""
        first = self.process_number * limits.ATTEMPTS_PER_PROCESS_MAX
        return first, first + limits.ATTEMPTS_PER_PROCESS_MAX - 1

    def draw(self) -> int:
        """Return the next attempt id, an int64."""
        self._next += 1
        if self._next >= (self.process_number + 1) * limits.ATTEMPTS_PER_PROCESS_MAX:
            raise OverflowError("this process has used up its attempt numbers; restart it")
        return self._next
