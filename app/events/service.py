"""The use cases of events: reading them, and saying who is told of them."""

from uuid import UUID, uuid4

from app import errors, limits
from app.events.errors import TooManyWebhooks, WebhookNotFound
from app.events.feed import Feed
from app.events.model import (
    BEGINNING,
    Delivery,
    DeliveryStatus,
    EventPage,
    EventType,
    Position,
    SinkLag,
    Webhook,
    WebhookStatus,
    read_sequence,
)
from app.events.signing import new_secret
from app.events.store import EventStore
from app.events.targets import check_url, find_target
from app.kit.cursor import decode_number, encode_cursor
from app.ledger.model import check_customer_account_id
from app.settings import Settings


class EventsService:
    """What happened in the ledger, for those who ask and those who want to be told."""

    def __init__(self, settings: Settings, store: EventStore) -> None:
        """Put the parts together; does no I/O."""
        self._settings = settings
        self._store = store
        self._feed = Feed(store)

    async def events(self, cursor: str | None, account_id: str | None, limit: int) -> EventPage:
        """Read events after a cursor, or from the beginning; of one account, or all."""
        start = BEGINNING if cursor is None else read_sequence(cursor)
        account_no = None
        if account_id is not None:
            check_customer_account_id(account_id)
            account_no = await self._account_no(account_id)
        return await self._feed.read(start, account_no, limit)

    async def lags(self) -> list[SinkLag]:
        """Tell how far behind each sink is that is in use."""
        rules = self._settings.events
        unused = {
            name
            for name, used in (("redis", rules.stream_items), ("nats", rules.nats_url))
            if not used
        }
        return [each for each in await self._store.lags() if each.sink not in unused]

    async def add_webhook(
        self,
        url: str,
        secret: str | None,
        types: list[EventType] | None,
        account_id: str | None,
    ) -> Webhook:
        """Tell somebody what happens from now on."""
        target = check_url(url)
        await find_target(target, may_be_private=self._settings.events.webhooks_private)
        if account_id is not None:
            await self._account_no(account_id)
        webhook_id = uuid4()
        kept = await self._store.add_webhook(
            webhook_id, url, secret or new_secret(), types, account_id
        )
        if not kept:
            raise TooManyWebhooks(f"There may be {limits.WEBHOOKS_MAX} webhooks.")
        return await self.webhook(webhook_id)

    async def webhooks(self) -> list[Webhook]:
        """Read all webhooks, in the order they were made."""
        return await self._store.webhooks()

    async def webhook(self, webhook_id: UUID) -> Webhook:
        """Read one webhook."""
        found = await self._store.webhooks(webhook_id)
        if not found:
            raise WebhookNotFound
        return found[0]

    async def set_enabled(self, webhook_id: UUID, *, enabled: bool) -> Webhook:
        """Tell a webhook from where it stands, or no more."""
        if enabled:
            changed = await self._store.set_status(webhook_id, WebhookStatus.ENABLED, None)
        else:
            reason = "it was disabled by request"
            changed = await self._store.set_status(webhook_id, WebhookStatus.DISABLED, reason)
        if not changed:
            raise WebhookNotFound
        return await self.webhook(webhook_id)

    async def remove_webhook(self, webhook_id: UUID) -> Webhook:
        """Forget a webhook and what became of its deliveries."""
        removed = await self._store.remove_webhook(webhook_id)
        if removed is None:
            raise WebhookNotFound
        return removed

    async def replay(self, webhook_id: UUID, position: Position) -> Webhook:
        """Tell a webhook everything from a place on, once more or at last."""
        if not await self._store.replay(webhook_id, max(position, BEGINNING)):
            raise WebhookNotFound
        return await self.webhook(webhook_id)

    async def deliveries(
        self, webhook_id: UUID, status: DeliveryStatus | None, cursor: str | None, limit: int
    ) -> tuple[list[Delivery], str | None]:
        """Read what became of events at a webhook, the latest first."""
        before = limits.INT64_MAX if cursor is None else decode_number(cursor)
        await self.webhook(webhook_id)
        found, last = await self._store.deliveries(webhook_id, status, before, limit)
        return found, None if last is None else encode_cursor(last)

    async def _account_no(self, account_id: str) -> int:
        account = (await self._store.ledger.accounts([account_id])).get(account_id)
        if account is None:
            raise errors.AccountNotFound(pointer="/account_id")
        return account.account_no
