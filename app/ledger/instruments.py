"""What is counted and timed of the ledger's work, from outside: what works knows nothing of it.

A batch is counted once it is answered, its items in one go. A step is one call of Redis or
PostgreSQL. Without metrics and traces nothing of this is put in between.
"""

import logging
from asyncio import CancelledError, InvalidStateError
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from time import monotonic, perf_counter, time
from typing import TYPE_CHECKING, Any, TypeVar

from prometheus_client.core import GaugeMetricFamily, Metric

from app.infra.log import start_log
from app.infra.resilience import Breaker
from app.infra.scripts import LuaScripts
from app.infra.telemetry import ITEMS, Counters, Histograms
from app.infra.tracing import Tracing, open_tracing
from app.ledger.admission import Slot
from app.ledger.batcher import Batcher, G
from app.ledger.item import Item
from app.ledger.journal import Journal
from app.ledger.model import Verification
from app.ledger.part import Part
from app.ledger.reaper import ReapedCount
from app.ledger.settler import SettledCount
from app.ledger.unit import Unit
from app.settings import Settings

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from app.infra.postgres import Pool
    from app.ledger.mode import ModeKeeper

_log = logging.getLogger(__name__)
T = TypeVar("T")
Carry = Callable[[Slot, Any], Awaitable[T]]
BREAKER_STATES = ("closed", "open", "half-open")
# Every reason a switch is recorded with begins with one of these.
_REASONS = {
    "redis does not answer": "redis_gone",
    "redis refuses": "redis_gone",
    "redis is new": "redis_new",
    "redis lost data": "redis_lost_data",
    "redis diverged": "redis_diverged",
    "redis is back": "redis_back",
    "postgres changed": "postgres_changed",
    "the token was not written": "token_not_written",
}
# The scripts of the money's way; the others are not on it.
_STEPS = {
    "admit": "admit",
    "admit_groups": "admit",
    "confirm": "confirm",
    "load": "load",
    "refresh": "refresh",
}


