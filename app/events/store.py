"""What PostgreSQL is asked about events, their sinks and webhooks."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from app import limits
from app.events.model import (
    Cursor,
    Delivery,
    DeliveryStatus,
    EventType,
    Position,
    SinkLag,
    Watermark,
    Webhook,
    WebhookStatus,
)
from app.infra.queries import load_queries
from app.ledger.store import SHARD, LedgerStore

_QUERIES = {name: query.sql for name, query in load_queries("events").items()}
_Row = Any
WEBHOOK_SINK = "webhook:"


class EventStore:
    """Reads and writes of the events' own tables, and of the journal as events are made of it."""

    def __init__(self, ledger: LedgerStore) -> None:
        """Ask through a ledger's store."""
        self.ledger = ledger

    async def _fetch(self, name: str, *arguments: Any) -> Sequence[_Row]:
        return await self.ledger.fetch_sql(_QUERIES[name], *arguments)

    async def watermark(self) -> Watermark:
        """Find a time before which nothing can happen any more that is not visible."""
        row = (await self._fetch("event_watermark", SHARD))[0]
        return Watermark(row["before"], row["now"])

    async def page(
        self,
        after: Position,
        before: datetime,
        batches_max: int,
        entries_max: int,
        account_no: int | None,
    ) -> Sequence[_Row]:
        """Read what happened from a place on and before a time, an entry a row."""
        return await self._fetch("event_page", *after, before, batches_max, entries_max, account_no)

    async def lags(self) -> list[SinkLag]:
        """Tell how far each sink is behind; one that is disabled is not waited for."""
        rows = await self._fetch("event_cursors")
        return [
            SinkLag(row["sink"], row["lag_s"] or 0.0, row["told_count"])
            for row in rows
            if row["webhook_status"] != WebhookStatus.DISABLED
        ]

    async def cursor(self, sink: str) -> Cursor | None:
        """Read where a sink stands; None for one that is gone."""
        rows = await self._fetch("event_cursor", sink)
        return Cursor(_position(rows[0]), rows[0]["generation"], rows[0]["mark"]) if rows else None

    async def move(
        self, sink: str, old: Cursor, new: Position, mark: str | None, told: int = 0
    ) -> Cursor | None:
        """Put a cursor elsewhere; None when somebody else has moved it meanwhile."""
        rows = await self._fetch("move_event_cursor", sink, old.generation, *new, mark, told)
        return Cursor(new, rows[0][0], mark) if rows else None

    async def finish_page(
        self, webhook_id: UUID, old: Cursor, new: Position, deliveries: Sequence[Delivery]
    ) -> Cursor | None:
        """Write deliveries down and move a webhook's cursor; None when somebody else has."""
        columns = (
            [each.status.value for each in deliveries],
            [each.event_id for each in deliveries],
            [each.event_type for each in deliveries],
            [each.account_id for each in deliveries],
            [each.sequence for each in deliveries],
            [each.tries for each in deliveries],
            [each.http_status for each in deliveries],
            [each.detail for each in deliveries],
        )
        arguments = (webhook_id, old.generation, *new, *columns)
        rows = await self._fetch("finish_webhook_page", *arguments)
        return Cursor(new, rows[0][0]) if rows else None

    async def add_webhook(
        self,
        webhook_id: UUID,
        url: str,
        secret: str,
        types: Sequence[EventType] | None,
        account_id: str | None,
    ) -> bool:
        """Keep a webhook; False when there are as many as may be."""
        names = None if types is None else [each.value for each in types]
        arguments = (webhook_id, url, secret, names, account_id, limits.WEBHOOKS_MAX)
        return bool((await self._fetch("add_webhook", *arguments))[0][0])

    async def webhooks(self, webhook_id: UUID | None = None) -> list[Webhook]:
        """Read all webhooks, or one."""
        return [_webhook(row) for row in await self._fetch("webhooks", webhook_id)]

    async def remove_webhook(self, webhook_id: UUID) -> Webhook | None:
        """Forget a webhook; returns what it was."""
        rows = await self._fetch("remove_webhook", webhook_id)
        return _webhook(rows[0]) if rows else None

    async def set_status(
        self,
        webhook_id: UUID,
        status: WebhookStatus,
        reason: str | None,
        version: int | None = None,
    ) -> bool:
        """Enable or disable a webhook, if it still has the version; False when it has not."""
        rows = await self._fetch("set_webhook_status", webhook_id, status.value, reason, version)
        return bool(rows)

    async def replay(self, webhook_id: UUID, position: Position) -> bool:
        """Put a webhook back, or forward, to a place; False when there is none."""
        return bool(await self._fetch("replay_webhook", webhook_id, *position))

    async def deliveries(
        self, webhook_id: UUID, status: DeliveryStatus | None, before: int, limit: int
    ) -> tuple[list[Delivery], int | None]:
        """Read a page of deliveries, the latest first, and the number to go on from."""
        arguments = (webhook_id, status, before, limit + 1)
        rows = await self._fetch("webhook_deliveries", *arguments)
        last = rows[limit - 1]["delivery_no"] if len(rows) > limit else None
        return [_delivery(row) for row in rows[:limit]], last

    async def forget_deliveries(self) -> int:
        """Remove some of what is more than is kept; returns how many."""
        kept = (limits.DELIVERED_KEPT, limits.DEAD_KEPT)
        return len(await self._fetch("forget_deliveries", *kept, limits.DELIVERIES_FORGOTTEN_MAX))


def _position(row: _Row) -> Position:
    return Position(row["at"], row["kind"], row["batch_seq"], row["step"])


def _webhook(row: _Row) -> Webhook:
    types = row["types"]
    return Webhook(
        webhook_id=UUID(int=row["webhook_id"].int),
        url=row["url"],
        secret=row["secret"],
        types=None if types is None else tuple(EventType(each) for each in types),
        account_id=row["account_id"],
        status=WebhookStatus(row["status"]),
        reason=row["reason"],
        version=row["version"],
        position=_position(row),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def _delivery(row: _Row) -> Delivery:
    return Delivery(
        delivery_no=row["delivery_no"],
        status=DeliveryStatus(row["status"]),
        event_id=row["event_id"],
        event_type=row["event_type"],
        account_id=row["account_id"],
        sequence=row["sequence"],
        tries=row["tries"],
        http_status=row["http_status"],
        detail=row["detail"],
        ended_at=row["ended_at"],
    )
