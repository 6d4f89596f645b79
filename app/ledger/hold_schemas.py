"""The wire of holds."""

from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from app import errors, limits
from app.kit.money import decimal_text, parse_amount
from app.ledger.codes import HoldStatus, Mode
from app.ledger.holds import CaptureRequest, Hold, HoldRequest
from app.ledger.model import check_customer_account_id
from app.ledger.schemas import Amount, check_said, instant, ordered_metadata


class HoldBody(msgspec.Struct, forbid_unknown_fields=True):
    """An amount to set aside on an account."""

    account_id: Annotated[str, Meta(examples=["ACC001"])]
    amount: Amount
    expires_in_s: Annotated[
        Annotated[int, Meta(ge=1, le=limits.HOLD_SECONDS_MAX)] | None,
        Meta(description="Seconds until it is given back by itself; without, it stays until ended"),
    ] = None
    credit_account_id: Annotated[
        str | None,
        Meta(description="Who gets what is captured; without, it leaves to the external account"),
    ] = None
    id: Annotated[
        UUID | None, Meta(description="Your own id for this hold, any UUID but version 8")
    ] = None
    reference: Annotated[str | None, Meta(description="At most 140 characters")] = None
    metadata: Annotated[dict[str, str] | None, Meta(description="At most 16 entries of text")] = (
        None
    )

    def to_request(self) -> HoldRequest:
        """Check everything that needs no account; raises one error for each way to be wrong."""
        check_customer_account_id(self.account_id)
        if self.credit_account_id is not None:
            check_customer_account_id(self.credit_account_id, "/credit_account_id")
            if self.credit_account_id == self.account_id:
                raise errors.SameAccount(pointer="/credit_account_id")
        amount = parse_amount(self.amount)
        check_said(self.id, self.reference, self.metadata)
        return HoldRequest(
            account_id=self.account_id,
            amount=amount,
            hold_id=self.id,
            credit_account_id=self.credit_account_id,
            expires_in_s=self.expires_in_s,
            reference=self.reference,
            metadata=self.metadata or None,
        )


class CaptureBody(msgspec.Struct, forbid_unknown_fields=True):
    """What to capture: all that is left, or an amount, as often as it takes."""

    amount: Annotated[
        str | int | None,
        Meta(description="Decimal string in major units, or an integer; without, all that is left"),
    ] = None
    final: Annotated[
        bool | None,
        Meta(description="End the hold and release what is left; `true` where no amount is given"),
    ] = None

    def to_request(self) -> CaptureRequest:
        """Check everything that needs no hold."""
        amount = None if self.amount is None else parse_amount(self.amount)
        if amount is None and self.final is False:
            raise errors.InvalidValue("All that is left ends the hold.", pointer="/final")
        return CaptureRequest(amount=amount, final=self.final)


class ReleaseBody(msgspec.Struct, forbid_unknown_fields=True):
    """Nothing is asked but that it is done."""


class HoldView(msgspec.Struct, kw_only=True):
    """A hold. `hold_id` is also the id of the debit that set its money aside."""

    hold_id: str
    account_id: str
    credit_account_id: str | None
    amount: str
    captured: str
    released: str
    remaining: str
    currency: str
    status: HoldStatus
    version: int
    expires_at: str | None
    mode: Annotated[Mode, Meta(description="Who decided last; says nothing about what it is worth")]
    timestamp: str
    updated_at: str
    reference: str | None = None
    metadata: dict[str, str] | None = None


class HoldsAnswer(msgspec.Struct, kw_only=True):
    """A page of an account's holds, in the order they were placed."""

    holds: list[HoldView]
    next_cursor: str | None = None


def hold_view(hold: Hold) -> HoldView:
    """Show a hold."""
    exponent = hold.account.exponent
    return HoldView(
        hold_id=str(hold.hold_id),
        account_id=hold.account.account_id,
        credit_account_id=None if hold.credit_account is None else hold.credit_account.account_id,
        amount=decimal_text(hold.amount_minor, exponent),
        captured=decimal_text(hold.captured_minor, exponent),
        released=decimal_text(hold.released_minor, exponent),
        remaining=decimal_text(hold.remaining_minor, exponent),
        currency=hold.account.currency,
        status=hold.status,
        version=hold.version,
        expires_at=None if hold.expires_at is None else instant(hold.expires_at),
        mode=hold.mode,
        timestamp=instant(hold.created_at),
        updated_at=instant(hold.updated_at),
        reference=hold.reference,
        metadata=ordered_metadata(hold.metadata),
    )
