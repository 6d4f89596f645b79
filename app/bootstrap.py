"""The composition root: the only place that opens connections and puts services together.

`python -m app.bootstrap` brings the schema up to date; with `--demo` it also opens the demo
accounts, once.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from app import errors
from app.events.courier import Courier
from app.events.service import EventsService
from app.events.store import EventStore
from app.events.tellers import open_tellers
from app.events.webhooks import Webhooks
from app.infra.lifetimes import running_beside, waited_for
from app.infra.log import masked, start_log
from app.infra.migrations import check_schema, migrate
from app.infra.postgres import POSTGRES_ERRORS, listen_always, open_pool
from app.infra.redis import open_redis
from app.infra.resilience import Breaker
from app.infra.scripts import LuaScripts
from app.kit.ids import AttemptNumbers
from app.kit.money import currency_exponent, minor_units, parse_amount
from app.ledger.admission import Admission, Slot
from app.ledger.batcher import Batcher
from app.ledger.changes import AccountChanges
from app.ledger.compare import RedisComparison
from app.ledger.consistency import ConsistencyCheck
from app.ledger.health import HealthCheck
from app.ledger.hold_expiry import HoldExpiry
from app.ledger.instruments import Instruments
from app.ledger.item import Item
from app.ledger.journal import Journal
from app.ledger.mode import ModeKeeper
from app.ledger.model import AccountRequest
from app.ledger.part_pipeline import PartPipeline
from app.ledger.pipeline import Pipeline
from app.ledger.reaper import Reaper
from app.ledger.recovery import Recovery
from app.ledger.service import LedgerService
from app.ledger.settler import Settler
from app.ledger.store import LedgerStore, draw_process_number
from app.ledger.sweeper import Sweeper
from app.ledger.unit import Unit, UnitCarrier
from app.ledger.verify import Verifier
from app.ledger.watch import ModeWatch
from app.security.key_ring import KeyRing, KeyWatch
from app.security.store import KeyStore
from app.settings import Settings, load_settings
from app.web.service import Dashboard

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from app.infra.postgres import Pool

DEMO_ACCOUNTS = {"ACC001": "1000000", "ACC002": "500000", "ACC003": "2000000"}
EPOCH_CHANNEL = "ledger_epoch"
_PROBE_CONNECTIONS = 2
# A reservation this many times older than the reaper allows is a leak it did not end.
_LEAK_AGES = 3
_SETTLER_TIMEOUT_MS = 60_000
_MIGRATION_TIMEOUT_MS = 600_000


class Services(msgspec.Struct, frozen=True):
    """What the API works with."""

    settings: Settings
    ledger: LedgerService
    events: EventsService
    dashboard: Dashboard


class WorkerServices(msgspec.Struct, frozen=True):
    """What the worker works with."""

    settings: Settings
    instruments: Instruments
    settler: Settler
    recovery: Recovery
    reaper: Reaper
    consistency: ConsistencyCheck
    sweeper: Sweeper
    expiry: HoldExpiry
    couriers: tuple[Courier, ...]
    webhooks: Webhooks


class OperatorServices(msgspec.Struct, frozen=True):
    """What an operator's command works with."""

    mode: ModeKeeper
    store: LedgerStore
    settler: Settler
    verifier: Verifier
    keys: KeyStore


class _Parts(NamedTuple):
    pool: "Pool"
    redis: "Redis"
    scripts: LuaScripts
    breaker: Breaker
    mode: ModeKeeper
    admission: Admission
    instruments: Instruments


