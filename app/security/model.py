"""API keys and scopes as frozen values: how a key is made, read and compared. No I/O."""

import hashlib
import hmac
import re
import secrets
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

import msgspec

_ID_BYTES = 6
_SECRET_BYTES = 32
_TOKEN = re.compile(rb"sb_([0-9a-f]{12})_([0-9a-f]{64})")


class Scope(StrEnum):
    """What a key may do; each includes the ones before it."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"

    def includes(self, needed: "Scope") -> bool:
        """Tell whether a key of this scope may do what needs another."""
        return _RANKS[self] >= _RANKS[needed]


_RANKS = {Scope.READ: 0, Scope.WRITE: 1, Scope.ADMIN: 2}


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it is kept: the hash of its secret, never the secret."""

    key_id: str
    name: str
    scope: Scope
    secret_sha256: bytes
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def __repr__(self) -> str:
        return f"ApiKey({self.key_id}, {self.name!r}, {self.scope})"

    def fits(self, secret: bytes) -> bool:
        """Compare a secret with the kept hash, in a time that tells nothing about either."""
        return hmac.compare_digest(self.secret_sha256, sha256_of(secret))


class NewKey(NamedTuple):
    """A key that was just drawn; `token` is shown once and kept nowhere."""

    key_id: str
    token: str
    secret_sha256: bytes


def draw_key() -> NewKey:
    """Draw an id and a secret of 256 random bits."""
    key_id, secret = secrets.token_hex(_ID_BYTES), secrets.token_hex(_SECRET_BYTES)
    return NewKey(key_id, f"sb_{key_id}_{secret}", sha256_of(secret.encode()))


def sha256_of(secret: bytes) -> bytes:
    """Hash a secret; it is random, so a slow hash would keep nobody from guessing it."""
    return hashlib.sha256(secret).digest()


def read_token(token: bytes) -> tuple[str, bytes] | None:
    """Take a token apart into the key's id and its secret; None when it has not that form."""
    match = _TOKEN.fullmatch(token)
    return None if match is None else (match[1].decode(), match[2])
