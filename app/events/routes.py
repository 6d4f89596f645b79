"""Events and webhooks over HTTP."""

from typing import Annotated
from uuid import UUID

import msgspec
from litestar import Response, Router, delete, get, patch, post
from litestar.datastructures import State
from litestar.params import PathParameter, QueryParameter

from app import limits
from app.events.model import DeliveryStatus
from app.events.schemas import (
    DeliveriesAnswer,
    EventsAnswer,
    NewWebhookView,
    ReplayBody,
    WebhookBody,
    WebhookChangeBody,
    WebhooksAnswer,
    WebhookView,
    delivery_view,
    new_webhook_view,
    webhook_view,
)
from app.infra.http import (
    JSON,
    READ_PROBLEMS,
    WRITE_PROBLEMS,
    HttpRequest,
    described_body,
    documented,
    json_answer,
    read_json,
)
from app.ledger.parameters import PageCursor, PageLimit, uuid_of

_decode_webhook = msgspec.json.Decoder(WebhookBody)
_decode_change = msgspec.json.Decoder(WebhookChangeBody)
_decode_replay = msgspec.json.Decoder(ReplayBody)
WebhookIdPath = Annotated[str, PathParameter(description="The webhook's UUID")]


@get(
    "/api/v1/events",
    summary="Read events",
    responses=documented(200, EventsAnswer, READ_PROBLEMS),
)
async def get_events(
    state: State,
    cursor: Annotated[
        str | None,
        QueryParameter(description="A `next_cursor` or an event's `sequence`; else the beginning"),
    ] = None,
    account_id: Annotated[
        str | None, QueryParameter(description="Events of this account only")
    ] = None,
    limit: PageLimit = limits.PAGE_ITEMS_DEFAULT,
) -> Response[bytes]:
    """Read what happened after a cursor, in the order in which everybody is told.

    Ask again with `next_cursor`, at once after a page with events, else a little later: nothing is
    left out. An account's page looks at a bounded part of the journal, so it may be empty although
    there is more.
    """
    page = await state.events.events(cursor, account_id, limit)
    body = b",".join(event.body for event in page.events)
    content = b'{"events":[%s],"next_cursor":"%s"}' % (body, page.end.text.encode())
    return Response(content, media_type=JSON)


@post(
    "/api/v1/webhooks",
    summary="Make a webhook",
    operation_class=described_body(WebhookBody),
    responses=documented(201, NewWebhookView, WRITE_PROBLEMS),
)
async def post_webhook(request: HttpRequest, state: State) -> Response[bytes]:
    """Be told of what happens from now on, each event by a POST that is signed after the Standard
    Webhooks specification. The secret is shown in this answer and never again.
    """
    body = await read_json(request, _decode_webhook)
    body.check()
    webhook = await state.events.add_webhook(body.url, body.secret, body.types, body.account_id)
    return json_answer(new_webhook_view(webhook), 201)


@get(
    "/api/v1/webhooks",
    summary="List webhooks",
    responses=documented(200, WebhooksAnswer, READ_PROBLEMS),
)
async def get_webhooks(state: State) -> Response[bytes]:
    """List all webhooks in the order they were made, without their secrets."""
    views = [webhook_view(each) for each in await state.events.webhooks()]
    return json_answer(WebhooksAnswer(webhooks=views))


@get(
    "/api/v1/webhooks/{webhook_id:str}",
    summary="Read a webhook",
    responses=documented(200, WebhookView, READ_PROBLEMS),
)
async def get_webhook(webhook_id: WebhookIdPath, state: State) -> Response[bytes]:
    """Read a webhook and how far it was told."""
    return json_answer(webhook_view(await state.events.webhook(_id(webhook_id))))


@patch(
    "/api/v1/webhooks/{webhook_id:str}",
    summary="Enable or disable a webhook",
    operation_class=described_body(WebhookChangeBody),
    responses=documented(200, WebhookView, WRITE_PROBLEMS),
)
async def patch_webhook(
    webhook_id: WebhookIdPath, request: HttpRequest, state: State
) -> Response[bytes]:
    """Tell a webhook no more, or from its cursor on; nothing of meanwhile is left out."""
    body = await read_json(request, _decode_change)
    changed = await state.events.set_enabled(_id(webhook_id), enabled=body.enabled)
    return json_answer(webhook_view(changed))


@delete(
    "/api/v1/webhooks/{webhook_id:str}",
    status_code=200,
    summary="Remove a webhook",
    responses=documented(200, WebhookView, READ_PROBLEMS),
)
async def delete_webhook(webhook_id: WebhookIdPath, state: State) -> Response[bytes]:
    """Forget a webhook, its deliveries and dead letters; answers what it was."""
    return json_answer(webhook_view(await state.events.remove_webhook(_id(webhook_id))))


@get(
    "/api/v1/webhooks/{webhook_id:str}/deliveries",
    summary="List a webhook's deliveries",
    responses=documented(200, DeliveriesAnswer, READ_PROBLEMS),
)
async def get_deliveries(
    webhook_id: WebhookIdPath,
    state: State,
    status: Annotated[
        DeliveryStatus | None, QueryParameter(description="Those that were taken, or given up")
    ] = None,
    cursor: PageCursor = None,
    limit: PageLimit = limits.PAGE_ITEMS_DEFAULT,
) -> Response[bytes]:
    """List what became of events, the latest first; the latest of each kind are kept."""
    found, after = await state.events.deliveries(_id(webhook_id), status, cursor, limit)
    views = [delivery_view(each) for each in found]
    return json_answer(DeliveriesAnswer(deliveries=views, next_cursor=after))


@post(
    "/api/v1/webhooks/{webhook_id:str}/replay",
    status_code=200,
    summary="Tell a webhook again",
    operation_class=described_body(ReplayBody),
    responses=documented(200, WebhookView, WRITE_PROBLEMS),
)
async def post_replay(
    webhook_id: WebhookIdPath, request: HttpRequest, state: State
) -> Response[bytes]:
    """Tell a webhook everything from a place or an instant on, with the ids it had the first time;
    it is enabled by that.
    """
    body = await read_json(request, _decode_replay)
    webhook = await state.events.replay(_id(webhook_id), body.to_position())
    return json_answer(webhook_view(webhook))


def _id(text: str) -> UUID:
    return uuid_of(text, "/webhook_id")


events_router = Router(
    path="/",
    route_handlers=[
        get_events,
        post_webhook,
        get_webhooks,
        get_webhook,
        patch_webhook,
        delete_webhook,
        get_deliveries,
        post_replay,
    ],
    tags=["events"],
)
