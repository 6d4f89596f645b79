"""How a batch's items are answered, whoever decided them."""

import logging
from collections.abc import Iterable, Sequence
from datetime import datetime

from app import errors
from app.kit.ids import AssignedIds
from app.kit.money import decimal_text
from app.ledger.codes import Decided, EntryStatus, Mode, Refused
from app.ledger.item import Item, effective_before, identities_of
from app.ledger.model import Transaction
from app.ledger.outcomes import DecidedOutcome, JournalOutcome
from app.ledger.store import LedgerStore, accepted_ms

_log = logging.getLogger(__name__)
_REFUSALS: dict[str, type[errors.Rejected]] = {
    Refused.INSUFFICIENT_AVAILABLE: errors.InsufficientAvailable,
    Refused.CREDIT_IN_FLIGHT: errors.InsufficientAvailable,
    Refused.BALANCE_LIMIT_EXCEEDED: errors.BalanceLimitExceeded,
    Refused.ACCOUNT_FROZEN: errors.AccountFrozen,
    Refused.ACCOUNT_CLOSED: errors.AccountClosed,
    Refused.VERSION_MISMATCH: errors.VersionMismatch,
    Refused.AVAILABLE_BELOW_EXPECTED: errors.AvailableBelowExpected,
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
    word = told_word(item, word, available_minor)
    errors.require(word in _REFUSALS, f"no refusal for '{word}'")
    if word == Refused.VERSION_MISMATCH:
        expected = item.expected[0] if item.expected else None
        # The version that was met counts what is in flight and may be given back.
        return errors.VersionMismatch(pointer="/expect/version", expected_version=expected)
    exponent = item.account.exponent
    members = {"requested": decimal_text(abs(item.change_minor), exponent)}
    if available_minor is not None:
        members["available"] = decimal_text(available_minor, exponent)
    if word == Refused.AVAILABLE_BELOW_EXPECTED:
        return errors.AvailableBelowExpected(pointer="/expect/available_at_least", **members)
    return _REFUSALS[word](**members)


def told_word(item: Item, word: str, available_minor: int | None) -> str:
    """The word that a client is told; credits on their way are of no use to it."""
    if word != Refused.CREDIT_IN_FLIGHT:
        return word
    wanted = item.expected[1] if item.expected else None
    is_below = wanted is not None and available_minor is not None and available_minor < wanted
    return Refused.AVAILABLE_BELOW_EXPECTED if is_below else Refused.INSUFFICIENT_AVAILABLE


async def answer_known(store: LedgerStore, items: Sequence[Item]) -> bool:
    """Answer items whose names were used before; False when none was."""
    identities = identities_of(items)
    if not identities:
        return False
    found = await store.transactions_by_identity(identities)
    taken = await store.requests_by_identity(identities)
    if taken.keys() != found.keys():
        # Some may have been accepted since.
        found = await store.transactions_by_identity(identities)
    for item in items:
        if not item.answer_from(found) and any(each in taken for each in item.identities):
            item.fail(errors.IdempotencyKeyReused())
    return bool(found or taken)


async def why_taken(store: LedgerStore, item: Item) -> errors.LedgerError:
    """Say why a key is taken that no single transaction has; never raises."""
    try:
        taken = await store.requests_by_identity(item.identities)
    except errors.LedgerError as error:
        return error
    left_out = item.left_out()
    if left_out is not None and not any(taken.values()):
        return left_out
    if taken:
        return errors.IdempotencyKeyReused()
    return errors.InvariantViolation("a key is taken but its entry is missing")


def stored_refusal(item: Item, code: str, available_text: str | None) -> errors.LedgerError:
    """Say again why an item was refused; a newer version may have done it in a word of its own."""
    if code == Decided.UNKNOWN_ACCOUNT:
        return errors.AccountNotFound(pointer="/account_id")
    if code not in _REFUSALS:
        return errors.InstanceOutdated()
    return refusal(item, code, None if available_text is None else int(available_text))


def journaled_answers(
    items: Sequence[Item],
    attempt_id: int,
    mode: Mode,
    outcome: JournalOutcome | DecidedOutcome,
    first: int = 0,
) -> list[tuple[Item, Transaction]]:
    """Describe items that were journaled just now, numbered from `first`, without duplicates."""
    duplicates = outcome.duplicates if isinstance(outcome, JournalOutcome) else ()
    batch = JournaledBatch(attempt_id, mode, outcome.batch_seq, outcome.accepted_at)
    return [
        (item, batch.transaction(item, number))
        for number, item in enumerate(items, start=first)
        if number not in duplicates
    ]


class JournaledBatch:
    """Where and when a batch was journaled, for the transactions in it."""

    def __init__(
        self, attempt_id: int, mode: Mode, batch_seq: int, accepted_at: datetime | None
    ) -> None:
        """Take what the journal said."""
        if accepted_at is None:
            raise errors.InvariantViolation("a journaled batch has no time of acceptance")
        self._attempt_id = attempt_id
        self._mode = mode
        self._accepted_at = accepted_at
        self._ids = AssignedIds(accepted_ms(accepted_at), batch_seq)

    def transaction(self, item: Item, item_no: int) -> Transaction:
        """Describe the item that stands at a place of the batch."""
        request = item.request
        return Transaction(
            transaction_id=request.transaction_id or self._ids.of(item_no),
            account=item.account,
            change_minor=item.change_minor,
            status=EntryStatus.PENDING,
            mode=self._mode,
            accepted_at=self._accepted_at,
            updated_at=self._accepted_at,
            reference=request.reference,
            metadata=request.metadata,
            effective_at=effective_before(request.effective_at, self._accepted_at),
            reverses=request.reverses,
            attempt_id=self._attempt_id,
        )
