"""Who rules: learns the epoch from PostgreSQL, and opens the next one when a part fails or changes.

PostgreSQL is the only arbiter. What this process remembers is a guess that the scripts and the
journal check again on every call; a wrong guess costs a round trip, never money.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from app import errors
from app.infra.postgres import ALL_POSTGRES_ERRORS
from app.infra.redis import REDIS_ERRORS, RedisIdentity, read_identity
from app.infra.resilience import Breaker
from app.ledger.codes import Mode, Script
from app.ledger.keys import epoch_key
from app.ledger.store import QUERIES, SHARD

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from app.infra.postgres import Pool
    from app.infra.scripts import LuaScripts

PROTOCOL_VERSION = 6
_ROUNDS_MAX = 20
_TOKEN_POLLS_MAX = 20
_TOKEN_POLL_S = 0.05
# A Redis that changes again within this time is not trusted at once a second time.
_YOUNG_MS = 5_000
_NOBODY = RedisIdentity("", "")
_log = logging.getLogger(__name__)


class Ruling(NamedTuple):
    """An epoch, who decides in it, which life of Redis that is, the word of its opening, and which
    PostgreSQL it was opened in.

    No other opening ever has the same word, whatever PostgreSQL or Redis forgets.
    """

    epoch: int
    mode: Mode
    identity: RedisIdentity = _NOBODY
    token: str = ""
    postgres: str = ""

    @property
    def text(self) -> str:
        """What every script compares with the epoch's hash and with the server it runs on."""
        return f"{self.identity.run_id} {self.identity.replication_id} {self.token}"


