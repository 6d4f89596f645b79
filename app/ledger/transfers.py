"""Frozen values of transfers and groups of them, and their rules that need no I/O."""

from uuid import UUID

import msgspec

from app.kit.money import DecimalText
from app.ledger.codes import Direction
from app.ledger.model import Transaction, TransactionRequest


class TransferRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A transfer whose form was checked; its amount is not yet in minor units."""

    debit_account_id: str
    credit_account_id: str
    amount: DecimalText
    transfer_id: UUID | None = None
    reference: str | None = None
    metadata: dict[str, str] | None = None

    def leg(self, direction: Direction, idempotency_key: str | None = None) -> TransactionRequest:
        """Its debit, which has its id and a key, or its credit."""
        is_debit = direction is Direction.DEBIT
        return TransactionRequest(
            account_id=self.debit_account_id if is_debit else self.credit_account_id,
            amount=self.amount,
            direction=direction,
            transaction_id=self.transfer_id if is_debit else None,
            idempotency_key=idempotency_key,
            reference=self.reference,
            metadata=self.metadata,
        )


class Transfer(msgspec.Struct, frozen=True):
    """An accepted transfer: its two halves, accepted as one."""

    debit: Transaction
    credit: Transaction

    @property
    def transfer_id(self) -> UUID:
        """The id its client chose for it, or the one its debit was given."""
        return self.debit.transaction_id

    @property
    def hold_id(self) -> UUID | None:
        """The hold that it sets aside, captures or gives back."""
        return self.debit.hold_id or self.credit.hold_id

    def answers(self, request: TransferRequest) -> bool:
        """Tell whether this is what a request for it asks for, its amount left out."""
        return (
            self.debit.account.account_id == request.debit_account_id
            and self.credit.account.account_id == request.credit_account_id
            and request.transfer_id in (None, self.transfer_id)
            and self.debit.reference == request.reference
            and (self.debit.metadata or None) == (request.metadata or None)
        )


class TransferGroup(msgspec.Struct, frozen=True):
    """Transfers that were accepted as one, in the order they were asked for; one at least."""

    transfers: tuple[Transfer, ...]

    @property
    def group_id(self) -> UUID:
        """The id of its first transfer."""
        return self.transfers[0].transfer_id

    def find(self, transfer_id: UUID) -> Transfer | None:
        """The transfer with an id, if it is in the group."""
        found = (each for each in self.transfers if each.transfer_id == transfer_id)
        return next(found, None)

    @property
    def attempt_id(self) -> int:
        """The attempt that journaled it."""
        return self.transfers[0].debit.attempt_id


class GroupAcceptance(msgspec.Struct, frozen=True):
    """The answer to an accepted group; `replayed` when an earlier sending was accepted."""

    group: TransferGroup
    replayed: bool
