"""Frozen values of events: what one is, where it stands among all, and who is told of it."""

import re
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

import msgspec

from app import limits
from app.errors import InvalidCursor

_SEQUENCE = re.compile(r"([0-9]{16})-([01])-([0-9]{18})-([0-9]{6})", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_AT_US_MAX = 10**16 - 1
STEPS = 4


class EventType(StrEnum):
    """What happened."""

    TRANSACTION_ACCEPTED = "transaction.accepted"
    TRANSACTION_REVERSED = "transaction.reversed"
    TRANSACTION_SETTLED = "transaction.settled"
    HOLD_PLACED = "hold.placed"
    HOLD_CAPTURED = "hold.captured"
    HOLD_RELEASED = "hold.released"
    HOLD_EXPIRED = "hold.expired"


class Appended(StrEnum):
    """How Redis answered an addition to its stream."""

    DONE = "done"
    EMPTIED = "emptied"


class WebhookStatus(StrEnum):
    """Whether a webhook is told of events."""

    ENABLED = "enabled"
    DISABLED = "disabled"


class DeliveryStatus(StrEnum):
    """What became of one event at a webhook."""

    DELIVERED = "delivered"
    DEAD = "dead"


class Position(NamedTuple):
    """A place among all events: everything before it was told.

    `kind` is 0 for acceptances, 1 for settlements; `step` counts four for each item of the batch.
    """

    at: datetime
    kind: int = 0
    batch_seq: int = 0
    step: int = 0

    @property
    def after_step(self) -> "Position":
        """The place behind what stands here."""
        return Position(self.at, self.kind, self.batch_seq, self.step + 1)

    @property
    def after_batch(self) -> "Position":
        """The place behind the whole batch."""
        return self._replace(batch_seq=self.batch_seq + 1, step=0)

    @property
    def text(self) -> str:
        """Write it so that the order of texts is the order of places."""
        return sequence_text(self.batch_text, self.step)

    @property
    def batch_text(self) -> str:
        """How the texts of all places in its batch begin."""
        at_us = (self.at - _EPOCH) // _MICROSECOND
        return f"{at_us:016d}-{self.kind}-{self.batch_seq:018d}-"


def sequence_text(batch_text: str, step: int) -> str:
    """Write a place in a batch whose places begin like this."""
    return f"{batch_text}{step:06d}"


BEGINNING = Position(_EPOCH)


def read_sequence(text: str, pointer: str = "/cursor") -> Position:
    """Read a place from its text; raises `InvalidCursor`."""
    match = _SEQUENCE.fullmatch(text)
    if match is None:
        raise InvalidCursor(pointer=pointer)
    at_us, kind, batch_seq, step = (int(part) for part in match.groups())
    if batch_seq > limits.BATCH_SEQ_MAX or at_us > _AT_US_MAX:
        raise InvalidCursor(pointer=pointer)
    try:
        return Position(_EPOCH + at_us * _MICROSECOND, kind, batch_seq, step)
    except OverflowError as exc:
        raise InvalidCursor(pointer=pointer) from exc


class TellableEvent(NamedTuple):
    """One event ready to be told: what sinks choose by, its place, and its JSON.

    `sequence` is its place as text; as a cursor, what comes after it.
    """

    event_id: str
    type: EventType
    account_id: str
    position: Position
    sequence: str
    body: bytes


class EventPage(NamedTuple):
    """Events in order from a place on, and the place behind them; the same place if none is due."""

    events: tuple[TellableEvent, ...]
    end: Position


class Watermark(NamedTuple):
    """A time before which everything that happened is visible, and the time it was when asked."""

    before: datetime
    now: datetime


class Cursor(NamedTuple):
    """How far a sink was told, and the generation that its next move must name."""

    position: Position
    generation: int
    mark: str | None = None


class SinkLag(msgspec.Struct, frozen=True):
    """How long the oldest event waits that a sink was not told, and how many it was told."""

    sink: str
    lag_s: float
    told: int


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who wants events by HTTP; no types means all, no account every one."""

    webhook_id: UUID
    url: str
    secret: str
    types: tuple[EventType, ...] | None
    account_id: str | None
    status: WebhookStatus
    reason: str | None
    version: int
    position: Position
    created_at: datetime
    updated_at: datetime

    def wants(self, event: TellableEvent) -> bool:
        """Tell whether an event is for it."""
        return (self.types is None or event.type in self.types) and (
            self.account_id is None or event.account_id == self.account_id
        )


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one event at a webhook, after so many tries."""

    delivery_no: int = 0
    status: DeliveryStatus
    event_id: str
    event_type: str
    account_id: str
    sequence: str
    tries: int
    http_status: int | None
    detail: str | None
    ended_at: datetime | None = None
