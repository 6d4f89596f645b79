"""The error tree: the service's four families, told by what a caller may do next.

    LedgerError
    ├── Rejected                    decided, nothing changed; the same again is refused again
    │   ├── InsufficientAvailable   `available` and `requested` say how much is missing
    │   └── NotFound                no such account, transaction, transfer or hold
    ├── Unavailable                 nothing changed; the same may succeed later
    ├── OutcomeUnknown              it may have been done: look `idempotency_key` up, or repeat it
    └── InvariantViolation          the service found itself in the wrong; a person has to look

`code` is the service's stable word, `members` are what the problem says beyond the usual.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

# What a refusal was decided by, as far as it tells.
_FIGURES = ("requested", "available", "balance", "hold_status")


class LedgerError(Exception):
    """A call that did not succeed."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        http_status: int | None = None,
        pointer: str | None = None,
        members: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        attempts: int = 1,
        earlier_unclear: bool = False,
    ) -> None:
        """Keep what the service said, and under which key in how many attempts it was asked.

        With `earlier_unclear` an attempt before the last one had no clear answer: a copy of it that
        is still on its way may be decided after this error.
        """
        self.code = code
        self.detail = detail
        self.http_status = http_status
        self.pointer = pointer
        self.members = dict(members or {})
        self.idempotency_key = idempotency_key
        self.attempts = attempts
        self.earlier_unclear = earlier_unclear
        super().__init__(detail)

    @property
    def request_id(self) -> str | None:
        """The service's name for the request, to be found in its log."""
        found = self.members.get("request_id")
        return found if isinstance(found, str) else None

    def __str__(self) -> str:
        told = [f"{self.code}: {self.detail}"]
        if self.pointer:
            told.append(f"at {self.pointer}")
        told += [f"{name} {self.members[name]}" for name in _FIGURES if name in self.members]
        if self.attempts > 1:
            told.append(f"after {self.attempts} attempts")
        if self.idempotency_key is not None:
            told.append(f"idempotency key {self.idempotency_key}")
        return ", ".join(told)


class Rejected(LedgerError):
    """The request was refused and nothing changed."""


class InsufficientAvailable(Rejected):
    """The account's available balance is smaller than the amount."""

    @property
    def available(self) -> Decimal | None:
        """What was available when it was decided."""
        return _decimal(self.members.get("available"))

    @property
    def requested(self) -> Decimal | None:
        """What was asked for."""
        return _decimal(self.members.get("requested"))


class NotFound(Rejected):
    """There is nothing of this name."""


class Unavailable(LedgerError):
    """The service could not decide; nothing changed."""


class OutcomeUnknown(LedgerError):
    """It is not known whether the request was done; sending it again under its key tells."""


class InvariantViolation(LedgerError):
    """The service contradicts itself; it does not say whether the request was done."""


def _decimal(text: object) -> Decimal | None:
    return Decimal(text) if isinstance(text, str) else None
