"""Puts together what tells others of events."""

from contextlib import AsyncExitStack

from app.events.courier import Courier, Sink
from app.events.feed import Feed
from app.events.nats_stream import NatsStream
from app.events.redis_stream import RedisStream
from app.events.store import EventStore
from app.events.webhooks import Webhooks
from app.infra.postgres import open_pool
from app.infra.redis import open_redis
from app.ledger.store import LedgerStore
from app.settings import Settings

_CONNECTIONS = 3


async def open_tellers(
    stack: AsyncExitStack, settings: Settings
) -> tuple[tuple[Courier, ...], Webhooks]:
    """Make what tells others of events, with connections of its own, so that it keeps nobody
    waiting; they are closed with the stack.
    """
    rules, postgres = settings.events, settings.postgres
    pool = await stack.enter_async_context(
        open_pool(
            postgres.url,
            postgres.timeout_ms,
            _CONNECTIONS,
            transaction_pooler=postgres.transaction_pooler,
        )
    )
    store = EventStore(LedgerStore(pool, postgres.timeout_ms))
    feed = Feed(store)
    sinks: list[Sink] = []
    if rules.stream_items:
        url = rules.redis_url or settings.redis.url
        redis = await stack.enter_async_context(open_redis(url, settings.redis.timeout_ms, 1))
        sinks.append(RedisStream(redis, rules))
    if rules.nats_url:
        nats = NatsStream(rules)
        stack.push_async_callback(nats.close)
        sinks.append(nats)
    couriers = tuple(Courier(feed, store, sink) for sink in sinks)
    return couriers, Webhooks(feed, store, rules)
