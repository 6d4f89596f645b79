"""How a batch's items are answered, whoever decided them."""

import logging
from collections.abc import Iterable
from datetime import datetime

from app import errors
from app.kit.ids import EntryPosition, assigned_transaction_id
from app.kit.money import decimal_text
from app.ledger.codes import Admitted, EntryStatus, Mode
from app.ledger.item import Item
from app.ledger.model import Transaction
from app.ledger.store import accepted_ms

_log = logging.getLogger(__name__)
_REFUSALS: dict[str, type[errors.Rejected]] = {
    Admitted.INSUFFICIENT_AVAILABLE: errors.InsufficientAvailable,
    Admitted.CREDIT_IN_FLIGHT: errors.InsufficientAvailable,
    Admitted.BALANCE_LIMIT_EXCEEDED: errors.BalanceLimitExceeded,
}


def accept(answers: Iterable[tuple[Item, Transaction]]) -> None:
    """Answer items with what was accepted just now."""
    for item, transaction in answers:
        item.accept(transaction, replayed=False)


def fail(items: Iterable[Item], error: errors.LedgerError) -> None:
    """Answer items with an error, those that have no answer yet."""
    for item in items:
        item.fail(error)


def answerable(exc: Exception) -> errors.LedgerError:
    """Turn what was raised into what a client may be told."""
    if isinstance(exc, errors.LedgerError):
        return exc
    _log.error("a batch failed", exc_info=exc)
    return errors.InternalError()


def refusal(item: Item, word: str, available_minor: int | None) -> errors.Rejected:
    """Say why an item was refused, with the figures of the decision."""
    errors.require(word in _REFUSALS, f"no refusal for '{word}'")
    exponent = item.account.exponent
    members = {"requested": decimal_text(abs(item.change_minor), exponent)}
    if available_minor is not None:
        members["available"] = decimal_text(available_minor, exponent)
    return _REFUSALS[word](**members)


def journaled_transaction(
    item: Item,
    attempt_id: int,
    mode: Mode,
    place: EntryPosition,
    accepted_at: datetime | None,
) -> Transaction:
    """Describe an item that was journaled just now at a place."""
    if accepted_at is None:
        raise errors.InvariantViolation("a journaled batch has no time of acceptance")
    return Transaction(
        transaction_id=item.request.transaction_id
        or assigned_transaction_id(accepted_ms(accepted_at), place),
        account=item.account,
        change_minor=item.change_minor,
        status=EntryStatus.PENDING,
        mode=mode,
        accepted_at=accepted_at,
        updated_at=accepted_at,
        reference=item.request.reference,
        metadata=item.request.metadata,
        attempt_id=attempt_id,
    )
