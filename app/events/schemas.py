"""The wire of events and of webhooks."""

from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from app import errors, limits
from app.events.model import (
    Delivery,
    DeliveryStatus,
    EventType,
    Position,
    Webhook,
    WebhookStatus,
    read_sequence,
)
from app.events.signing import read_secret
from app.ledger.model import check_customer_account_id
from app.ledger.schemas import CLOCKS_DIFFER, instant


class EventView(msgspec.Struct, kw_only=True):
    """One thing that happened on one account.

    `id` names it for ever, so that one who is told twice can tell. `sequence` orders all events as
    text does, and as a cursor means what comes after it. `data` is what GET shows of the
    transaction or the hold, as it was then.
    """

    id: str
    type: EventType
    account_id: str
    occurred_at: str
    sequence: str
    data: Annotated[Any, Meta(description="A transaction or a hold")]


class EventsAnswer(msgspec.Struct, kw_only=True):
    """Events in order, and where to go on; an empty page is not the end, ask again later."""

    events: list[EventView]
    next_cursor: str


class WebhookBody(msgspec.Struct, forbid_unknown_fields=True):
    """Who wants to be told of events."""

    url: Annotated[str, Meta(examples=["https://example.com/ledger-events"])]
    secret: Annotated[
        str | None,
        Meta(description="`whsec_` and base64 of 24 to 64 bytes; without, one is made"),
    ] = None
    types: Annotated[
        list[EventType] | None, Meta(description="Events of these types; without, of all")
    ] = None
    account_id: Annotated[
        str | None, Meta(description="Events of this account; without, of every one")
    ] = None

    def check(self) -> None:
        """Check everything that needs nobody else; raises one error for each way to be wrong."""
        if self.secret is not None:
            read_secret(self.secret)
        if self.types is not None and not self.types:
            raise errors.InvalidValue("At least one type is needed.", pointer="/types")
        if self.types is not None and len(set(self.types)) < len(self.types):
            raise errors.InvalidValue("Each type may be named once.", pointer="/types")
        if self.account_id is not None:
            check_customer_account_id(self.account_id)


class WebhookChangeBody(msgspec.Struct, forbid_unknown_fields=True):
    """Whether it is to be told of events."""

    enabled: bool


class ReplayBody(msgspec.Struct, forbid_unknown_fields=True):
    """From where it is to be told once more."""

    from_: Annotated[
        str,
        Meta(
            description="An event's `sequence`, for what comes after it, or an RFC 3339 instant",
            examples=["2026-01-31T00:00:00Z"],
        ),
    ] = msgspec.field(name="from")

    def to_position(self) -> Position:
        """Read it; raises `InvalidCursor`, `InvalidValue` or `InstantInFuture`."""
        position = self._read()
        if position.at > datetime.now(UTC) + CLOCKS_DIFFER:
            raise errors.InstantInFuture(pointer="/from")
        return position

    def _read(self) -> Position:
        if "T" not in self.from_[: limits.SEQUENCE_LENGTH_MAX]:
            return read_sequence(self.from_, "/from")
        try:
            at = datetime.fromisoformat(self.from_)
            if at.tzinfo is None:
                raise errors.InvalidValue("The instant needs its offset.", pointer="/from")
            return Position(at.astimezone(UTC))
        except (ValueError, OverflowError) as exc:
            raise errors.InvalidValue("It must be an RFC 3339 instant.", pointer="/from") from exc


class WebhookView(msgspec.Struct, kw_only=True):
    """A webhook; everything before `cursor` was told or given up."""

    webhook_id: str
    url: str
    types: list[EventType] | None
    account_id: str | None
    status: WebhookStatus
    reason: Annotated[str | None, Meta(description="Why it is disabled, if it is")]
    cursor: str
    created_at: str
    updated_at: str


class NewWebhookView(WebhookView, kw_only=True):
    """A webhook as it was made; the secret is shown this once."""

    secret: str


class WebhooksAnswer(msgspec.Struct, kw_only=True):
    """Every webhook, in the order they were made."""

    webhooks: list[WebhookView]


class DeliveryView(msgspec.Struct, kw_only=True):
    """What became of one event."""

    status: DeliveryStatus
    event_id: str
    event_type: str
    account_id: str
    sequence: str
    tries: int
    http_status: Annotated[int | None, Meta(description="What was answered last, if anything was")]
    detail: Annotated[str | None, Meta(description="What was wrong")]
    ended_at: str | None


class DeliveriesAnswer(msgspec.Struct, kw_only=True):
    """A page of deliveries, the latest first."""

    deliveries: list[DeliveryView]
    next_cursor: str | None = None


def webhook_view(webhook: Webhook) -> WebhookView:
    """Show a webhook, without its secret."""
    return WebhookView(
        webhook_id=str(webhook.webhook_id),
        url=webhook.url,
        types=None if webhook.types is None else list(webhook.types),
        account_id=webhook.account_id,
        status=webhook.status,
        reason=webhook.reason,
        cursor=webhook.position.text,
        created_at=instant(webhook.created_at),
        updated_at=instant(webhook.updated_at),
    )


def new_webhook_view(webhook: Webhook) -> NewWebhookView:
    """Show a webhook that was just made."""
    shown = msgspec.structs.asdict(webhook_view(webhook))
    return NewWebhookView(**shown, secret=webhook.secret)


def delivery_view(delivery: Delivery) -> DeliveryView:
    """Show a delivery."""
    return DeliveryView(
        status=delivery.status,
        event_id=delivery.event_id,
        event_type=delivery.event_type,
        account_id=delivery.account_id,
        sequence=delivery.sequence,
        tries=delivery.tries,
        http_status=delivery.http_status,
        detail=delivery.detail,
        ended_at=None if delivery.ended_at is None else instant(delivery.ended_at),
    )
