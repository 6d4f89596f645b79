"""The error tree: four closed families, one class for each stable `code`.

    LedgerError
    ├── Rejected            4xx: decided, nothing changed; not retried by us, opens no breaker
    ├── Unavailable         429/503: nothing changed, the same request may succeed later
    ├── OutcomeUnknown      503: may or may not have been applied; a retry with the same key tells
    └── InvariantViolation  500: the ledger contradicts itself; stop and page a person

A class's name in snake_case is its `code`; its docstring is the default message.
"""

import re
from typing import Any, ClassVar

_WORD_START = re.compile(r"(?<!^)(?=[A-Z])")


class LedgerError(Exception):
    """An error this service raises on purpose."""

    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    retry_after_s: ClassVar[int] = 1
    code: ClassVar[str] = "ledger_error"

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


# The shape of a request.


class MalformedJson(Rejected):
    """The body is not valid JSON."""

    status = 400


class UnknownField(Rejected):
    """The body has a field that this operation does not know."""

    status = 400


class WrongType(Rejected):
    """A field has the wrong JSON type."""

    status = 400


class MissingField(Rejected):
    """A required field is missing."""

    status = 400


class InvalidValue(Rejected):
    """A field has a value outside what it may be."""

    status = 400


class InvalidParameter(Rejected):
    """A query or path parameter is malformed."""

    status = 400


class InvalidCursor(Rejected):
    """The cursor was not issued by this service for this list."""

    status = 400


class InvalidIdempotencyKey(Rejected):
    """The Idempotency-Key is empty, too long, or holds other than visible ASCII characters."""

    status = 400


class IdempotencyKeyRequired(Rejected):
    """This service is set to require an Idempotency-Key or an id on every transaction."""

    status = 400


class BodyTooLarge(Rejected):
    """The body is larger than this operation accepts."""

    status = 413


class BodyTimeout(Rejected):
    """The body did not arrive in time; nothing changed."""

    status = 408
    retryable = True


class UnsupportedMediaType(Rejected):
    """The body must be sent as application/json."""

    status = 415


class MethodNotAllowed(Rejected):
    """This path does not answer to this method."""

    status = 405


class NotFound(Rejected):
    """There is nothing at this path."""

    status = 404


# Account ids and amounts.


class AccountIdEmpty(Rejected):
    """The account id is empty."""

    status = 400


class AccountIdTooLong(Rejected):
    """The account id is longer than 50 characters."""

    status = 400


class AccountIdMalformed(Rejected):
    """An account id is ASCII letters, digits, '_', '-', '.' and ':', a letter or digit first."""

    status = 400


class AmountFloat(Rejected):
    """An amount is a decimal string or an integer, never a JSON float."""

    status = 400


class AmountNotANumber(Rejected):
    """The amount is not a decimal number."""

    status = 400


class AmountExponent(Rejected):
    """An amount may not use exponent notation."""

    status = 400


class AmountZero(Rejected):
    """The amount must be greater than zero."""

    status = 400


class AmountNegative(Rejected):
    """The amount must be positive; the type says which way it moves."""

    status = 400


class AmountTooPrecise(Rejected):
    """The amount has more decimals than its currency has."""

    status = 400


class AmountTooLarge(Rejected):
    """The amount is above the largest one a transaction may move."""

    status = 400


class UnknownCurrency(Rejected):
    """The currency is not an ISO 4217 code of a currency with minor units."""

    status = 400


# Decisions.


class AccountNotFound(Rejected):
    """There is no such account."""

    status = 404


class AccountExists(Rejected):
    """An account with this id exists with other attributes."""

    status = 409


class SameAccount(Rejected):
    """A transfer needs two different accounts."""

    status = 400


class CurrencyMismatch(Rejected):
    """The accounts of a transfer must have the same currency."""


class TransferNotFound(Rejected):
    """There is no such transfer."""

    status = 404


class HoldNotFound(Rejected):
    """There is no such hold."""

    status = 404


class HoldEnded(Rejected):
    """The hold was captured, released or has expired; nothing is held any more."""


class HoldExceeded(Rejected):
    """The amount is more than what is held still."""


class HoldChanged(Rejected):
    """The hold was changed at the same time, again and again; nothing changed by this request."""

    status = 409
    retryable = True


class AccountReserved(Rejected):
    """External and holding accounts move only as the other side of something else."""


class AccountFrozen(Rejected):
    """The account is frozen for transactions of this type."""


class AccountClosed(Rejected):
    """The account is closed, which is final."""


class AccountNotEmpty(Rejected):
    """An account can be closed only when its settled and pending amounts sum to zero."""


class LimitInUse(Rejected):
    """The account's balance needs more credit than this limit would leave."""


class PreconditionFailed(Rejected):
    """The account was changed since the ETag that If-Match names."""

    status = 412


class TransactionNotFound(Rejected):
    """There is no such transaction."""

    status = 404


class InsufficientAvailable(Rejected):
    """The account's available balance is smaller than the amount."""


class BalanceLimitExceeded(Rejected):
    """The credit would take the account above the largest balance it may hold."""


class IdempotencyKeyReused(Rejected):
    """This key or id was used before for a different request."""


class IdempotencyIdentityConflict(Rejected):
    """The id and the Idempotency-Key belong to two different requests."""


class AtomicRequestRefused(Rejected):
    """Nothing of the request was done, for some of it was refused; `results` say what and why."""


class OthersRefused(Rejected):
    """Not done because another transaction of the same atomic request was refused."""


class RequestInFlight(Rejected):
    """The same request is still being decided; retry to get its answer."""

    status = 409
    retryable = True


# What may pass.


class Overloaded(Unavailable):
    """Too many requests are waiting; nothing changed."""


class RedisUnavailable(Unavailable):
    """Redis does not answer or is fenced off; nothing changed."""


class LedgerClosed(Unavailable):
    """An operator has made the ledger read-only for now; nothing changed."""

    retry_after_s = 30


class AccountBusy(Unavailable):
    """The account is being changed, or what is under way on it takes too long; nothing changed."""


class Starting(Unavailable):
    """This instance is starting; it waits for PostgreSQL."""


class PostgresUnavailable(Unavailable):
    """PostgreSQL does not answer; nothing changed."""


class Stopping(Unavailable):
    """This instance is stopping; nothing changed."""


class DeadlinePassed(Unavailable):
    """The request waited longer than its deadline; nothing changed."""


class JournalOutcomeUnknown(OutcomeUnknown):
    """The journal did not answer in time; retry with the same key to learn the outcome."""


class ChangeOutcomeUnknown(OutcomeUnknown):
    """It is not known whether the account was changed; read it, or send the change again."""


class InternalError(InvariantViolation):
    """An unexpected error; it has been logged."""


class UnusableRedis(LedgerError):
    """This Redis cannot be fenced and is not used."""


class UnusableDatabase(LedgerError):
    """This database does not fit this version of the service."""


class InvalidSettings(LedgerError):
    """The environment holds a setting that makes no sense."""


def require(condition: bool, message: str) -> None:
    """Raise `InvariantViolation` unless a money invariant holds (never stripped, unlike assert)."""
    if not condition:
        raise InvariantViolation(message)
