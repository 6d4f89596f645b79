"""Proof on live data: every balance against its rows, every row against its batch, settlements
against what they settled, currencies against zero, and Redis against PostgreSQL.

It changes nothing. A statement is one snapshot and Redis is compared under the fence, so what it
reports is exact while traffic flows. It runs in chunks, with a pause after each in proportion.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from app import errors, limits
from app.infra.redis import REDIS_ERRORS
from app.kit.money import decimal_text
from app.ledger.codes import Mode
from app.ledger.compare import EpochOver, RedisComparison
from app.ledger.keys import account_id_of, epoch_key
from app.ledger.mode import ModeKeeper, Ruling
from app.ledger.model import Mismatch, Verification
from app.ledger.store import SHARD, VERIFY_QUERIES, LedgerStore

if TYPE_CHECKING:
    from redis.asyncio import Redis

_PAGE = 500
_SCAN = 1_000
_LOADED = "loaded:"
_PAUSE_RATIO, _GENTLE_PAUSE_RATIO = 1.0, 8.0
# A gentle run that has found something has this part of its time left.
_FOUND_SHARE = 0.25
_now = time.monotonic


class Verifier:
    """Verifies one database and the Redis that decides; one run at a time."""

    def __init__(
        self, mode: ModeKeeper, store: LedgerStore, redis: "Redis", comparison: RedisComparison
    ) -> None:
        """`store` and `redis` are for reading; `comparison` holds the fence."""
        self._mode = mode
        self._store = store
        self._redis = redis
        self._comparison = comparison
        self._running: asyncio.Task[Verification] | None = None
        self._begun: dict[str, int] = {}

    async def verify(self, budget_s: float, *, gently: bool = False) -> Verification:
        """Verify as much as the time allows, first what changes most; gently, it leaves the
        servers to the clients for most of that time, until it finds something.

        Whoever asks while a run is under way gets that run's result. A history too long for one
        run is gone through by the runs that follow: each goes on where the one before ended.
        Raises `PostgresUnavailable`.
        """
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._verify(budget_s, gently))
        return await asyncio.shield(self._running)

    async def _verify(self, budget_s: float, gently: bool) -> Verification:
        started = _now()
        run = _Run(started, budget_s, gently)
        ruling = await self._mode.read_ruling()
        await self._redis_accounts(run, ruling)
        await self._conservation(run)
        await self._pages(run, "accounts_page", self._accounts)
        await self._pages(run, "batches_page", self._batches)
        await self._pages(run, "settlements_page", self._settlements)
        await self._pages(run, "holds_page", self._holds)
        return Verification(
            complete=run.complete,
            mode=ruling.mode,
            epoch=ruling.epoch,
            compared=dict(run.compared),
            mismatches=tuple(run.mismatches[: limits.VERIFY_MISMATCHES_MAX]),
            duration_ms=(_now() - started) * 1_000,
            verified_at=datetime.now(UTC),
        )

    async def _redis_accounts(self, run: "_Run", ruling: Ruling) -> None:
        """Compare every account that is loaded in the ruling epoch."""
        if ruling.mode is not Mode.REDIS or not ruling.token:
            return
        self._comparison.begin()
        try:
            async for account_ids in self._loaded(ruling):
                if run.is_late:
                    return
                async with run.paced():
                    found, flights = await self._comparison.compare(ruling, account_ids)
                run.mismatches += found
                run.compared.update(
                    {"redis_accounts": len(account_ids), "reservations_in_flight": flights}
                )
        except (EpochOver, errors.RedisUnavailable):
            run.complete = False
            return
        self._comparison.end()

    async def _loaded(self, ruling: Ruling) -> AsyncIterator[list[str]]:
        """Walk over the accounts of an epoch, in chunks."""
        key, cursor, chunk = epoch_key(SHARD, ruling.epoch), 0, set()
        while True:
            try:
                cursor, fields = await self._redis.hscan(
                    key, cursor, match=f"{_LOADED}*", count=_SCAN
                )
            except REDIS_ERRORS as exc:
                raise errors.RedisUnavailable(f"Redis does not answer: {exc}") from exc
            chunk |= {account_id_of(str(field)) for field in fields}
            while len(chunk) >= limits.VERIFY_ACCOUNTS_MAX or (chunk and cursor == 0):
                part = [chunk.pop() for _ in range(min(len(chunk), limits.VERIFY_ACCOUNTS_MAX))]
                yield part
            if cursor == 0:
                return

    async def _conservation(self, run: "_Run") -> None:
        rows = await self._fetch("conservation")
        run.mismatches += [
            _mismatch(
                "conservation",
                f"external:{row['currency']}",
                "0",
                decimal_text(int(row["sum_minor"]), row["exponent"]),
            )
            for row in rows
        ]

        rows = await self._fetch("holding_differing")
        run.mismatches += [_differing("holding", row, "what is held") for row in rows]

    async def _holds(self, run: "_Run", after: int) -> int | None:
        """Compare holds with what was done to them."""
        page = (await self._fetch("holds_page", after, _PAGE))[0]
        if page["last"] is None:
            return None
        bounds = (after, page["last"], limits.VERIFY_MISMATCHES_MAX)
        run.mismatches += [
            _differing("hold", row, f"hold {row['hold_id']}")
            for row in await self._fetch("holds_differing", *bounds)
        ]
        run.compared.update(holds=page["hold_count"])
        return int(page["last"]) if page["hold_count"] == _PAGE else None

    async def _pages(
        self, run: "_Run", name: str, check: Callable[["_Run", int], Awaitable[int | None]]
    ) -> None:
        """Run a check page by page until the end, or until time is up: then go on there next. What
        comes while it runs is for the next run, so a page that is not full is the last.
        """
        after = self._begun.pop(name, 0)
        run.complete &= after == 0
        while not run.is_late:
            async with run.paced():
                last = await check(run, after)
            if last is None:
                return
            after = last
        self._begun[name] = after

    async def _accounts(self, run: "_Run", after: int) -> int | None:
        """Compare balances with the last settlement line and the limit, and the lines' chain."""
        rows = await self._fetch("accounts_page", after, _PAGE)
        if not rows:
            return None
        for row in rows:
            exponent, account_id = row["exponent"], row["account_id"]
            settled, line = int(row["settled_minor"]), int(row["last_settled_minor"])
            pending = int(row["credit_minor"]) - int(row["debit_minor"])
            available = settled + pending + row["credit_limit_minor"]
            if settled != line:
                texts = (decimal_text(line, exponent), decimal_text(settled, exponent))
                run.mismatches.append(_mismatch("account_settled", account_id, *texts))
            if row["version"] != row["last_version"]:
                texts = (str(row["last_version"]), str(row["version"]))
                run.mismatches.append(_mismatch("account_version", account_id, *texts))
            if row["kind"] == "customer" and available < 0:
                text = decimal_text(available, exponent)
                run.mismatches.append(_mismatch("overdrawn", account_id, "0 or more", text))
        last = int(rows[-1]["account_no"])
        broken = await self._fetch("chains_broken", after, last, limits.VERIFY_MISMATCHES_MAX)
        run.mismatches += [
            _differing("line_chain", row, f"version {row['version_after']}") for row in broken
        ]
        run.compared["accounts"] += len(rows)
        return last if len(rows) == _PAGE else None

    async def _batches(self, run: "_Run", after: int) -> int | None:
        """Compare entries with what their batch says of them."""
        page = (await self._fetch("batches_page", after, _PAGE, limits.VERIFY_ENTRIES_MAX))[0]
        if page["last"] is None:
            return None
        bounds = (after, page["last"], limits.VERIFY_MISMATCHES_MAX)
        rows = await self._fetch("entries_differing", *bounds)
        run.mismatches += [
            _differing("entry", row, f"batch {row['batch_seq']} item {row['item_no']}")
            for row in rows
        ]
        run.mismatches += [
            _mismatch(
                "transfer",
                row["account_id"],
                "one debit and one credit of one amount",
                f"{row['entry_count']} entries that sum to "
                + decimal_text(int(row["found_minor"]), row["exponent"]),
                f"batch {row['batch_seq']} transfer {row['transfer_no']}",
            )
            for row in await self._fetch("transfers_differing", *bounds)
        ]
        run.mismatches += [
            _mismatch(
                "group",
                None,
                f"all of its {row['item_count']} entries or none",
                f"{row['entry_count']} entries",
                f"batch {row['batch_seq']} group {row['group_no']}",
            )
            for row in await self._fetch("groups_torn", *bounds)
        ]
        detached = page["detached_count"]
        run.compared.update(batches=page["batch_count"], entries=page["entry_count"] - detached)
        run.leave_out("detached_entries", detached)
        is_full = page["batch_count"] == _PAGE or page["entry_count"] >= limits.VERIFY_ENTRIES_MAX
        return int(page["last"]) if is_full else None

    async def _settlements(self, run: "_Run", after: int) -> int | None:
        """Compare settlement lines and counts with the entries they settled."""
        size = (limits.VERIFY_SETTLEMENTS_MAX, limits.VERIFY_ENTRIES_MAX)
        page = (await self._fetch("settlements_page", after, *size))[0]
        if page["last"] is None:
            return None
        bounds = (after, page["last"], limits.VERIFY_MISMATCHES_MAX)
        run.mismatches += [
            _differing("settlement_line", row, f"settlement {row['settlement_id']}")
            for row in await self._fetch("lines_differing", *bounds)
        ]
        run.mismatches += [
            _mismatch(
                "settlement_count",
                None,
                f"{row['batches']} batches, {row['entries']} entries, {row['customers']} accounts",
                f"{row['batch_count']}, {row['entry_count']}, {row['account_count']}",
                f"settlement {row['settlement_id']}",
            )
            for row in await self._fetch("settlements_differing", *bounds)
        ]
        detached = page["detached_count"]
        run.compared.update(
            settlements=page["settlement_count"], settlement_lines=page["line_count"] - detached
        )
        run.leave_out("detached_lines", detached)
        is_full = (
            page["settlement_count"] == limits.VERIFY_SETTLEMENTS_MAX
            or page["entry_count"] >= limits.VERIFY_ENTRIES_MAX
        )
        return int(page["last"]) if is_full else None

    async def _fetch(self, name: str, *arguments: Any) -> Any:
        return await self._store.fetch_sql(VERIFY_QUERIES[name], *arguments)


