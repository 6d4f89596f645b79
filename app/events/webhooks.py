"""Tells webhooks: one task for each that is enabled, so that none waits for another."""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

from app import errors, limits
from app.events.courier import is_cancelled, tell_in_lanes
from app.events.feed import Feed
from app.events.model import (
    Cursor,
    Delivery,
    DeliveryStatus,
    EventPage,
    TellableEvent,
    Webhook,
    WebhookStatus,
)
from app.events.sender import Sender, WebhookGone
from app.events.store import WEBHOOK_SINK, EventStore
from app.settings import Events

_log = logging.getLogger(__name__)
_FORGET_S = 10.0


class WebhookFails(Exception):
    """So many events in a row were given up that no more are tried."""


class WebhookCourier:
    """Tells one webhook, as it was when it was read; a changed one gets another courier."""

    def __init__(
        self, feed: Feed, store: EventStore, webhook: Webhook, sender: Sender, dead_max: int
    ) -> None:
        """`dead_max` events given up in a row end it."""
        self._feed = feed
        self._store = store
        self._webhook = webhook
        self._sender = sender
        self._dead_max = dead_max
        self._dead_in_a_row = 0
        self._cursor: Cursor | None = None
        self._saved_at = 0.0
        self._is_saved = True

    async def step(self) -> bool:
        """Tell of one page; False when there was nothing to tell.

        Raises `WebhookFails` or `WebhookGone`; the page is told from its beginning then, once the
        webhook is enabled again.
        """
        sink = f"{WEBHOOK_SINK}{self._webhook.webhook_id}"
        cursor = self._cursor or await self._store.cursor(sink)
        if cursor is None:
            return False
        self._cursor = None
        page = await self._feed.page(cursor.position)
        if page.end == cursor.position:
            self._cursor = cursor if self._is_saved else await self._pass(cursor, page)
            return False
        wanted = [event for event in page.events if self._webhook.wants(event)]
        if not wanted:
            self._cursor = await self._pass(cursor, page)
            return True
        deliveries: list[Delivery] = []
        try:
            await tell_in_lanes(
                wanted, lambda event: self._tell(event, deliveries), limits.WEBHOOK_LANES
            )
        except (WebhookFails, WebhookGone):
            await self._finish(cursor, cursor, deliveries)
            raise
        self._cursor = await self._finish(cursor, cursor._replace(position=page.end), deliveries)
        return True

    async def _tell(self, event: TellableEvent, deliveries: list[Delivery]) -> None:
        delivery = await self._sender.deliver(event)
        deliveries.append(delivery)
        if delivery.status is DeliveryStatus.DELIVERED:
            self._dead_in_a_row = 0
            return
        _log.warning("webhook %s: gave up event %s", self._webhook.webhook_id, event.event_id)
        self._dead_in_a_row += 1
        if self._dead_in_a_row >= self._dead_max:
            raise WebhookFails(
                f"{self._dead_in_a_row} events in a row were not taken: {delivery.detail}"
            )

    async def _pass(self, cursor: Cursor, page: EventPage) -> Cursor | None:
        """Go past a page without anything for it; written down now and then."""
        now = asyncio.get_running_loop().time()
        self._is_saved = now - self._saved_at >= limits.WEBHOOK_SAVE_S
        if not self._is_saved:
            return cursor._replace(position=page.end)
        self._saved_at = now
        return await self._finish(cursor, cursor._replace(position=page.end), [])

    async def _finish(
        self, old: Cursor, new: Cursor, deliveries: Sequence[Delivery]
    ) -> Cursor | None:
        self._is_saved = True
        webhook_id = self._webhook.webhook_id
        return await self._store.finish_page(webhook_id, old, new.position, deliveries)


class Webhooks:
    """Keeps a courier at work for each webhook that is enabled."""

    def __init__(self, feed: Feed, store: EventStore, settings: Events) -> None:
        """Put the parts together; does no I/O."""
        self._feed = feed
        self._store = store
        self._settings = settings
        self._tasks: dict[UUID, tuple[int, asyncio.Task[None]]] = {}
        self._forgot_at = 0.0
        self._threads: ThreadPoolExecutor | None = None

    async def deliver_always(self) -> None:
        """Tell webhooks for ever; what the API changes is seen within a second."""
        # Looking a host up occupies a thread, for as long as the servers of its name please.
        self._threads = ThreadPoolExecutor(limits.WEBHOOKS_MAX, "webhook-hosts")
        try:
            while not is_cancelled():
                try:
                    await self._look()
                except errors.LedgerError as exc:
                    _log.warning("webhooks interrupted: %s", exc)
                except Exception:
                    _log.exception("webhooks failed")
                await asyncio.sleep(limits.WEBHOOK_LOOK_S)
        finally:
            await self._end(list(self._tasks))
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _look(self) -> None:
        """Start and end couriers as the webhooks are now, and forget old deliveries."""
        enabled = {
            each.webhook_id: each
            for each in await self._store.webhooks()
            if each.status is WebhookStatus.ENABLED
        }
        await self._end(
            [
                webhook_id
                for webhook_id, (version, task) in self._tasks.items()
                if task.done()
                or webhook_id not in enabled
                or enabled[webhook_id].version != version
            ]
        )
        for webhook_id, webhook in enabled.items():
            if webhook_id not in self._tasks:
                task = asyncio.create_task(self._deliver(webhook))
                self._tasks[webhook_id] = (webhook.version, task)
        now = asyncio.get_running_loop().time()
        if now - self._forgot_at > _FORGET_S:
            self._forgot_at = now
            await self._store.forget_deliveries()

    async def _end(self, webhook_ids: Sequence[UUID]) -> None:
        tasks = [self._tasks.pop(webhook_id)[1] for webhook_id in webhook_ids]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _deliver(self, webhook: Webhook) -> None:
        """Tell one webhook until it is changed or fails for too long."""
        sender = Sender(webhook, self._settings, self._threads)
        courier = WebhookCourier(
            self._feed, self._store, webhook, sender, self._settings.webhook_dead_max
        )
        try:
            while not is_cancelled():
                try:
                    moved = await courier.step()
                    await asyncio.sleep(0 if moved else limits.EVENT_POLL_S)
                except (WebhookFails, WebhookGone) as exc:
                    await self._disable(webhook, str(exc))
                    return
                except errors.LedgerError as exc:
                    _log.warning("webhook %s interrupted: %s", webhook.webhook_id, exc)
                    await asyncio.sleep(limits.EVENT_POLL_S)
        except Exception:
            _log.exception("webhook %s failed", webhook.webhook_id)
        finally:
            await sender.close()

    async def _disable(self, webhook: Webhook, reason: str) -> None:
        _log.warning("webhook %s is disabled: %s", webhook.webhook_id, reason)
        disabled = WebhookStatus.DISABLED
        await self._store.set_status(webhook.webhook_id, disabled, reason, webhook.version)
