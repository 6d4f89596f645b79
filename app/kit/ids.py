"""Identifiers that carry where they belong: transaction ids and attempt ids.

A transaction id assigned here is a version 8 UUID holding the milliseconds of acceptance, the item
number and the batch sequence, so it is unique without an index of its own. A client may choose an
id of any other version.
"""

from typing import NamedTuple
from uuid import UUID

from app import limits

_ASSIGNED_VERSION = 8
_MILLISECONDS_MASK = 2**48 - 1


class EntryPosition(NamedTuple):
    """Where an accepted movement stands in the journal."""

    batch_seq: int
    item_no: int


def assigned_transaction_id(accepted_ms: int, position: EntryPosition) -> UUID:
    """Build the id of a transaction whose client chose none (RFC 9562 §5.8 layout)."""
    high = (accepted_ms & _MILLISECONDS_MASK) << 16 | _ASSIGNED_VERSION << 12 | position.item_no
    return UUID(int=high << 64 | 0b10 << 62 | position.batch_seq)


def assigned_position(transaction_id: UUID) -> EntryPosition | None:
    """Read the journal position out of an id, or None when a client chose the id."""
    if not is_assigned_form(transaction_id):
        return None
    batch_seq = transaction_id.int & limits.BATCH_SEQ_MAX
    return EntryPosition(batch_seq, transaction_id.int >> 64 & limits.ITEM_NUMBER_MAX)


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

    def draw(self) -> int:
        """Return the next attempt id, an int64."""
        self._next += 1
        if self._next >= (self.process_number + 1) * limits.ATTEMPTS_PER_PROCESS_MAX:
            raise OverflowError("this process has used up its attempt numbers; restart it")
        return self._next
