"""Events, read from a cursor on, and the webhooks that are told of them.

A webhook has no key: made twice it would be told twice, so its making is not sent again once it
may have been done.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from subbalance.answers import (
    Delivery,
    DeliveryStatus,
    Event,
    Events,
    EventType,
    NewWebhook,
    Webhook,
)
from subbalance.call import Answer, Call, Listing, content_of, get, instant_text, reads, segment

_EVENTS, _WEBHOOKS = "/api/v1/events", "/api/v1/webhooks"
_JSON = {"Content-Type": "application/json"}
_read_events = reads(Events)
_read_webhook = reads(Webhook)
_read_new_webhook = reads(NewWebhook)


class _Webhooks(msgspec.Struct):
    webhooks: list[Webhook]


class _Deliveries(msgspec.Struct):
    deliveries: list[Delivery]
    next_cursor: str | None = None


_read_webhook_list = reads(_Webhooks)
_read_delivery_page = reads(_Deliveries)


def get_events(
    *, cursor: str | None = None, account_id: str | None = None, page_items: int | None = None
) -> Call[Events]:
    """Read what happened after a cursor, or from the beginning.

    A page without events is not the end: ask again with its `next_cursor`, a little later where
    that is the one that was asked with.
    """
    query = {"cursor": cursor, "account_id": account_id, "limit": page_items}
    return get(_EVENTS, _read_events, query)


def list_events(
    *, cursor: str | None = None, account_id: str | None = None, page_items: int | None = None
) -> Listing[Event]:
    """Go through what happened after a cursor, or from the beginning, up to now; the last event's
    `sequence` is the cursor to go on from later.
    """

    def page(later: str | None) -> Call[tuple[list[Event], str | None]]:
        asked = cursor if later is None else later

        def read(answer: Answer) -> tuple[list[Event], str | None]:
            told = _read_events(answer)
            return told.events, None if told.next_cursor == asked else told.next_cursor

        query = {"cursor": asked, "account_id": account_id, "limit": page_items}
        return get(_EVENTS, read, query)

    return Listing(page)


def create_webhook(
    url: str,
    *,
    secret: str | None = None,
    types: Sequence[EventType] | None = None,
    account_id: str | None = None,
) -> Call[NewWebhook]:
    """Be told at a URL of what happens from now on; the secret is shown in this answer only.

    `OutcomeUnknown` where the answer was lost: `list_webhooks` tells whether it was made.
    """
    body = {"url": url, "secret": secret, "types": types, "account_id": account_id}
    return Call(
        "POST",
        _WEBHOOKS,
        _read_new_webhook,
        headers=_JSON,
        content=content_of(body),
        may_repeat=False,
    )


def list_webhooks() -> Listing[Webhook]:
    """Go through all webhooks in the order they were made."""
    return Listing(lambda _: get(_WEBHOOKS, _read_webhooks))


def get_webhook(webhook_id: UUID | str) -> Call[Webhook]:
    """Read a webhook and how far it was told."""
    return get(_path(webhook_id), _read_webhook)


def change_webhook(webhook_id: UUID | str, *, enabled: bool) -> Call[Webhook]:
    """Tell a webhook no more, or again from its cursor on."""
    return _sent("PATCH", _path(webhook_id), {"enabled": enabled})


def delete_webhook(webhook_id: UUID | str) -> Call[Webhook]:
    """Forget a webhook with its deliveries; answers what it was."""
    return Call("DELETE", _path(webhook_id), _read_webhook)


def replay_webhook(webhook_id: UUID | str, start: datetime | str) -> Call[Webhook]:
    """Tell a webhook once more what comes after an event's `sequence`, or from an instant on."""
    return _sent("POST", f"{_path(webhook_id)}/replay", {"from": instant_text(start)})


def list_deliveries(
    webhook_id: UUID | str, *, status: DeliveryStatus | None = None, page_items: int | None = None
) -> Listing[Delivery]:
    """Go through what became of events at a webhook, the latest first."""
    path, wanted = f"{_path(webhook_id)}/deliveries", {"status": status, "limit": page_items}
    return Listing(lambda cursor: get(path, _read_deliveries, {**wanted, "cursor": cursor}))


def list_dead_letters(
    webhook_id: UUID | str, *, page_items: int | None = None
) -> Listing[Delivery]:
    """Go through the events that a webhook did not take and is not told of again, the latest first;
    `replay_webhook` from the event before one closes the gap.
    """
    return list_deliveries(webhook_id, status="dead", page_items=page_items)


def _path(webhook_id: UUID | str) -> str:
    return f"{_WEBHOOKS}/{segment(webhook_id)}"


def _sent(method: str, path: str, body: dict[str, Any]) -> Call[Webhook]:
    return Call(method, path, _read_webhook, headers=_JSON, content=content_of(body))


def _read_webhooks(answer: Answer) -> tuple[list[Webhook], str | None]:
    return _read_webhook_list(answer).webhooks, None


def _read_deliveries(answer: Answer) -> tuple[list[Delivery], str | None]:
    page = _read_delivery_page(answer)
    return page.deliveries, page.next_cursor
