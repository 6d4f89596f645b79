"""What every request passes on whichever way it comes in: its key, its scope, its caller's rate."""

from collections.abc import Mapping
from typing import NamedTuple

from app import errors
from app.errors import LedgerError
from app.security.key_ring import KeyRing
from app.security.model import ApiKey, Scope
from app.security.rate import RateLimit, caller_at

# Asked by what starts and stops the service, which has no key; they show nothing else.
_PROBES = frozenset(("/health/live", "/health/ready"))
# The API document is as public as the source it is made from.
_PUBLIC = frozenset(("schema", "schema-assets"))
# So are the dashboard's pages: what they show they ask for with a key.
_PAGES, _PAGE_PARTS = frozenset(("web", "accounts")), 2
_ADMIN = frozenset(("test",))
_OPERATOR_ACTS = frozenset((("api", "v1", "verify"),))
# What an operator needs most when PostgreSQL is away, and what shows no account.
_SHOWS_NO_ACCOUNT = frozenset(("health", "metrics"))
_READS = frozenset(("GET", "HEAD", "OPTIONS"))
_BEARER = b"bearer "
_CHALLENGE = 'Bearer realm="sub-balance"'


class Admitted(NamedTuple):
    """Who asks, if a key says so, and the headers that the answer gets."""

    key_id: str | None = None
    headers: Mapping[str, str] = {}


_ANYBODY = Admitted()


def needed_scope(method: str, path: str) -> Scope | None:
    """Say what scope a request needs; None when everybody may ask. Unknown paths need one too."""
    # As the router reads a path: without empty parts.
    parts = tuple(part for part in path.split("/") if part)
    first = parts[0] if parts else ""
    if first in _ADMIN or parts in _OPERATOR_ACTS:
        return Scope.ADMIN
    if path in _PROBES or first in _PUBLIC or (method in _READS and _is_page(parts)):
        return None
    return Scope.READ if method in _READS else Scope.WRITE


def _is_page(parts: tuple[str, ...]) -> bool:
    return not parts or (len(parts) == _PAGE_PARTS and parts[0] in _PAGES)


class Guard:
    """Admits requests or raises why not; one for all ways into a process."""

    def __init__(self, keys: KeyRing | None = None, rate: RateLimit | None = None) -> None:
        """Without keys everybody is admitted, without a rate at any."""
        self._keys = keys
        self._rate = rate
        self.is_on = keys is not None or rate is not None

    def admit(
        self, method: str, path: str, headers: Mapping[bytes, bytes], address: str | None
    ) -> Admitted:
        """Admit a request; `headers` have names in lower case, `address` is the client's.

        Raises `ApiKeyMissing`, `ApiKeyInvalid`, `ScopeInsufficient`, `RateLimited` or
        `KeysUnavailable`.
        """
        if path in _PROBES:
            return _ANYBODY
        key, refused = self._known(method, path, headers)
        told: dict[str, str] = {}
        if self._rate is not None:
            # Whoever has no key that works is counted where it is, so guessing is slow as well.
            who = f"key {key.key_id}" if key is not None else caller_at(address or "nowhere")
            quota = self._rate.take(who)
            told = {
                "RateLimit-Policy": self._rate.policy,
                "RateLimit": f'"default";r={quota.remaining};t={quota.full_in_s}',
            }
            if not quota.allowed:
                error = errors.RateLimited()
                error.headers = {**told, "Retry-After": str(quota.retry_after_s)}
                raise error
        if refused is not None:
            refused.headers = {**told, **refused.headers}
            raise refused
        return Admitted(key.key_id if key is not None else None, told)

    def still_admits(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> bool:
        """Tell whether the key of a request that was admitted before works now."""
        return self._known(method, path, headers)[1] is None

    def _known(
        self, method: str, path: str, headers: Mapping[bytes, bytes]
    ) -> tuple[ApiKey | None, LedgerError | None]:
        """Find the key of a request, and why it is refused, if it is."""
        needed = needed_scope(method, path) if self._keys is not None else None
        if self._keys is None or needed is None:
            return None, None
        if not self._keys.is_fresh() and path.split("/")[1] not in _SHOWS_NO_ACCOUNT:
            return None, errors.KeysUnavailable()
        token = _token_of(headers)
        if token is None:
            return None, _challenged(errors.ApiKeyMissing(), "")
        try:
            key = self._keys.find(token)
        except errors.ApiKeyInvalid as error:
            return None, _challenged(error, ', error="invalid_token"')
        if not key.scope.includes(needed):
            error_403 = errors.ScopeInsufficient(
                f"This needs a key of scope {needed}, and this key has scope {key.scope}."
            )
            return key, _challenged(error_403, f', error="insufficient_scope", scope="{needed}"')
        return key, None


def _challenged(error: LedgerError, more: str) -> LedgerError:
    error.headers = {"WWW-Authenticate": _CHALLENGE + more}
    return error


def _token_of(headers: Mapping[bytes, bytes]) -> bytes | None:
    """Read what a client sent as its key; a key in a header of its own goes first, for a proxy may
    have put something else into the other.
    """
    own = headers.get(b"x-api-key")
    if own is not None:
        return own
    sent = headers.get(b"authorization")
    if sent is None:
        return None
    return sent[len(_BEARER) :].strip() if sent[: len(_BEARER)].lower() == _BEARER else b""
