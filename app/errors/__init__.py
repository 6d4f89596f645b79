"""The error tree: four closed families, one class for each stable `code`.

    LedgerError
    ├── Rejected            4xx: decided, nothing changed; not retried by us, opens no breaker
    ├── Unavailable         429/503: nothing changed, the same request may succeed later
    ├── OutcomeUnknown      503: may or may not have been applied; a retry with the same key tells
    └── InvariantViolation  500: the ledger contradicts itself; stop and page a person

A class's name in snake_case is its `code`; its docstring is the default message.
"""

from app.errors.access import (
    ApiKeyInvalid as ApiKeyInvalid,
)
from app.errors.access import (
    ApiKeyMissing as ApiKeyMissing,
)
from app.errors.access import (
    HeadersTooLarge as HeadersTooLarge,
)
from app.errors.access import (
    HeadTimeout as HeadTimeout,
)
from app.errors.access import (
    KeysUnavailable as KeysUnavailable,
)
from app.errors.access import (
    MalformedHttp as MalformedHttp,
)
from app.errors.access import (
    PipelineTooDeep as PipelineTooDeep,
)
from app.errors.access import (
    RateLimited as RateLimited,
)
from app.errors.access import (
    RequestTargetTooLong as RequestTargetTooLong,
)
from app.errors.access import (
    ScopeInsufficient as ScopeInsufficient,
)
from app.errors.access import (
    TooManyConnections as TooManyConnections,
)
from app.errors.access import (
    TooManyKeys as TooManyKeys,
)
from app.errors.base import (
    InvariantViolation as InvariantViolation,
)
from app.errors.base import (
    LedgerError as LedgerError,
)
from app.errors.base import (
    OutcomeUnknown as OutcomeUnknown,
)
from app.errors.base import (
    Rejected as Rejected,
)
from app.errors.base import (
    Unavailable as Unavailable,
)
from app.errors.form import (
    AccountIdEmpty as AccountIdEmpty,
)
from app.errors.form import (
    AccountIdMalformed as AccountIdMalformed,
)
from app.errors.form import (
    AccountIdTooLong as AccountIdTooLong,
)
from app.errors.form import (
    AmountExponent as AmountExponent,
)
from app.errors.form import (
    AmountFloat as AmountFloat,
)
from app.errors.form import (
    AmountNegative as AmountNegative,
)
from app.errors.form import (
    AmountNotANumber as AmountNotANumber,
)
from app.errors.form import (
    AmountTooLarge as AmountTooLarge,
)
from app.errors.form import (
    AmountTooPrecise as AmountTooPrecise,
)
from app.errors.form import (
    AmountZero as AmountZero,
)
from app.errors.form import (
    BodyIncomplete as BodyIncomplete,
)
from app.errors.form import (
    BodyTimeout as BodyTimeout,
)
from app.errors.form import (
    BodyTooLarge as BodyTooLarge,
)
from app.errors.form import (
    IdempotencyKeyRequired as IdempotencyKeyRequired,
)
from app.errors.form import (
    InvalidCursor as InvalidCursor,
)
from app.errors.form import (
    InvalidIdempotencyKey as InvalidIdempotencyKey,
)
from app.errors.form import (
    InvalidParameter as InvalidParameter,
)
from app.errors.form import (
    InvalidValue as InvalidValue,
)
from app.errors.form import (
    MalformedJson as MalformedJson,
)
from app.errors.form import (
    MethodNotAllowed as MethodNotAllowed,
)
from app.errors.form import (
    MissingField as MissingField,
)
from app.errors.form import (
    NotFound as NotFound,
)
from app.errors.form import (
    UnknownCurrency as UnknownCurrency,
)
from app.errors.form import (
    UnknownField as UnknownField,
)
from app.errors.form import (
    UnsupportedMediaType as UnsupportedMediaType,
)
from app.errors.form import (
    WrongType as WrongType,
)

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
    """An account can be closed only when it has nothing, settled, pending or held."""


class LimitInUse(Rejected):
    """The account's balance needs more credit than this limit would leave."""


class PreconditionFailed(Rejected):
    """The account was changed since the ETag that If-Match names."""

    status = 412


class InstantInFuture(Rejected):
    """The instant lies in the future; nothing is known of it yet."""


class HistoryDetached(Rejected):
    """What was booked before the instant `from` is not kept here any more."""

    status = 410


class TransactionNotFound(Rejected):
    """There is no such transaction."""

    status = 404


class KeyOfMany(Rejected):
    """The key names a request of many transactions; the same request again tells of each."""


class InsufficientAvailable(Rejected):
    """The account's available balance is smaller than the amount."""


class VersionMismatch(Rejected):
    """The account's version is not the one that was expected."""

    status = 409


class AvailableBelowExpected(Rejected):
    """Less is available than was expected."""

    status = 409


class AlreadyReversed(Rejected):
    """The transaction was reversed before, and that is done once."""

    status = 409


class NotReversible(Rejected):
    """The transaction cannot be reversed by itself."""

    status = 409


class BalanceLimitExceeded(Rejected):
    """The credit would take the account above the largest balance it may hold."""


class IdempotencyKeyReused(Rejected):
    """This key or id was used before for a different request."""


class IdempotencyIdentityConflict(Rejected):
    """The names of this request, its key, its id or what it reverses, are not those of one."""


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


class InstanceOutdated(Unavailable):
    """A newer version of the service rules; this instance decides no more and is to be replaced."""


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


class DetachmentRefused(Rejected):
    """Months of the journal may not be detached now; nothing changed."""

    status = 409


class InvalidSettings(LedgerError):
    """The environment holds a setting that makes no sense."""


def require(condition: bool, message: str) -> None:
    """Raise `InvariantViolation` unless a money invariant holds (never stripped, unlike assert)."""
    if not condition:
        raise InvariantViolation(message)
