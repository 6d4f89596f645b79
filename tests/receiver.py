"""What tests of events share: somebody who is told of them by HTTP, and reading them to the end."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import httpx
import msgspec

from app.bootstrap import WorkerServices
from app.infra.lifetimes import running_beside
from app.settings import Events, Settings

EVENTS = "/api/v1/events"
WEBHOOKS = "/api/v1/webhooks"
_REASONS = {200: "OK", 302: "Found", 400: "Bad Request", 410: "Gone", 500: "Oops"}


def telling_here(settings: Settings, **more: Any) -> Settings:
    """Settings with webhooks on this machine, and short times."""
    fields = {
        "webhooks_private": True,
        "webhook_wait_ms": 20,
        "webhook_timeout_ms": 2_000,
        "webhook_tries": 4,
        **more,
    }
    return msgspec.structs.replace(settings, events=Events(**fields))


class Message(NamedTuple):
    """One POST as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.body)
        return event

    @property
    def event_id(self) -> str:
        return self.headers["webhook-id"]


def is_signed(message: Message, secret: str) -> bool:
    """Check a signature as the specification says, without any of the service's code."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    name, timestamp = message.headers["webhook-id"], message.headers["webhook-timestamp"]
    signed = f"{name}.{timestamp}.{message.body.decode()}".encode()
    expected = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    return f"v1,{expected}" in message.headers["webhook-signature"].split()


class Receiver:
    """A server that answers as `behave` says: a status, or None to say nothing at all."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.taken: list[Message] = []
        self.behave: Callable[[Message], int | None] = lambda _message: 200
        self.extra = ""
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0

    def url(self, path: str = "/hook") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def ids(self, account_id: str | None = None, path: str | None = None) -> list[str]:
        """The ids of what was taken, each where it came first."""
        seen = {
            message.event_id: None
            for message in self.taken
            if account_id in (None, message.event["account_id"]) and path in (None, message.path)
        }
        return list(seen)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while await self._answer(reader, writer):
                pass
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in head[1:] if line)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        message = Message(head[0].split()[1], headers, body)
        self.messages.append(message)
        status = self.behave(message)
        if status is None:
            await reader.read(1)
            return False
        if status == 0:
            return False
        if 200 <= status < 300:
            self.taken.append(message)
        reply = f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-length: 2\r\n{self.extra}\r\nno"
        writer.write(reply.encode())
        await writer.drain()
        return True

    def end(self) -> None:
        for writer in self._writers:
            writer.close()


@contextlib.asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """Receive on a free port of this machine."""
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        receiver.end()


@contextlib.asynccontextmanager
async def telling(worker: WorkerServices) -> AsyncIterator[None]:
    """Tell all sinks, as the worker that leads does, until the block ends as by a crash."""
    tellers = (*worker.couriers, worker.webhooks)
    async with running_beside(*(each.deliver_always() for each in tellers)):
        yield


async def all_events(api: httpx.AsyncClient, **asked: Any) -> list[dict[str, Any]]:
    """Read events page by page until there are no more."""
    events: list[dict[str, Any]] = []
    cursor: str | None = asked.pop("cursor", None)
    while True:
        params = {"limit": 100, **asked, **({"cursor": cursor} if cursor else {})}
        answer = await api.get(EVENTS, params=params)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        if page["next_cursor"] == cursor:
            return events
        events += page["events"]
        cursor = page["next_cursor"]


async def webhook(api: httpx.AsyncClient, url: str, **fields: Any) -> dict[str, Any]:
    """Make a webhook."""
    answer = await api.post(WEBHOOKS, json={"url": url, **fields})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def by_account(events: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Ids in order, account by account."""
    found: dict[str, list[str]] = defaultdict(list)
    for event in events:
        found[event["account_id"]].append(event["id"])
    return found


async def journal_ids(database: Any) -> dict[str, list[str]]:
    """Of every customer the ids that its entries must have been told under, in journal's order:
    read by a statement of the test's own.
    """
    rows = await database.fetch(
        """
        SELECT a.account_id, e.batch_seq || '-' || e.item_no || '-' || w.word AS id
          FROM journal_entries e JOIN accounts a USING (account_no)
          JOIN journal_batches b USING (batch_seq)
         CROSS JOIN (VALUES ('accepted'), ('settled')) AS w (word)
         WHERE a.kind = 'customer' AND a.account_id NOT LIKE 'holding:%'
           AND (w.word = 'accepted' OR b.status = 'SETTLED')
        UNION ALL
        SELECT a.account_id, y.batch_seq || '-' || y.item_no || '-' ||
               CASE y.kind WHEN 'place' THEN 'placed' WHEN 'capture' THEN 'captured'
                           WHEN 'release' THEN 'released' ELSE 'expired' END
          FROM hold_acts y JOIN holds h USING (hold_id) JOIN accounts a USING (account_no)
        """
    )
    found: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        found[row["account_id"]].append(row["id"])
    return found