@asynccontextmanager
async def open_services(
    settings: Settings, ring: KeyRing | None = None, instruments: Instruments | None = None
) -> AsyncIterator[Services]:
    """Open everything the API needs, with an epoch open: Redis decides if it is there.

    Raises `UnusableDatabase` or `PostgresUnavailable`, and `RedisUnavailable` where PostgreSQL may
    not decide instead.
    """
    async with AsyncExitStack() as stack:
        slots, timeout_ms = settings.ledger.slots, settings.postgres.timeout_ms
        instruments = instruments or Instruments("api")
        parts = await _open_parts(
            stack, settings, timeout_ms, connections=4 * slots + 2, instruments=instruments
        )
        attempts = await _numbered(parts.pool, settings)
        await parts.mode.settle_ruling()
        journal = instruments.journal(parts.pool, timeout_ms)
        stack.push_async_callback(journal.close)
        decisions = LedgerStore(parts.pool, timeout_ms)
        batcher, groups = _batchers(settings, parts, journal, decisions, attempts)
        batcher.start()
        groups.start()
        stack.push_async_callback(lambda: asyncio.gather(batcher.stop(), groups.stop()))
        # Reads and health have connections of their own, and changes of accounts share them, so
        # that no crowd of them holds up money.
        reads = await stack.enter_async_context(
            _pool(settings, timeout_ms, settings.postgres.read_connections)
        )
        instruments.pools["reads"] = reads
        probes = await stack.enter_async_context(
            open_redis(settings.redis.url, settings.redis.timeout_ms, _PROBE_CONNECTIONS, retries=1)
        )
        store = LedgerStore(reads, timeout_ms)
        mode, deadline_ms = parts.mode, settings.ledger.deadline_ms
        changes = AccountChanges(mode, parts.admission, store, attempts, deadline_ms)
        stack.push_async_callback(changes.close)
        watch = ModeWatch(mode, probes, parts.breaker, settings.reliability)
        await stack.enter_async_context(
            running_beside(
                watch.learn_always(),
                watch.ask_redis_always(),
                listen_always(settings.direct_postgres_url, EPOCH_CHANNEL, watch.wake, timeout_ms),
            )
        )
        if ring is not None:
            # No crowd of reads is to make what is known of keys too old to admit anybody.
            of_keys = await stack.enter_async_context(_pool(settings, timeout_ms, 1))
            keys = KeyWatch(KeyStore(of_keys, timeout_ms), ring)
            loops = await keys.loops(settings.direct_postgres_url, timeout_ms)
            await stack.enter_async_context(running_beside(*loops))
        health = HealthCheck(settings, store, [batcher, groups], mode, parts.breaker, probes)
        verifier = _verifier(settings, parts, reads, store, probes)
        ledger = LedgerService(
            settings, store, decisions, batcher, groups, mode, health, verifier, attempts, changes
        )
        events = EventsService(settings, EventStore(store))
        yield Services(settings, ledger, events, Dashboard(store))


def _batchers(
    settings: Settings,
    parts: "_Parts",
    journal: Journal,
    store: LedgerStore,
    attempts: AttemptNumbers,
) -> tuple[Batcher[Item], Batcher[Unit]]:
    """Make the queues of single transactions, with bulk requests, and of transfers."""
    common = (parts.mode, parts.admission, journal, store, attempts)
    singles, transfers = Pipeline(*common), Pipeline(*common, groups=True)
    whole = PartPipeline(singles, parts.mode, journal, store, attempts)
    rules, name, seen = settings.ledger, str(attempts.process_number), parts.instruments
    carrying = partial(seen.carrying, deadline_ms=rules.deadline_ms)
    kind = seen.batcher_kind
    return (
        kind(
            carrying("single", singles.carry),
            carrying("bulk", whole.carry),
            singles.tell_what_is_left,
            [f"{name}.{number}" for number in range(rules.slots)],
            rules.batch_items,
            rules.queue_items,
        ),
        kind(
            carrying("group", UnitCarrier(transfers).carry),
            None,
            transfers.tell_what_is_left,
            [f"{name}.group{number}" for number in range(rules.slots)],
            rules.batch_items,
            rules.queue_items,
        ),
    )


@asynccontextmanager
async def open_worker_services(
    settings: Settings, instruments: Instruments | None = None
) -> AsyncIterator[WorkerServices]:
    """Open what the worker needs; it opens no epoch before there is a hold to end."""
    async with AsyncExitStack() as stack:
        instruments = instruments or Instruments("worker")
        parts = await _open_parts(
            stack, settings, settings.postgres.timeout_ms, connections=6, instruments=instruments
        )
        # A chunk may take long; nothing else the worker does may wait that long for an answer.
        chunks = await stack.enter_async_context(_pool(settings, _SETTLER_TIMEOUT_MS, 2))
        instruments.pools["settler"] = chunks
        rules = settings.reliability
        store = LedgerStore(parts.pool, settings.postgres.timeout_ms)
        attempts = await _numbered(parts.pool, settings)
        probes = await stack.enter_async_context(
            open_redis(settings.redis.url, rules.health_timeout_ms, _PROBE_CONNECTIONS)
        )
        slot = Slot(f"{attempts.process_number}.reaper")
        yield WorkerServices(
            settings,
            instruments,
            Settler(chunks, parts.mode, parts.admission),
            Recovery(parts.mode, probes, store, rules),
            Reaper(parts.mode, parts.admission, store, slot, rules.reap_age_ms),
            ConsistencyCheck(
                _verifier(settings, parts, parts.pool, store, probes),
                parts.mode,
                store,
                rules.consistency_interval_ms,
                may_repair=rules.auto_recovery,
            ),
            Sweeper(parts.mode, probes),
            _expiry(stack, settings, parts, store, attempts),
            *await open_tellers(stack, settings),
        )


def _expiry(
    stack: AsyncExitStack,
    settings: Settings,
    parts: "_Parts",
    store: LedgerStore,
    attempts: AttemptNumbers,
) -> HoldExpiry:
    """Make what ends holds: a client of the ledger like any API, which finds out who rules as they
    do, for there may be no other traffic.
    """
    may_fall_back = settings.reliability.redis_fallback
    mode = ModeKeeper(
        parts.pool, parts.redis, parts.scripts, parts.breaker, may_fall_back=may_fall_back
    )
    mode.on_opened, parts.instruments.mode = parts.instruments.switched, mode
    journal = parts.instruments.journal(parts.pool, settings.postgres.timeout_ms)
    stack.push_async_callback(journal.close)
    pipeline = Pipeline(mode, parts.admission, journal, store, attempts, groups=True)
    slot = Slot(f"{attempts.process_number}.expiry")
    deadline_s = settings.ledger.deadline_ms / 1_000
    return HoldExpiry(mode, UnitCarrier(pipeline), store, slot, deadline_s)


