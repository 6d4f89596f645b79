"""The keys that work, in memory: what every request is compared with, and what keeps it fresh."""

import asyncio
import logging
import math
import time
from collections.abc import Coroutine, Iterable
from typing import Any

from app import errors, limits
from app.infra.postgres import listen_always
from app.security.model import ApiKey, read_token
from app.security.store import CHANNEL, KeyStore

_log = logging.getLogger(__name__)


class KeyRing:
    """Keys by id, as PostgreSQL had them at one instant."""

    def __init__(self) -> None:
        """Begin with no keys, which is different from having read that there are none."""
        self._keys: dict[str, ApiKey] = {}
        self._read_at_s = -math.inf

    def replace(self, keys: Iterable[ApiKey], read_at_s: float) -> None:
        """Take what was read; `read_at_s` is monotonic, from before the reading."""
        self._keys = {key.key_id: key for key in keys}
        self._read_at_s = read_at_s

    def is_fresh(self) -> bool:
        """Tell whether a revocation from longer ago than the bound would be known."""
        return time.monotonic() - self._read_at_s <= limits.KEYS_STALE_S

    def find(self, token: bytes) -> ApiKey:
        """Return the key that a token is of; `ApiKeyInvalid` when there is none that works."""
        parts = read_token(token)
        key = self._keys.get(parts[0]) if parts is not None else None
        if parts is None or key is None or not key.fits(parts[1]):
            raise errors.ApiKeyInvalid
        if key.expires_at is not None and key.expires_at.timestamp() <= time.time():
            raise errors.ApiKeyInvalid
        return key


class KeyWatch:
    """Keeps a ring fresh: reads all keys every few seconds, and when told that one changed."""

    def __init__(self, store: KeyStore, ring: KeyRing) -> None:
        """Read from a store into a ring."""
        self._store = store
        self._ring = ring
        self._changed = asyncio.Event()

    def wake(self) -> None:
        """Read now: a key was made or revoked."""
        self._changed.set()

    async def read(self) -> None:
        """Read all keys once; raises `PostgresUnavailable`."""
        began_s = time.monotonic()
        self._ring.replace(await self._store.live_keys(), began_s)

    async def loops(self, url: str, timeout_ms: int) -> tuple[Coroutine[Any, Any, None], ...]:
        """Read once and return what has to run from then on: the reading, and what wakes it.

        `url` is past any transaction pooler. Raises `PostgresUnavailable`.
        """
        await self.read()
        return self.read_always(), listen_always(url, CHANNEL, self.wake, timeout_ms)

    async def read_always(self) -> None:
        """Read again and again; never returns."""
        while True:
            try:
                await self.read()
            except errors.PostgresUnavailable as error:
                _log.debug("API keys not read for now: %s", error.detail)
            except Exception:
                _log.exception("reading the API keys failed")
            try:
                async with asyncio.timeout(limits.KEYS_READ_EVERY_S):
                    await self._changed.wait()
            except TimeoutError:
                continue
            self._changed.clear()
