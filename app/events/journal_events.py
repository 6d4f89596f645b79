"""Says what entries of the journal mean as events, and writes them as JSON.

The stream tells of each movement twice, so what a batch's events share is put into words once.
"""

from collections.abc import Sequence
from typing import Any

from msgspec import UNSET

from app.events.model import STEPS, EventType, Position, TellableEvent, sequence_text
from app.events.schemas import EventView
from app.infra.http import encode
from app.kit.ids import AssignedIds
from app.kit.money import decimal_text
from app.ledger.codes import Direction, EntryStatus, HoldKind, Mode
from app.ledger.hold_schemas import HoldView, hold_view
from app.ledger.holds import DoneAct
from app.ledger.model import EXTERNAL_PREFIX, HOLDING_PREFIX
from app.ledger.schemas import TransactionView, instant, instant_or_unset, ordered_metadata
from app.ledger.store import accepted_ms, decode_metadata, uuid_of

_Row = Any
_INTERNAL = (EXTERNAL_PREFIX, HOLDING_PREFIX)
_ENDINGS = {each: each.partition(".")[2] for each in EventType}
_ACCEPTED, _REVERSED, _ACT = 1, 2, 3
_HOLD_TYPES = {
    HoldKind.PLACE: EventType.HOLD_PLACED,
    HoldKind.CAPTURE: EventType.HOLD_CAPTURED,
    HoldKind.RELEASE: EventType.HOLD_RELEASED,
    HoldKind.EXPIRE: EventType.HOLD_EXPIRED,
}


def events_of(
    rows: Sequence[_Row], acts: dict[tuple[int, int], DoneAct], account_no: int | None
) -> list[TellableEvent]:
    """Make the events of rows of the journal in their order, of one account or of all."""
    events: list[TellableEvent] = []
    batch: _Batch | None = None
    for row in rows:
        item_no = row["item_no"]
        if item_no is None:
            continue
        if batch is None or row["batch_seq"] != batch.batch_seq or row["kind"] != batch.kind:
            batch = _Batch(row)
        is_wanted = account_no is None or row["account_no"] == account_no
        if is_wanted and not row["account_id"].startswith(_INTERNAL):
            events += batch.transaction_events(row)
        if row["is_act"]:
            act = acts[batch.batch_seq, item_no]
            if account_no is None or act.hold.account.account_no == account_no:
                events.append(batch.hold_event(item_no, act))
    return events


class _Batch:
    """What the events of one batch share, put into words once: a page has thousands of events."""

    def __init__(self, row: _Row) -> None:
        self.batch_seq, self.kind = row["batch_seq"], row["kind"]
        self._at, self._mode = row["at"], Mode(row["mode"])
        self._happened, self._accepted = instant(row["at"]), instant(row["created_at"])
        self._status = (EntryStatus.SETTLED if self.kind else EntryStatus.PENDING).value
        self._begin = Position(self._at, self.kind, self.batch_seq).batch_text
        self._ids = AssignedIds(accepted_ms(row["created_at"]), self.batch_seq)

    def transaction_events(self, row: _Row) -> list[TellableEvent]:
        """Tell of one entry; that of a reversal has two events."""
        item_no, account_id, data = row["item_no"], row["account_id"], self._view(row)
        if self.kind:
            return [
                self._event(item_no, _ACCEPTED, EventType.TRANSACTION_SETTLED, account_id, data)
            ]
        told = [self._event(item_no, _ACCEPTED, EventType.TRANSACTION_ACCEPTED, account_id, data)]
        if row["reverses"] is not None:
            told.append(
                self._event(item_no, _REVERSED, EventType.TRANSACTION_REVERSED, account_id, data)
            )
        return told

    def hold_event(self, item_no: int, act: DoneAct) -> TellableEvent:
        """Tell of one act on a hold."""
        hold = act.hold
        kind = _HOLD_TYPES[act.kind]
        return self._event(item_no, _ACT, kind, hold.account.account_id, hold_view(hold))

    def _view(self, row: _Row) -> TransactionView:
        """Show an entry as `transaction_view` does, without what lies in between."""
        change_minor, metadata = row["change_minor"], row["metadata"]
        return TransactionView(
            transaction_id=uuid_of(row["transaction_id"]) or self._ids.of(row["item_no"]),
            account_id=row["account_id"],
            amount=decimal_text(abs(change_minor), row["exponent"]),
            type=Direction.CREDIT if change_minor > 0 else Direction.DEBIT,
            currency=row["currency"],
            mode=self._mode,
            status=self._status,
            timestamp=self._accepted,
            updated_at=self._happened,
            reference=row["reference"],
            metadata=None if metadata is None else ordered_metadata(decode_metadata(metadata)),
            transfer_id=uuid_of(row["transfer_id"]),
            other_account_id=row["other_account_id"],
            effective_at=instant_or_unset(row["effective_at"]),
            reverses=uuid_of(row["reverses"]) or UNSET,
            hold_id=uuid_of(row["hold_id"]) or UNSET,
        )

    def _event(
        self,
        item_no: int,
        what: int,
        kind: EventType,
        account_id: str,
        data: TransactionView | HoldView,
    ) -> TellableEvent:
        step = item_no * STEPS + what
        event_id = f"{self.batch_seq}-{item_no}-{_ENDINGS[kind]}"
        sequence = sequence_text(self._begin, step + 1)
        view = EventView(
            id=event_id,
            type=kind,
            account_id=account_id,
            occurred_at=self._happened,
            sequence=sequence,
            data=data,
        )
        place = Position(self._at, self.kind, self.batch_seq, step)
        return TellableEvent(event_id, kind, account_id, place, sequence, encode(view))
