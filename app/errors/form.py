"""Refusals for a request's form, which need no look at the ledger."""

from app.errors.base import Rejected

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


class BodyIncomplete(Rejected):
    """The connection ended before the body did; nothing changed."""

    status = 400
    retryable = True


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
