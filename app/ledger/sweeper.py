"""Removes what ended epochs left in Redis, a little at a time."""

from typing import TYPE_CHECKING

from app import errors, limits
from app.infra.redis import REDIS_ERRORS
from app.ledger.keys import PREFIX, epoch_of
from app.ledger.mode import ModeKeeper
from app.ledger.store import SHARD

if TYPE_CHECKING:
    from redis.asyncio import Redis


class Sweeper:
    """Walks over the keys once for each new epoch."""

    def __init__(self, mode: ModeKeeper, redis: "Redis") -> None:
        """Put the parts together; does no I/O."""
        self._mode = mode
        self._redis = redis
        self._epoch = 0
        self._cursor = 0
        self._done = False

    async def step(self) -> int:
        """Look at some keys and remove those of epochs before the recorded one; returns how many.

        Epochs only grow, so such a key is never used again. Raises `RedisUnavailable` or
        `PostgresUnavailable`.
        """
        epoch = (await self._mode.read_state())["epoch"]
        if epoch != self._epoch:
            self._epoch, self._cursor, self._done = epoch, 0, False
        if self._done:
            return 0
        try:
            self._cursor, keys = await self._redis.scan(
                self._cursor, match=f"{PREFIX}:{{{SHARD}}}:*", count=limits.SWEEP_KEYS_MAX
            )
            old = [key for key in keys if (epoch_of(str(key)) or epoch) < epoch]
            removed = int(await self._redis.unlink(*old)) if old else 0
        except REDIS_ERRORS as exc:
            raise errors.RedisUnavailable(f"Redis does not answer: {exc}") from exc
        self._done = self._cursor == 0
        return removed