class ModeKeeper:
    """What one process knows of the ruling epoch of its shard."""

    def __init__(
        self,
        pool: "Pool",
        redis: "Redis",
        scripts: "LuaScripts",
        breaker: Breaker,
        *,
        may_fall_back: bool,
    ) -> None:
        """Know nothing yet; `settle_ruling` must run before anything is admitted."""
        self._pool = pool
        self._redis = redis
        self._scripts = scripts
        self._breaker = breaker
        self._may_fall_back = may_fall_back
        self._lock = asyncio.Lock()
        self._current: Ruling | None = None
        self._token_seen = ""
        self._is_outdated = False
        self.on_opened: Callable[[str, str], None] | None = None

    @property
    def is_outdated(self) -> bool:
        """Tell whether a newer version of the service rules, so that this one decides nothing."""
        return self._is_outdated

    @property
    def current(self) -> Ruling:
        """The ruling as last learnt."""
        if self._current is None:
            raise errors.RedisUnavailable("No epoch is open yet.")
        return self._current

    @property
    def known(self) -> Ruling | None:
        """The ruling as last learnt, None before any."""
        return self._current

    @property
    def epoch(self) -> int:
        """The epoch as last learnt, 0 before any."""
        return self._current.epoch if self._current else 0

    async def read_ruling(self) -> Ruling:
        """Read who rules, whoever it is, without remembering it."""
        return _ruling(await self.read_state())

    async def observe(self) -> Ruling | None:
        """Read who rules without opening anything; None when Redis does not, or as an older version
        of the service has it decide: scripts of two versions may not share an epoch.
        """
        state = await self.read_state()
        recorded = _ruling(state)
        may_act = recorded.mode is Mode.REDIS and recorded.token and not _is_older(state)
        return recorded if may_act else None

    async def learn(self) -> None:
        """Read who rules and adopt it if it is news; an epoch of an older version ends before that.

        Raises what `settle_ruling` raises.
        """
        async with self._lock:
            state = await self.read_state()
            if not state["is_recorded_postgres"] or _ruling(state) == self._current:
                return
            news = await self._next(state, "") if _is_older(state) else _ruling(state)
            if news is not None:
                self._adopt(news)

    async def settle_ruling(
        self, doubted_epoch: int | None = None, *, lost: str = "", without_redis: bool = False
    ) -> Ruling:
        """Learn who rules, or open the next epoch when the recorded one has ended.

        `doubted_epoch` is the epoch a call was fenced in; when another one has been learnt since,
        that is the answer. `lost` says why Redis cannot be used in that epoch any more,
        `without_redis` that it does not answer, so the epoch must end. One caller at a time.
        Raises `RedisUnavailable`, `PostgresUnavailable`, `InstanceOutdated` or `UnusableDatabase`.
        """
        async with self._lock:
            if self._current is not None and self._current.epoch != doubted_epoch:
                return self._current
            for _ in range(_ROUNDS_MAX):
                state = await self.read_state()
                ended = state["epoch"] == doubted_epoch
                if without_redis and ended and _ruling(state).mode is Mode.REDIS:
                    ruling = await self._open_without_redis(state, "redis does not answer")
                else:
                    ruling = await self._next(state, lost if ended else "")
                if ruling is not None:
                    return self._adopt(ruling)
        raise errors.RedisUnavailable("No epoch could be opened; others keep opening their own.")

    async def fall_back(self, doubted_epoch: int) -> bool:
        """Do without Redis if the breaker is open; True when `doubted_epoch` rules no more."""
        if self.epoch != doubted_epoch:
            return True
        if not self._breaker.is_open:
            return False
        try:
            ruling = await self.settle_ruling(doubted_epoch, without_redis=True)
        except errors.LedgerError as error:
            _log.warning("redis does not answer and nobody else may decide: %s", error.detail)
            return False
        return ruling.epoch != doubted_epoch

    async def open_redis(self, expected_epoch: int, reason: str) -> Ruling | None:
        """Let the Redis that is there decide from now on; None when that could not be done.

        An epoch whose token could not be written is ended again.
        """
        async with self._lock:
            opened = await self._open_redis(expected_epoch, await self._read_identity(), reason)
            if opened is not None:
                return self._adopt(opened)
        return None

    async def read_state(self) -> Any:
        """Read the shard's row.

        Raises `PostgresUnavailable`, `InstanceOutdated` or `UnusableDatabase`.
        """
        try:
            state = await self._pool.fetchrow(QUERIES["shard_state"], SHARD)
        except ALL_POSTGRES_ERRORS as exc:
            raise errors.PostgresUnavailable(f"PostgreSQL does not answer: {exc}") from exc
        if state is None or state["shard_count"] != 1:
            raise errors.UnusableDatabase("The database is laid out for another number of shards.")
        self._is_outdated = state["protocol_version"] > PROTOCOL_VERSION
        if self._is_outdated:
            raise errors.InstanceOutdated
        return state

    def _adopt(self, ruling: Ruling) -> Ruling:
        """Remember a ruling that was read or opened under the lock, hence the latest."""
        if ruling != self._current:
            _log.warning("epoch %s: decided by %s", ruling.epoch, ruling.mode.value)
            self._scripts.start_over()
            if ruling.mode is Mode.REDIS:
                self._breaker.close()
        self._current = ruling
        return ruling

    async def _next(self, state: Any, lost: str) -> Ruling | None:
        """Find that the recorded ruling holds, or open the next; None when another was first."""
        recorded = _ruling(state)
        is_current = state["is_recorded_postgres"] and not _is_older(state)
        if recorded.mode is Mode.REDIS:
            may_hold = is_current and not lost
            reason = lost or "redis is new"
            return await self._next_after_redis(state, recorded, reason, may_hold=may_hold)
        if recorded.mode is Mode.CLOSED or is_current:
            return recorded
        reason = "a newer version" if state["is_recorded_postgres"] else "postgres changed"
        return await self._open(state["epoch"], Mode.POSTGRES, reason)

    async def _next_after_redis(
        self, state: Any, recorded: Ruling, reason: str, *, may_hold: bool
    ) -> Ruling | None:
        """Keep Redis, or the Redis that took its place, unless it is gone or changes too often."""
        try:
            identity = await self._read_identity()
            if may_hold and await self._rules(state, recorded, identity):
                return recorded
        except errors.RedisUnavailable as error:
            if not self._may_decide_without(state):
                raise
            return await self._open_without_redis(state, error.detail)
        is_young = recorded.epoch > 0 and state["age_ms"] < _YOUNG_MS
        if is_young and self._may_decide_without(state):
            return await self._open_without_redis(state, f"{reason}, too soon")
        return await self._open_redis(state["epoch"], identity, reason)

    def _may_decide_without(self, state: Any) -> bool:
        return self._may_fall_back and state["forced_mode"] != Mode.REDIS

    async def _open_without_redis(self, state: Any, reason: str) -> Ruling | None:
        if not self._may_decide_without(state):
            raise errors.RedisUnavailable("Redis does not answer, and only Redis may decide.")
        return await self._open(state["epoch"], Mode.POSTGRES, reason)

    async def _read_identity(self) -> RedisIdentity:
        """Ask Redis who it is, twice if need be: one cut connection says nothing about Redis."""
        try:
            try:
                return await read_identity(self._redis)
            except errors.RedisUnavailable:
                return await read_identity(self._redis)
        except errors.UnusableRedis as error:
            raise errors.RedisUnavailable(error.detail) from error

    async def _rules(self, state: Any, recorded: Ruling, identity: RedisIdentity) -> bool:
        """Tell whether the recorded epoch was opened for this Redis and its token is there.

        The process that opened it a moment ago may be about to write the token: wait for that,
        unless this process has seen it before.
        """
        if not recorded.token or recorded.identity != identity:
            return False
        may_come = state["is_fresh"] and recorded.token != self._token_seen
        for _ in range(_TOKEN_POLLS_MAX if may_come else 1):
            if await self._read_token(recorded.epoch) == recorded.text:
                self._token_seen = recorded.token
                return True
            await asyncio.sleep(_TOKEN_POLL_S)
        return False

    async def _open_redis(
        self, expected: int, identity: RedisIdentity, reason: str
    ) -> Ruling | None:
        opened = await self._open(expected, Mode.REDIS, reason, identity)
        if opened is None:
            return None
        if await self._write_token(opened):
            self._token_seen = opened.token
            return opened
        if self._may_fall_back:
            return await self._open(opened.epoch, Mode.POSTGRES, "the token was not written")
        return None

    async def _open(
        self,
        expected: int,
        mode: Mode,
        reason: str,
        identity: RedisIdentity = _NOBODY,
    ) -> Ruling | None:
        """Open the next epoch if the expected one still rules, else return None."""
        token = uuid4().hex
        arguments = (SHARD, expected, mode, *identity, token, PROTOCOL_VERSION, reason)
        try:
            row = await self._pool.fetchrow(QUERIES["open_epoch"], *arguments)
        except ALL_POSTGRES_ERRORS as exc:
            raise errors.PostgresUnavailable(f"PostgreSQL does not answer: {exc}") from exc
        if row is None or row["epoch"] is None:
            return None
        _log.warning("opened epoch %s for %s: %s", row["epoch"], mode.value, reason)
        if self.on_opened is not None:
            self.on_opened(mode.value, reason)
        return Ruling(row["epoch"], mode, identity, token, row["postgres_identity"])

    async def _write_token(self, ruling: Ruling) -> bool:
        """Write the token once; after a lost reply only look, for a second copy could revive it."""
        self._scripts.start_over()
        try:
            word = await self._scripts.call("open", [epoch_key(SHARD, ruling.epoch)], [ruling.text])
        except REDIS_ERRORS:
            try:
                return await self._read_token(ruling.epoch) == ruling.text
            except errors.RedisUnavailable:
                return False
        return bool(word == Script.DONE)

    async def _read_token(self, epoch: int) -> str | None:
        try:
            token = await self._redis.hget(epoch_key(SHARD, epoch), "identity")
        except REDIS_ERRORS as exc:
            raise errors.RedisUnavailable(f"Redis does not answer: {exc}") from exc
        return None if token is None else str(token)


def _is_older(state: Any) -> bool:
    """Tell whether the epoch was opened by an older version of the service."""
    older: bool = state["protocol_version"] < PROTOCOL_VERSION
    return older


def _ruling(state: Any) -> Ruling:
    """Read the ruling out of a shard's row; before the first epoch it names no Redis."""
    identity = RedisIdentity(state["redis_run_id"] or "", state["redis_replication_id"] or "")
    return Ruling(
        state["epoch"],
        Mode(state["mode"]),
        identity,
        state["redis_token"] or "",
        state["postgres_identity"] or "",
    )
