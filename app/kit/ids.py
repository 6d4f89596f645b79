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


class AssignedIds:
    """The ids of a batch's transactions whose clients chose none (RFC 9562 §5.8 layout)."""

    def __init__(self, accepted_ms: int, batch_seq: int) -> None:
        """Take what all of them share."""
        high = (accepted_ms & _MILLISECONDS_MASK) << 16 | _ASSIGNED_VERSION << 12
        self._shared = high << 64 | 0b10 << 62 | batch_seq

    def of(self, item_no: int) -> UUID:
        """Build the id of one transaction."""
        low_bits, high_bits = item_no & _ITEM_LOW_MASK, item_no >> _ITEM_LOW_BITS
        return _uuid(self._shared | low_bits << 64 | high_bits << _BATCH_SEQ_BITS)


def assigned_transaction_id(accepted_ms: int, position: EntryPosition) -> UUID:
    """Build the id of one transaction alone; see `AssignedIds`."""
    return AssignedIds(accepted_ms, position.batch_seq).of(position.item_no)


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