@asynccontextmanager
async def open_operator_services(settings: Settings) -> AsyncIterator[OperatorServices]:
    """Open what an operator's command needs; Redis need not be there."""
    async with AsyncExitStack() as stack:
        parts = await _open_parts(
            stack, settings, _SETTLER_TIMEOUT_MS, connections=2, instruments=Instruments("operator")
        )
        store = LedgerStore(parts.pool, settings.postgres.timeout_ms)
        settler = Settler(parts.pool, parts.mode, parts.admission)
        verifier = _verifier(settings, parts, parts.pool, store, parts.redis)
        keys = KeyStore(parts.pool, _SETTLER_TIMEOUT_MS)
        yield OperatorServices(parts.mode, store, settler, verifier, keys)


def _verifier(
    settings: Settings, parts: "_Parts", pool: "Pool", store: LedgerStore, redis: "Redis"
) -> Verifier:
    leak_age_ms = _LEAK_AGES * settings.reliability.reap_age_ms
    return Verifier(parts.mode, store, redis, RedisComparison(pool, parts.admission, leak_age_ms))


async def prepare_database(settings: Settings, *, demo: bool) -> None:
    """Apply missing migrations and, for a demo, open its accounts unless they are there."""
    async with waited_for(lambda: _pool(settings, _MIGRATION_TIMEOUT_MS, 2)) as pool:
        async with pool.acquire() as connection:
            applied = await migrate(connection)
        print(f"schema: {', '.join(applied) if applied else 'up to date'}", flush=True)
        if not demo:
            return
        store = LedgerStore(pool, settings.postgres.timeout_ms)
        attempts = await _numbered(pool, settings)
        currency = settings.ledger.default_currency
        exponent = currency_exponent(currency)
        for account_id, amount in DEMO_ACCOUNTS.items():
            opening_minor = minor_units(parse_amount(amount), exponent)
            request = AccountRequest(
                account_id=account_id,
                currency=currency,
                exponent=exponent,
                opening_minor=opening_minor,
            )
            if await store.open_account(request, attempts.draw()):
                print(f"account {account_id} opened with {amount} {currency}", flush=True)


async def _open_parts(
    stack: AsyncExitStack,
    settings: Settings,
    timeout_ms: int,
    *,
    connections: int,
    instruments: Instruments,
) -> _Parts:
    pool = await stack.enter_async_context(_pool(settings, timeout_ms, connections))
    try:
        async with pool.acquire(timeout=timeout_ms / 1_000) as connection:
            await check_schema(connection)
    except POSTGRES_ERRORS as exc:
        raise errors.PostgresUnavailable(f"PostgreSQL does not answer: {exc}") from exc
    redis = await stack.enter_async_context(
        open_redis(settings.redis.url, settings.redis.timeout_ms, settings.ledger.slots + 8)
    )
    scripts, rules = instruments.scripts(redis), settings.reliability
    breaker = Breaker(
        rules.breaker_failures, rules.breaker_timeout_ms / 1_000, enabled=rules.circuit_breaker
    )
    mode = ModeKeeper(pool, redis, scripts, breaker, may_fall_back=rules.redis_fallback)
    mode.on_opened = instruments.switched
    instruments.mode, instruments.breaker, instruments.pools["decisions"] = mode, breaker, pool
    return _Parts(pool, redis, scripts, breaker, mode, Admission(scripts, breaker), instruments)


def _pool(
    settings: Settings, timeout_ms: int, connections: int
) -> "AbstractAsyncContextManager[Pool]":
    return open_pool(
        settings.postgres.url,
        timeout_ms,
        connections,
        transaction_pooler=settings.postgres.transaction_pooler,
    )


async def _numbered(pool: "Pool", settings: Settings) -> AttemptNumbers:
    return AttemptNumbers(await draw_process_number(pool, settings.postgres.timeout_ms))


def main(arguments: list[str]) -> int:
    """Prepare the database the environment names; 0 when it is ready."""
    start_log("bootstrap", "warning", dict, stream=sys.stderr)
    unknown = [argument for argument in arguments if argument != "--demo"]
    if unknown:
        print(f"usage: python -m app.bootstrap [--demo]; not {unknown[0]}", file=sys.stderr)
        return 2
    try:
        settings = load_settings(os.environ)
        asyncio.run(prepare_database(settings, demo="--demo" in arguments))
    except errors.LedgerError as error:
        print(f"error: {masked(error.detail)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
