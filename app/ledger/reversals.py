"""What takes a transaction back: the same amount on the same account the other way, once."""

from uuid import UUID

import msgspec

from app import errors
from app.kit.money import parse_amount
from app.ledger.codes import Direction
from app.ledger.model import HOLDING_PREFIX, Transaction, TransactionRequest


class ReversalRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a client says of a reversal, its form checked."""

    idempotency_key: str | None = None
    chosen_id: UUID | None = None
    reference: str | None = None
    metadata: dict[str, str] | None = None

    def reversing(self, transaction: Transaction) -> TransactionRequest:
        """The transaction that takes this one back; raises `NotReversible`."""
        is_held = (transaction.other_account_id or "").startswith(HOLDING_PREFIX)
        if is_held and transaction.direction is Direction.DEBIT:
            raise errors.NotReversible("It set money aside for a hold; release the hold instead.")
        if transaction.transfer_id is not None:
            raise errors.NotReversible(
                "It is half of a transfer; transfer the amount back instead.",
                transfer_id=str(transaction.transfer_id),
            )
        if transaction.account.account_id.startswith(HOLDING_PREFIX):
            raise errors.NotReversible("It captures a hold; give the amount back by a credit.")
        if transaction.reverses is not None:
            raise errors.NotReversible("It is a reversal itself.")
        is_credit = transaction.direction is Direction.CREDIT
        return TransactionRequest(
            account_id=transaction.account.account_id,
            amount=parse_amount(transaction.amount_text),
            direction=Direction.DEBIT if is_credit else Direction.CREDIT,
            transaction_id=self.chosen_id,
            idempotency_key=self.idempotency_key,
            reference=self.reference,
            metadata=self.metadata,
            reverses=transaction.transaction_id,
        )
