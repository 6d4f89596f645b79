"""Who rules: learns the epoch from PostgreSQL, opens one for a Redis that none was opened for.

PostgreSQL is the only arbiter. What this process remembers is a guess that the scripts and the
journal check again on every call; a wrong guess costs a round trip, never money.
"""

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from app import errors
from app.infra.postgres import ALL_POSTGRES_ERRORS
from app.infra.redis import REDIS_ERRORS, RedisIdentity, read_identity
from app.ledger.codes import Mode, Script
from app.ledger.keys import epoch_key
from app.ledger.store import QUERIES, SHARD

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from app.infra.postgres import Pool
    from app.infra.scripts import LuaScripts

PROTOCOL_VERSION = 1
_ROUNDS_MAX = 100
_TOKEN_POLLS_MAX = 20
_TOKEN_POLL_S = 0.05


class Ruling(NamedTuple):
    """An epoch, the life of Redis that decides in it, and the token that no other opening has."""

    epoch: int
    identity: RedisIdentity
    token: str

    @property
    def text(self) -> str:
        """What every script compares with the epoch's hash and with the server it runs on."""
        return f"{self.identity.run_id} {self.identity.replication_id} {self.token}"


class ModeKeeper:
    """What one process knows of the ruling epoch of its shard."""

    def __init__(self, pool: "Pool", redis: "Redis", scripts: "LuaScripts") -> None:
        """Know nothing yet; `settle_ruling` must run before anything is admitted."""
        self._pool = pool
        self._redis = redis
        self._scripts = scripts
        self._lock = asyncio.Lock()
        self._current: Ruling | None = None

    @property
    def current(self) -> Ruling:
        """The ruling as last learnt."""
        if self._current is None:
            raise errors.RedisUnavailable("No epoch is open yet.")
        return self._current

    @property
    def mode(self) -> Mode:
        """Who decides."""
        return Mode.REDIS

    @property
    def epoch(self) -> int:
        """The epoch as last learnt, 0 before any."""
        return self._current.epoch if self._current else 0

    @property
    def identity(self) -> RedisIdentity | None:
        """The Redis that decides, as last learnt."""
        return self._current.identity if self._current else None

    async def observe(self) -> Ruling | None:
        """Read who rules without opening anything; None when Redis does not."""
        state = await self._read_state()
        if state["mode"] != Mode.REDIS or not state["redis_run_id"]:
            return None
        return _ruling(state)

    async def settle_ruling(
        self, doubted_epoch: int | None = None, *, lost: bool = False
    ) -> Ruling:
        """Learn who rules, or open an epoch for the Redis that is there, one caller at a time.

        `doubted_epoch` is the epoch a call was fenced in; when another one has been learnt since,
        that is the answer. `lost` says Redis lost data inside that epoch, so it must end.
        Raises `RedisUnavailable`, `UnusableRedis`, `PostgresUnavailable`, `UnusableDatabase`.
        """
        async with self._lock:
            if self._current is not None and self._current.epoch != doubted_epoch:
                return self._current
            for _ in range(_ROUNDS_MAX):
                state = await self._read_state()
                identity = await self._read_identity()
                ended = lost and state["epoch"] == doubted_epoch
                if not ended and await self._rules(state, identity):
                    self._current = _ruling(state)
                    return self._current
                opened = await self._open(state["epoch"], identity, "lost" if ended else "found")
                if opened is not None:
                    self._current = opened
                    if await self._write_token(opened):
                        return opened
        raise errors.RedisUnavailable("No epoch could be opened; others keep opening their own.")

    async def _read_identity(self) -> RedisIdentity:
        """Ask Redis who it is; one that turned unusable while we run may turn back."""
        try:
            return await read_identity(self._redis)
        except errors.UnusableRedis as error:
            if self._current is None:
                raise
            raise errors.RedisUnavailable(error.detail) from error

    async def _read_state(self) -> Any:
        try:
            state = await self._pool.fetchrow(QUERIES["shard_state"], SHARD)
        except ALL_POSTGRES_ERRORS as exc:
            raise errors.PostgresUnavailable(f"PostgreSQL does not answer: {exc}") from exc
        if state is None or state["shard_count"] != 1:
            raise errors.UnusableDatabase("The database is laid out for another number of shards.")
        if state["protocol_version"] > PROTOCOL_VERSION:
            raise errors.UnusableDatabase("A newer version of the service rules this database.")
        return state

    async def _rules(self, state: Any, identity: RedisIdentity) -> bool:
        """Tell whether the recorded epoch was opened for this Redis and its token is there.

        The process that opened it a moment ago may be about to write the token: wait for that.
        """
        recorded = _ruling(state)
        if (
            state["mode"] != Mode.REDIS
            or recorded.identity != identity
            or not state["is_recorded_postgres"]
            or state["protocol_version"] != PROTOCOL_VERSION
        ):
            return False
        polls = _TOKEN_POLLS_MAX if state["is_fresh"] and recorded != self._current else 1
        for _ in range(polls):
            if await self._read_token(recorded.epoch) == recorded.text:
                return True
            await asyncio.sleep(_TOKEN_POLL_S)
        return False

    async def _open(self, expected: int, identity: RedisIdentity, reason: str) -> Ruling | None:
        token = uuid4().hex
        arguments = (SHARD, expected, Mode.REDIS, *identity, token, PROTOCOL_VERSION, reason)
        try:
            epoch: int | None = await self._pool.fetchval(QUERIES["open_epoch"], *arguments)
        except ALL_POSTGRES_ERRORS as exc:
            raise errors.PostgresUnavailable(f"PostgreSQL does not answer: {exc}") from exc
        return None if epoch is None else Ruling(epoch, identity, token)

    async def _write_token(self, ruling: Ruling) -> bool:
        """Write the token once; after a lost reply only look, for a second copy could revive it."""
        try:
            word = await self._scripts.call("open", [epoch_key(SHARD, ruling.epoch)], [ruling.text])
        except REDIS_ERRORS:
            return await self._read_token(ruling.epoch) == ruling.text
        return bool(word == Script.DONE)

    async def _read_token(self, epoch: int) -> str | None:
        try:
            token = await self._redis.hget(epoch_key(SHARD, epoch), "identity")
        except REDIS_ERRORS as exc:
            raise errors.RedisUnavailable(f"Redis does not answer: {exc}") from exc
        return None if token is None else str(token)


def _ruling(state: Any) -> Ruling:
    """Read the ruling out of a shard's row; before the first epoch it names no Redis."""
    identity = RedisIdentity(state["redis_run_id"] or "", state["redis_replication_id"] or "")
    return Ruling(state["epoch"], identity, state["redis_token"] or "")
