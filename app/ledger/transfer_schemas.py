"""The wire of transfers and groups of them."""

from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from app import errors, limits
from app.kit.money import parse_amount
from app.ledger.codes import Mode
from app.ledger.model import check_customer_account_id
from app.ledger.schemas import MESSAGE_ACCEPTED, Amount, check_said, instant, ordered_metadata
from app.ledger.transfers import Transfer, TransferGroup, TransferRequest


class TransferBody(msgspec.Struct, forbid_unknown_fields=True):
    """A transfer of one amount from one account to another of the same currency."""

    debit_account_id: Annotated[str, Meta(description="Who pays", examples=["ACC001"])]
    credit_account_id: Annotated[str, Meta(description="Who is paid", examples=["ACC002"])]
    amount: Amount
    id: Annotated[
        UUID | None, Meta(description="Your own id for this transfer, any UUID but version 8")
    ] = None
    reference: Annotated[str | None, Meta(description="At most 140 characters")] = None
    metadata: Annotated[dict[str, str] | None, Meta(description="At most 16 entries of text")] = (
        None
    )

    def to_request(self) -> TransferRequest:
        """Check everything that needs no account; raises one error for each way to be wrong."""
        check_customer_account_id(self.debit_account_id, "/debit_account_id")
        check_customer_account_id(self.credit_account_id, "/credit_account_id")
        if self.debit_account_id == self.credit_account_id:
            raise errors.SameAccount(pointer="/credit_account_id")
        amount = parse_amount(self.amount)
        check_said(self.id, self.reference, self.metadata)
        return TransferRequest(
            debit_account_id=self.debit_account_id,
            credit_account_id=self.credit_account_id,
            amount=amount,
            transfer_id=self.id,
            reference=self.reference,
            metadata=self.metadata or None,
        )


class TransferGroupBody(msgspec.Struct, forbid_unknown_fields=True):
    """Transfers that are done all or none, decided in order; credits of a group fund none of its
    debits.
    """

    transfers: Annotated[
        list[TransferBody], Meta(min_length=1, max_length=limits.GROUP_TRANSFERS_MAX)
    ]

    def to_requests(self) -> list[TransferRequest]:
        """Check every transfer; raises the first that is wrong, with its place."""
        requests = []
        ids: set[UUID] = set()
        for number, transfer in enumerate(self.transfers):
            try:
                request = transfer.to_request()
                if request.transfer_id in ids:
                    raise errors.InvalidValue("A group uses an id once.", pointer="/id")
            except errors.Rejected as error:
                pointer = f"/transfers/{number}{error.pointer or ''}"
                raise type(error)(error.detail, pointer=pointer, **error.members) from error
            if request.transfer_id is not None:
                ids.add(request.transfer_id)
            requests.append(request)
        return requests


class TransferView(msgspec.Struct, kw_only=True):
    """A transfer as it is now. `transfer_id` is also the id of its debit as a transaction."""

    transfer_id: str
    group_id: Annotated[str, Meta(description="The first transfer of its group; its own, alone")]
    debit_account_id: str
    credit_account_id: str
    credit_transaction_id: str
    amount: str
    currency: str
    status: str
    mode: Annotated[Mode, Meta(description="Who decided it; says nothing about what it is worth")]
    timestamp: str
    updated_at: str
    reference: str | None = None
    metadata: dict[str, str] | None = None
    hold_id: Annotated[
        UUID | UnsetType,
        Meta(description="The hold that it sets aside, captures or gives back, if it does"),
    ] = UNSET


class AcceptedTransferView(msgspec.Struct, kw_only=True):
    """An accepted transfer, as it was when it was accepted."""

    transfer_id: str
    group_id: str
    debit_account_id: str
    credit_account_id: str
    credit_transaction_id: str
    amount: str
    currency: str
    status: Literal["PENDING"] = "PENDING"
    mode: Mode
    timestamp: str
    reference: str | None = None
    metadata: dict[str, str] | None = None


class TransferAnswer(AcceptedTransferView, kw_only=True):
    """An accepted transfer that came alone."""

    success: Literal[True] = True
    message: str = MESSAGE_ACCEPTED


class TransferGroupAnswer(msgspec.Struct, kw_only=True):
    """An accepted group: all of its transfers, in the order they were asked for."""

    success: Literal[True] = True
    message: str = MESSAGE_ACCEPTED
    group_id: str
    transfers: list[AcceptedTransferView]


class TransferGroupView(msgspec.Struct, kw_only=True):
    """A group as it is now."""

    group_id: str
    transfers: list[TransferView]


def transfer_answer(group: TransferGroup) -> TransferAnswer:
    """Answer an accepted transfer; a replay gets the very same."""
    accepted = accepted_view(group, group.transfers[0])
    return TransferAnswer(**msgspec.structs.asdict(accepted))


def group_answer(group: TransferGroup) -> TransferGroupAnswer:
    """Answer an accepted group; a replay gets the very same."""
    transfers = [accepted_view(group, transfer) for transfer in group.transfers]
    return TransferGroupAnswer(group_id=str(group.group_id), transfers=transfers)


def accepted_view(group: TransferGroup, transfer: Transfer) -> AcceptedTransferView:
    """Show a transfer as it was accepted."""
    debit = transfer.debit
    return AcceptedTransferView(
        transfer_id=str(transfer.transfer_id),
        group_id=str(group.group_id),
        debit_account_id=debit.account.account_id,
        credit_account_id=transfer.credit.account.account_id,
        credit_transaction_id=str(transfer.credit.transaction_id),
        amount=debit.amount_text,
        currency=debit.account.currency,
        mode=debit.mode,
        timestamp=instant(debit.accepted_at),
        reference=debit.reference,
        metadata=ordered_metadata(debit.metadata),
    )


def transfer_view(group: TransferGroup, transfer: Transfer) -> TransferView:
    """Show a transfer as it is."""
    shown = msgspec.structs.asdict(accepted_view(group, transfer))
    shown["status"] = transfer.debit.status.value
    return TransferView(
        **shown,
        updated_at=instant(transfer.debit.updated_at),
        hold_id=UNSET if transfer.hold_id is None else transfer.hold_id,
    )


def group_view(group: TransferGroup) -> TransferGroupView:
    """Show a group as it is."""
    transfers = [transfer_view(group, transfer) for transfer in group.transfers]
    return TransferGroupView(group_id=str(group.group_id), transfers=transfers)
