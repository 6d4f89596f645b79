"""What every error has, and the four families; see `app/errors/__init__.py`."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

_WORD_START = re.compile(r"(?<!^)(?=[A-Z])")


class LedgerError(Exception):
    """An error this service raises on purpose."""

    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    retry_after_s: ClassVar[int] = 1
    code: ClassVar[str] = "ledger_error"
    # What an answer that tells of it carries beside the problem.
    headers: Mapping[str, str] = MappingProxyType({})

    def __init_subclass__(cls) -> None:
        cls.code = _WORD_START.sub("_", cls.__name__).lower()

    def __init__(
        self, detail: str | None = None, *, pointer: str | None = None, **members: Any
    ) -> None:
        """Keep the message, the JSON pointer of the field at fault and further problem members."""
        self.detail = detail or (type(self).__doc__ or self.code).splitlines()[0]
        self.pointer = pointer
        self.members = members
        super().__init__(self.detail)


class Rejected(LedgerError):
    """The request was refused and nothing changed."""

    status = 422


class Unavailable(LedgerError):
    """The service cannot decide at the moment; nothing changed."""

    status = 503
    retryable = True


class OutcomeUnknown(LedgerError):
    """The outcome could not be found out in time; retry with the same key to learn it."""

    status = 503
    retryable = True
    retry_after_s = 2


class InvariantViolation(LedgerError):
    """The ledger contradicts itself; this needs a person."""