class Instruments:
    """One process's counters; `mode`, the breaker and the pools are set when they are opened."""

    def __init__(
        self, process: str, *, metrics: bool = False, tracing: Tracing | None = None
    ) -> None:
        """`process` is a word for what this process does."""
        self.process = process
        self.metrics = metrics
        self.tracing = tracing
        self.mode: ModeKeeper | None = None
        self.breaker: Breaker | None = None
        self.pools: dict[str, Pool] = {}
        self._loops: dict[str, float] = {}
        name = "subbalance_{}".format
        self.steps = Histograms(name("step_seconds"), "One step of a batch's way", "step")
        self._sizes = Histograms(name("batch_items"), "Items in a batch", "kind", ITEMS)
        self._decided = Counters(
            name("transactions"), "Requests decided in batches", ("kind", "outcome")
        )
        self._refused = Counters(name("refused"), "Those refused, by why", ("code",))
        self._switches = Counters(
            name("switches"), "Epochs this process opened", ("mode", "reason")
        )
        self._settled = Counters(name("settled"), "What was folded into balances", ("what",))
        self._reaped = Counters(name("reaped"), "Reservations and changes ended", ("outcome",))
        self._verified = Counters(name("verifications"), "Checks of the books", ("result",))
        self._mismatches = Counters(name("mismatches_found"), "What checks found", ("kind",))
        self._runs = Counters(name("loop_runs"), "Runs of the worker's loops", ("loop", "result"))

    @property
    def is_on(self) -> bool:
        """Tell whether anything is counted, timed or traced."""
        return self.metrics or self.tracing is not None

    def facts(self) -> dict[str, Any]:
        """Who rules, as far as this process knows; for its log."""
        ruling = None if self.mode is None else self.mode.known
        return {} if ruling is None else {"mode": ruling.mode.value, "epoch": ruling.epoch}

    def scripts(self, redis: "Redis") -> LuaScripts:
        """Make the scripts of one Redis, timed where that is wanted."""
        if not self.is_on:
            return LuaScripts(redis)
        timed = _TimedScripts(redis)
        timed.instruments = self
        return timed

    def journal(self, pool: "Pool", timeout_ms: int) -> Journal:
        """Make a journal, timed where that is wanted."""
        if not self.is_on:
            return Journal(pool, timeout_ms)
        timed = _TimedJournal(pool, timeout_ms)
        timed.instruments = self
        return timed

    def batcher_kind(self, *arguments: Any) -> Batcher[Any]:
        """Make a batcher, whose batches are linked to their requests where traces are wanted."""
        if self.tracing is None:
            return Batcher(*arguments)
        traced: _TracedBatcher[Any] = _TracedBatcher(*arguments)
        traced.tracing = self.tracing
        return traced

    async def timed(self, step: str, work: Awaitable[T]) -> T:
        """Wait for one step."""
        began = perf_counter()
        try:
            with nullcontext() if self.tracing is None else self.tracing.step(step):
                return await work
        finally:
            self.steps.of(step).observe(perf_counter() - began)

    def carrying(self, kind: str, carry: Carry[T], deadline_ms: int) -> Carry[T]:
        """Count what `carry` is given and how it was answered; `deadline_ms` is what a request
        has in all when it is taken.
        """
        if not self.is_on:
            return carry
        sizes, waits, took = self._sizes.of(kind), self.steps.of("wait"), self.steps.of("batch")
        deadline_s, tracing = deadline_ms / 1_000, self.tracing

        async def carry_counted(slot: Slot, batch: Any) -> T:
            members = batch.items if isinstance(batch, Part) else batch
            sizes.observe(_weight(members))
            waits.observe(max(0.0, monotonic() - members[0].deadline + deadline_s))
            waiters = [batch] if isinstance(batch, Part) else batch
            began = perf_counter()
            try:
                with nullcontext() if tracing is None else tracing.batch(kind, waiters):
                    answer = await carry(slot, batch)
            finally:
                took.observe(perf_counter() - began)
            try:
                self._count(kind, members)
            except Exception:  # what is only looked at is not to suffer
                _log.exception("a batch was not counted")
            return answer

        return carry_counted

    def _count(self, kind: str, members: Sequence[Item | Unit]) -> None:
        """Count a batch's answers; those that wait for another turn have none yet."""
        accepted = replayed = refused = 0
        for each in members:
            try:
                error = each.future.exception()
            except (CancelledError, InvalidStateError):
                continue
            if error is not None:
                refused += 1
                self._refused.add((getattr(error, "code", "internal_error"),))
            elif each.future.result().replayed:
                replayed += 1
            else:
                accepted += 1
        for outcome, count in zip(
            ("accepted", "replayed", "refused"), (accepted, replayed, refused), strict=True
        ):
            if count:
                self._decided.add((kind, outcome), count)

    def decided(self) -> dict[str, int]:
        """Tell how many requests were decided in batches, by outcome."""
        return self._decided.by_last_label()

    def refused(self) -> dict[str, int]:
        """Tell how many of those were refused, by code."""
        return self._refused.by_last_label()

    def switched(self, mode: str, reason: str) -> None:
        """Note an epoch that this process opened."""
        words = (word for start, word in _REASONS.items() if reason.lower().startswith(start))
        self._switches.add((mode, next(words, "other")))

    def settled(self, count: SettledCount) -> None:
        """Note a run of the settler."""
        self._settled.add(("batches",), count.batches)
        self._settled.add(("movements",), count.entries)

    def reaped(self, count: ReapedCount) -> None:
        """Note what the reaper ended."""
        for outcome, number in count._asdict().items():
            self._reaped.add((outcome,), number)

    def verified(self, verification: Verification) -> None:
        """Note a check of the books."""
        whole = "verified" if verification.complete else "incomplete"
        self._verified.add((whole if verification.is_clean else "mismatch",))
        for mismatch in verification.mismatches:
            self._mismatches.add((mismatch.kind,))

    def ran(self, loop: str, result: str) -> None:
        """Note that a loop's body ended: ok, interrupted or failed."""
        self._runs.add((loop, result))
        if result == "ok":
            self._loops[loop] = time()

    def collect(self) -> Iterator[Metric]:
        """Describe everything that was counted, and how the parts are now."""
        yield _gauge("process_info", "What this process does, as 1", "process", {self.process: 1})
        if not self.metrics:
            return
        for family in (
            *(self.steps, self._sizes, self._decided, self._refused, self._switches),
            *(self._settled, self._reaped, self._verified, self._mismatches, self._runs),
        ):
            yield family.collect()
        if self.breaker is not None:
            states = {state: int(self.breaker.state == state) for state in BREAKER_STATES}
            yield _gauge("breaker_state", "The circuit breaker, as 1", "state", states)
        yield self._collect_pools()
        yield _gauge(
            "loop_success_timestamp_seconds", "A loop's latest good run", "loop", self._loops
        )

    def _collect_pools(self) -> Metric:
        family = GaugeMetricFamily(
            "subbalance_pool_connections",
            "Connections to PostgreSQL; those kept for the next batch count as in use",
            labels=["pool", "state"],
        )
        for name, pool in self.pools.items():
            size, idle = pool.get_size(), pool.get_idle_size()
            for state, count in (
                ("used", size - idle),
                ("idle", idle),
                ("max", pool.get_max_size()),
            ):
                family.add_metric([name, state], count)
        return family


def _weight(members: Sequence[Item | Unit]) -> int:
    """Count the items of a batch: single ones, or groups of them."""
    if isinstance(members[0], Item):
        return len(members)
    return sum(each.weight for each in members)


def _gauge(name: str, what: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"subbalance_{name}", what, labels=[label])
    for word, value in values.items():
        family.add_metric([word], value)
    return family


class _TimedScripts(LuaScripts):
    """Scripts whose calls are steps."""

    instruments: Instruments

    async def call(self, name: str, keys: Sequence[str], arguments: Sequence[str | bytes]) -> Any:
        """Run a script, timed."""
        work = super().call(name, keys, arguments)
        return await self.instruments.timed(_STEPS.get(name, "other"), work)


class _TimedJournal(Journal):
    """A journal whose calls are steps, repetitions of the same attempt included."""

    instruments: Instruments

    async def _until_answered(self, query: str, *arguments: Any, **options: Any) -> Any:
        step = "journal" if query == "journal_batch" else "decide"
        work = super()._until_answered(query, *arguments, **options)
        return await self.instruments.timed(step, work)


class _TracedBatcher(Batcher[G]):
    """A batcher that remembers which span each request came with."""

    tracing: Tracing

    def _enqueue(self, item: Any) -> None:
        self.tracing.remember(item)
        super()._enqueue(item)


@contextmanager
def observing(process: str, log_name: str, settings: Settings) -> Iterator[Instruments]:
    """Write a process's log, and make what it counts, times and traces with; until it ends."""
    rules = settings.observation
    with open_tracing(rules.traces_endpoint, process) as tracing:
        instruments = Instruments(process, metrics=rules.metrics, tracing=tracing)
        end_log = start_log(
            log_name,
            settings.log_level,
            instruments.facts,
            folder=rules.log_folder,
            file_bytes=rules.log_file_bytes,
            files=rules.log_files,
        )
        try:
            yield instruments
        finally:
            end_log()
