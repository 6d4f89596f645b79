"""Frozen values of holds, and their rules that need no I/O."""

from datetime import datetime
from uuid import UUID

import msgspec

from app import errors
from app.kit.money import DecimalText, decimal_text
from app.ledger.codes import HoldKind, HoldStatus, Mode
from app.ledger.model import HOLDING_PREFIX, Account


class HoldRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A checked wish to hold an amount; without `expires_in_s` it is held until it is ended."""

    account_id: str
    amount: DecimalText
    hold_id: UUID | None = None
    credit_account_id: str | None = None
    expires_in_s: int | None = None
    reference: str | None = None
    metadata: dict[str, str] | None = None


class CaptureRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A checked wish to capture; without an amount all that is left. What a final capture leaves
    is released.
    """

    amount: DecimalText | None = None
    final: bool | None = None

    @property
    def is_final(self) -> bool:
        """Tell whether the hold ends with it: unless an amount is given, or if it says so."""
        return self.amount is None if self.final is None else self.final


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """A hold at one of its versions; amounts in minor units, instants aware and UTC.

    `is_due` tells whether its time was up when it was read.
    """

    hold_id: UUID
    account: Account
    credit_account: Account | None
    amount_minor: int
    captured_minor: int = 0
    released_minor: int = 0
    status: HoldStatus = HoldStatus.HELD
    version: int = 1
    expires_at: datetime | None
    created_at: datetime
    updated_at: datetime
    mode: Mode
    reference: str | None = None
    metadata: dict[str, str] | None = None
    is_due: bool = False

    @property
    def remaining_minor(self) -> int:
        """What is held still."""
        return self.amount_minor - self.captured_minor - self.released_minor

    def after(
        self, kind: HoldKind, captured_minor: int, released_minor: int, at: datetime, mode: Mode
    ) -> "Hold":
        """What an act makes of it, as `apply_holds_v1` says."""
        ended = {
            HoldKind.CAPTURE: HoldStatus.CAPTURED,
            HoldKind.RELEASE: HoldStatus.RELEASED,
            HoldKind.EXPIRE: HoldStatus.EXPIRED,
        }
        left = self.remaining_minor - captured_minor - released_minor
        return msgspec.structs.replace(
            self,
            captured_minor=self.captured_minor + captured_minor,
            released_minor=self.released_minor + released_minor,
            status=HoldStatus.HELD if left else ended[kind],
            version=self.version + 1,
            updated_at=at,
            mode=mode,
        )

    def require_open(self) -> None:
        """Refuse what can only be done to a hold that is open."""
        if self.status is not HoldStatus.HELD:
            raise errors.HoldEnded(hold_status=self.status.value)

    def to_capture(self, asked_minor: int | None, *, final: bool) -> tuple[int, int]:
        """What a capture takes and what it gives back; raises `HoldEnded` or `HoldExceeded`."""
        self.require_open()
        if self.is_due:
            detail = "The hold's time is up; what is left of it is about to be given back."
            raise errors.HoldEnded(detail, hold_status=self.status.value)
        left = self.remaining_minor
        captured = left if asked_minor is None else asked_minor
        if captured > left:
            exponent = self.account.exponent
            raise errors.HoldExceeded(
                pointer="/amount",
                requested=decimal_text(captured, exponent),
                available=decimal_text(left, exponent),
            )
        return captured, left - captured if final else 0


class DoneAct(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of an act: what was asked, and the hold as it left it."""

    kind: HoldKind
    asked: str
    hold: Hold
    attempt_id: int


class HoldAcceptance(msgspec.Struct, frozen=True):
    """The answer to an accepted act; `replayed` when an earlier sending was accepted."""

    hold: Hold
    replayed: bool


def holding_account_id(currency: str) -> str:
    """Name the account that has what is held in a currency."""
    return f"{HOLDING_PREFIX}{currency}"
