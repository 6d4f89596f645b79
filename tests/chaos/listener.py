"""Somebody who is told of events by webhooks, and is not always in the mood to take them."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import redis.asyncio as redis_async

from tests.chaos.client import HttpClient, Lost, NotSent
from tests.chaos.event_checker import HOLD_TYPES, Told, WebhookTold
from tests.receiver import Message, Receiver, receiving

ENVIRONMENT = {
    "SUBBALANCE_WEBHOOKS_PRIVATE": "true",
    "SUBBALANCE_WEBHOOK_WAIT": "20ms",
    "SUBBALANCE_WEBHOOK_TIMEOUT": "500ms",
    # So many that none is given up, although of ten tries one or two fail.
    "SUBBALANCE_WEBHOOK_TRIES": "20",
}
STREAM = "subbalance:events"
SUBSCRIBE_TRIES_MAX = 40
READ_TRIES_MAX = 400
PAGE_EVENTS = 500
STREAM_ENTRIES_MAX = 200_000
PATIENCE_S = 12.0
_PAUSE_S = 0.25
_CREATED, _OK = 201, 200
_ACCOUNT, _HOLDS = "/account", "/holds"


class Listener:
    """Two webhooks: one for all of one account, one for all that is done to holds."""

    def __init__(self, receiver: Receiver, seed: int, account_id: str) -> None:
        """Nothing is asked for yet."""
        self._receiver = receiver
        self._account_id = account_id
        self._since: dict[str, str] = {}
        self._rng = random.Random(f"{seed}:listener")
        receiver.behave = self._behave

    async def subscribe(self, url: str) -> None:
        """Ask for both; `RuntimeError` when that does not work in bounded time."""
        for path, more in (
            (_ACCOUNT, {"account_id": self._account_id}),
            (_HOLDS, {"types": list(HOLD_TYPES)}),
        ):
            body = {"url": self._receiver.url(path), **more}
            made = await _until(url, "POST", "/api/v1/webhooks", _CREATED, body)
            self._since[path] = made["cursor"]

    def _behave(self, _message: Message) -> int | None:
        """Take most; of some of what is taken the answer gets lost."""
        draw = self._rng.random()
        if draw < 0.02:
            return 500
        if draw < 0.04:
            return 0
        if draw < 0.043:
            return None
        return _OK

    async def told(self, url: str, redis_url: str) -> Told:
        """Everything that was told so far: by pages, by webhooks, by the stream of Redis."""
        return Told(
            feed=await _read_feed(url),
            webhooks=[
                WebhookTold(self._since[path], self._receiver.ids(path=path), account_id)
                for path, account_id in ((_ACCOUNT, self._account_id), (_HOLDS, None))
            ],
            stream=await _read_stream(redis_url),
        )


@asynccontextmanager
async def listening(seed: int, account_id: str) -> AsyncIterator[Listener]:
    """Receive on a free port of this machine."""
    async with receiving() as receiver:
        yield Listener(receiver, seed, account_id)


async def _read_feed(url: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    cursor = ""
    for _ in range(READ_TRIES_MAX):
        path = f"/api/v1/events?limit={PAGE_EVENTS}" + (f"&cursor={cursor}" if cursor else "")
        page = await _until(url, "GET", path, _OK)
        events += page["events"]
        if page["next_cursor"] == cursor:
            break
        cursor = page["next_cursor"]
    return events


async def _read_stream(redis_url: str) -> list[str]:
    client = redis_async.Redis.from_url(redis_url, decode_responses=True, socket_timeout=PATIENCE_S)
    try:
        entries = await client.xrange(STREAM, count=STREAM_ENTRIES_MAX)
        return [fields["id"] for _, fields in entries]
    finally:
        await client.aclose()


async def _until(
    url: str, method: str, path: str, status: int, body: object = None
) -> dict[str, Any]:
    """Ask until there is the answer that is wanted, a bounded number of times."""
    client, said = HttpClient(url), "nothing"
    try:
        for _ in range(SUBSCRIBE_TRIES_MAX):
            try:
                answer = await client.request(method, path, PATIENCE_S, body)
                if answer.status == status:
                    return dict(msgspec.json.decode(answer.body))
                said = answer.body.decode()
            except (NotSent, Lost) as exc:
                said = str(exc)
            await asyncio.sleep(_PAUSE_S)
    finally:
        client.close()
    raise RuntimeError(f"{method} {path} of {url}: {said}")