class _Run:
    """What one run has found, and how much time it has left."""

    def __init__(self, started: float, budget_s: float, gently: bool) -> None:
        self._deadline = started + budget_s
        self._gently = gently
        self._hurry_s = budget_s * _FOUND_SHARE
        self._is_hurrying = False
        self.complete = True
        self.compared: Counter[str] = Counter()
        self.mismatches: list[Mismatch] = []

    def leave_out(self, name: str, count: int) -> None:
        """Say what could not be compared because months were detached."""
        if count:
            self.compared[name] += count

    @property
    def is_late(self) -> bool:
        """Tell whether time is up; the run is not complete then."""
        now = _now()
        if self._gently and self.mismatches and not self._is_hurrying:
            self._is_hurrying = True
            self._deadline = min(self._deadline, now + self._hurry_s)
        late = now >= self._deadline
        self.complete &= not late
        return late

    @asynccontextmanager
    async def paced(self) -> AsyncIterator[None]:
        """Leave time after a piece of work, in proportion to what it took."""
        started = _now()
        yield
        is_gentle = self._gently and not self.mismatches
        ratio = _GENTLE_PAUSE_RATIO if is_gentle else _PAUSE_RATIO
        await asyncio.sleep((_now() - started) * ratio)


def _mismatch(
    kind: str, account_id: str | None, expected: str, found: str, place: str = ""
) -> Mismatch:
    return Mismatch(
        kind=kind,
        store="postgres",
        account_id=account_id,
        expected=expected,
        found=found,
        place=place,
    )


def _differing(kind: str, row: Any, place: str) -> Mismatch:
    """Describe a row with an expected and a found figure, either of which may be missing."""
    expected, found = (
        "nothing" if row[name] is None else decimal_text(int(row[name]), row["exponent"])
        for name in ("expected_minor", "found_minor")
    )
    return _mismatch(kind, row["account_id"], expected, found, place)
