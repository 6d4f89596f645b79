"""Holds over HTTP."""

import asyncio
from typing import Annotated, Any

import msgspec
from litestar import Response, get, post
from litestar.datastructures import State
from litestar.params import PathParameter, QueryParameter

from app import errors, limits
from app.infra.http import (
    READ_PROBLEMS,
    WRITE_PROBLEMS,
    HttpRequest,
    described_body,
    documented,
    encode,
    json_answer,
    read_optional_json,
)
from app.kit.decoding import check_json_type, decode_json, idempotency_key
from app.ledger.codes import HoldStatus
from app.ledger.dry_run_schemas import DryRunAnswer, dry_run_answer
from app.ledger.hold_schemas import (
    CaptureBody,
    HoldBody,
    HoldsAnswer,
    HoldView,
    ReleaseBody,
    hold_view,
)
from app.ledger.hold_service import Holds
from app.ledger.holds import HoldAcceptance, HoldRequest
from app.ledger.hot_routes import HotRoute, Sent, answer_hot, read_body, sent_in
from app.ledger.parameters import (
    ACCOUNT_PROBLEMS,
    DRY_RUN,
    FORESEEN,
    KEY_HEADER,
    REPLAYED,
    REPLAYED_HEADER,
    PageCursor,
    PageLimit,
    is_dry_run,
    uuid_of,
)
from app.ledger.schemas import refusals, told_refusal
from app.ledger.service import LedgerService

_decode_hold = msgspec.json.Decoder(HoldBody)
_decode_capture = msgspec.json.Decoder(CaptureBody)
_decode_release = msgspec.json.Decoder(ReleaseBody)
HoldIdPath = Annotated[str, PathParameter(description="The hold's UUID")]


def _hold_request(sent: Sent) -> tuple[HoldRequest, str | None]:
    check_json_type(sent.content_type)
    body = decode_json(_decode_hold, sent.body)
    key = idempotency_key(sent.key_header)
    return body.to_request(), key


def _begin_hold(ledger: LedgerService, sent: Sent) -> "asyncio.Future[HoldAcceptance]":
    request, key = _hold_request(sent)
    return asyncio.ensure_future(ledger.holds.place(request, key))


def _accepted_body(accepted: HoldAcceptance) -> bytes:
    return encode(hold_view(accepted.hold))


def _known_of(accepted: HoldAcceptance) -> dict[str, Any]:
    return {"hold_id": accepted.hold.hold_id}


def _refusal(error: errors.LedgerError, _body: bytes) -> errors.LedgerError:
    return told_refusal(error)


HOLD = HotRoute("/api/v1/holds", _begin_hold, _accepted_body, _known_of, _refusal)


@post(
    HOLD.path,
    summary="Hold an amount",
    response_headers=[REPLAYED_HEADER],
    operation_class=described_body(HoldBody, KEY_HEADER, DRY_RUN),
    responses=documented(201, HoldView, WRITE_PROBLEMS) | FORESEEN,
)
async def post_hold(request: HttpRequest, state: State) -> Response[bytes]:
    """Set an amount aside: it can be spent no more until it is captured, released, or its time is
    up. 201 means it is durable.
    """
    with refusals():
        if not is_dry_run(request):
            return await answer_hot(HOLD, request, state.ledger)
        wanted = _hold_request(sent_in(request, await read_body(request)))
        return json_answer(dry_run_answer(await state.ledger.holds.foresee_place(*wanted)))


@post(
    "/api/v1/holds/{hold_id:str}/capture",
    status_code=200,
    summary="Capture what is held",
    response_headers=[REPLAYED_HEADER],
    operation_class=described_body(CaptureBody, KEY_HEADER, DRY_RUN),
    responses=documented(200, HoldView | DryRunAnswer, WRITE_PROBLEMS),
)
async def post_capture(hold_id: HoldIdPath, request: HttpRequest, state: State) -> Response[bytes]:
    """Give what is held to whom it is for: all of it, or an amount, several times until one is
    final. What a final capture leaves is released. Nothing is captured once its time is up.

    The money left its account when it was set aside, so a freeze of that account does not keep a
    capture from it. One of the receiver does, for as long as it lasts, and its close for ever: what
    is held can be released then.
    """
    holds: Holds = state.ledger.holds
    with refusals():
        body = await read_optional_json(request, _decode_capture)
        key = idempotency_key(request.headers.get("idempotency-key"))
        act = (uuid_of(hold_id, "/hold_id"), body.to_request(), key)
        if is_dry_run(request):
            return json_answer(dry_run_answer(*await holds.foresee_capture(*act)))
        return _answered(await holds.capture(*act), 200)


@post(
    "/api/v1/holds/{hold_id:str}/release",
    status_code=200,
    summary="Release what is held",
    response_headers=[REPLAYED_HEADER],
    operation_class=described_body(ReleaseBody, KEY_HEADER, DRY_RUN),
    responses=documented(200, HoldView | DryRunAnswer, WRITE_PROBLEMS),
)
async def post_release(hold_id: HoldIdPath, request: HttpRequest, state: State) -> Response[bytes]:
    """Give back all that is held still; the hold ends."""
    holds: Holds = state.ledger.holds
    with refusals():
        await read_optional_json(request, _decode_release)
        key = idempotency_key(request.headers.get("idempotency-key"))
        act = (uuid_of(hold_id, "/hold_id"), key)
        if is_dry_run(request):
            return json_answer(dry_run_answer(*await holds.foresee_release(*act)))
        return _answered(await holds.release(*act), 200)


@get(
    "/api/v1/holds/{hold_id:str}",
    summary="Read a hold",
    responses=documented(200, HoldView, READ_PROBLEMS),
)
async def get_hold(hold_id: HoldIdPath, state: State) -> Response[bytes]:
    """Read a hold as it is now."""
    return json_answer(hold_view(await state.ledger.holds.read(uuid_of(hold_id, "/hold_id"))))


@get(
    "/api/v1/holds",
    summary="List an account's holds",
    responses=documented(200, HoldsAnswer, ACCOUNT_PROBLEMS),
)
async def get_holds(
    state: State,
    account_id: Annotated[str, QueryParameter(description="Whose holds")],
    status: Annotated[
        HoldStatus | None, QueryParameter(description="Those that are open, or ended so")
    ] = None,
    cursor: PageCursor = None,
    limit: PageLimit = limits.PAGE_ITEMS_DEFAULT,
) -> Response[bytes]:
    """List an account's holds in the order they were placed."""
    holds, after = await state.ledger.holds.of_account(account_id, status, cursor, limit)
    answer = HoldsAnswer(holds=[hold_view(each) for each in holds], next_cursor=after)
    return json_answer(answer)


def _answered(accepted: HoldAcceptance, status: int) -> Response[bytes]:
    return json_answer(hold_view(accepted.hold), status, REPLAYED if accepted.replayed else None)
