"""What PostgreSQL is asked about API keys."""

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import asyncpg

from app import errors, limits
from app.infra.postgres import POSTGRES_ERRORS
from app.infra.queries import load_queries
from app.security.model import ApiKey, NewKey, Scope

if TYPE_CHECKING:
    from app.infra.postgres import Pool

QUERIES = {name: query.sql for name, query in load_queries("security").items()}
CHANNEL = "api_keys"
_SHARD = 0


class KeyStore:
    """Reads and acts of one PostgreSQL pool; each method is one statement."""

    def __init__(self, pool: "Pool", timeout_ms: int) -> None:
        """Use a pool; no call waits longer than the time-out for a connection."""
        self._pool = pool
        self._timeout_s = timeout_ms / 1_000

    async def live_keys(self) -> list[ApiKey]:
        """Read every key that works."""
        return [_key_of(row) for row in await self._fetch("live_keys", limits.API_KEYS_MAX)]

    async def all_keys(self) -> list[ApiKey]:
        """Read keys for an operator, the newest first, those that work no more included."""
        return [_key_of(row) for row in await self._fetch("all_keys", limits.API_KEYS_MAX)]

    async def create(
        self,
        key: NewKey,
        name: str,
        scope: Scope,
        lifetime: timedelta | None,
        actor: str,
        reason: str,
    ) -> None:
        """Keep a new key's hash; `TooManyKeys` when there is no room for another."""
        (row,) = await self._fetch(
            "create_key",
            _SHARD,
            key.key_id,
            name,
            scope.value,
            key.secret_sha256,
            lifetime,
            limits.API_KEYS_MAX,
            actor,
            reason,
        )
        if not row["created"]:
            raise errors.TooManyKeys

    async def revoke(self, key_id: str, actor: str, reason: str) -> bool:
        """End a key; false when no key worked under this id."""
        (row,) = await self._fetch("revoke_key", _SHARD, key_id, actor, reason)
        return bool(row["revoked"])

    async def _fetch(self, name: str, *arguments: Any) -> Sequence[Any]:
        try:
            async with self._pool.acquire(timeout=self._timeout_s) as connection:
                rows: Sequence[Any] = await connection.fetch(QUERIES[name], *arguments)
                return rows
        except POSTGRES_ERRORS as exc:
            raise errors.PostgresUnavailable(f"PostgreSQL does not answer: {exc}") from exc
        except asyncpg.PostgresError as exc:
            raise errors.InvariantViolation(f"PostgreSQL refuses a statement: {exc}") from exc


def _key_of(row: Any) -> ApiKey:
    return ApiKey(
        key_id=row["key_id"],
        name=row["name"],
        scope=Scope(row["scope"]),
        secret_sha256=row["secret_sha256"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
    )
