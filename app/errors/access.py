"""Refusals for who asks and how, before anything is known of what."""

from app.errors.base import LedgerError, Rejected, Unavailable

# Who asks.


class ApiKeyMissing(Rejected):
    """This needs an API key: Authorization: Bearer sb_..., or X-API-Key."""

    status = 401


class ApiKeyInvalid(Rejected):
    """There is no such API key, or it was revoked or has expired."""

    status = 401


class ScopeInsufficient(Rejected):
    """The API key's scope does not include this."""

    status = 403


class RateLimited(Unavailable):
    """Too many requests of this caller; nothing changed."""

    status = 429


class KeysUnavailable(Unavailable):
    """The API keys could not be read for too long, so none is trusted; nothing changed."""


class TooManyKeys(LedgerError):
    """There are as many API keys as may be; revoke one first."""


# How it is asked.


class MalformedHttp(Rejected):
    """This is not an HTTP request."""

    status = 400


class HeadTimeout(Rejected):
    """The head of the request did not arrive in time; nothing changed."""

    status = 408
    retryable = True


class RequestTargetTooLong(Rejected):
    """The path and query are longer than this service reads."""

    status = 414


class HeadersTooLarge(Rejected):
    """The headers are more or larger than this service reads."""

    status = 431


class PipelineTooDeep(Rejected):
    """More requests are waiting on this connection than may; nothing of this one was done."""

    status = 400


class TooManyConnections(Unavailable):
    """This instance has as many connections as it may; nothing changed."""
