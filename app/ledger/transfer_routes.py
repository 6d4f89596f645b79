"""Transfers over HTTP, alone and in groups."""

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
    read_json,
)
from app.kit.decoding import check_json_type, decode_json, idempotency_key
from app.ledger.dry_run_schemas import dry_run_answer
from app.ledger.hot_routes import HotRoute, Sent, answer_hot, read_body, sent_in
from app.ledger.parameters import (
    DRY_RUN,
    FORESEEN,
    KEY_HEADER,
    REPLAYED,
    REPLAYED_HEADER,
    is_dry_run,
    uuid_of,
)
from app.ledger.schemas import refusals, told_refusal
from app.ledger.service import LedgerService
from app.ledger.transfer_schemas import (
    TransferAnswer,
    TransferBody,
    TransferGroupAnswer,
    TransferGroupBody,
    TransferGroupView,
    TransferView,
    group_answer,
    group_view,
    transfer_answer,
    transfer_view,
)
from app.ledger.transfers import GroupAcceptance, TransferGroup, TransferRequest

_decode_transfer = msgspec.json.Decoder(TransferBody)
_decode_group = msgspec.json.Decoder(TransferGroupBody)
_ALONE = "/transfers/0"


def _transfer_request(sent: Sent) -> tuple[list[TransferRequest], str | None]:
    check_json_type(sent.content_type)
    body = decode_json(_decode_transfer, sent.body)
    key = idempotency_key(sent.key_header)
    return [body.to_request()], key


def _begin_transfer(ledger: LedgerService, sent: Sent) -> "asyncio.Future[GroupAcceptance]":
    requests, key = _transfer_request(sent)
    return ledger.begin_transfers(requests, key)


def _accepted_body(accepted: GroupAcceptance) -> bytes:
    return encode(transfer_answer(accepted.group))


def _known_of(accepted: GroupAcceptance) -> dict[str, Any]:
    return {"transfer_id": accepted.group.group_id}


def _refusal(error: errors.LedgerError, _body: bytes) -> errors.LedgerError:
    return told_refusal(error, _ALONE)


TRANSFER = HotRoute("/api/v1/transfers", _begin_transfer, _accepted_body, _known_of, _refusal)


@post(
    TRANSFER.path,
    summary="Transfer from one account to another",
    response_headers=[REPLAYED_HEADER],
    operation_class=described_body(TransferBody, KEY_HEADER, DRY_RUN),
    responses=documented(201, TransferAnswer, WRITE_PROBLEMS) | FORESEEN,
)
async def post_transfer(request: HttpRequest, state: State) -> Response[bytes]:
    """Debit one account and credit another of the same currency, both or neither. 201 means it is
    durable; settlement follows within seconds.
    """
    with refusals(of=_ALONE):
        if not is_dry_run(request):
            return await answer_hot(TRANSFER, request, state.ledger)
        wanted = _transfer_request(sent_in(request, await read_body(request)))
        return json_answer(dry_run_answer(await state.ledger.foresee_transfers(*wanted)))


@post(
    "/api/v1/groups",
    summary="Do up to 100 transfers, all or none",
    response_headers=[REPLAYED_HEADER],
    operation_class=described_body(TransferGroupBody, KEY_HEADER, DRY_RUN),
    request_max_body_size=limits.GROUP_BYTES_MAX,
    responses=documented(201, TransferGroupAnswer, WRITE_PROBLEMS) | FORESEEN,
)
async def post_group(request: HttpRequest, state: State) -> Response[bytes]:
    """Do all of these transfers or none. They are decided in order, debits first: what a group
    credits funds none of its debits. A refusal points to the first transfer at fault.
    """
    with refusals():
        body = await read_json(request, _decode_group)
        key = idempotency_key(request.headers.get("idempotency-key"))
        wanted = body.to_requests()
        if is_dry_run(request):
            return json_answer(dry_run_answer(await state.ledger.foresee_transfers(wanted, key)))
        accepted: GroupAcceptance = await state.ledger.post_transfers(wanted, key)
    return json_answer(group_answer(accepted.group), 201, REPLAYED if accepted.replayed else None)


@get(
    "/api/v1/transfers/{transfer_id:str}",
    summary="Find a transfer by id",
    responses=documented(200, TransferView, READ_PROBLEMS),
)
async def get_transfer(
    transfer_id: Annotated[str, PathParameter(description="The transfer's UUID")], state: State
) -> Response[bytes]:
    """Find a transfer by its id, from the moment it was accepted and for ever."""
    wanted = uuid_of(transfer_id, "/transfer_id")
    group: TransferGroup = await state.ledger.group(wanted)
    transfer = group.find(wanted)
    if transfer is None:
        raise errors.TransferNotFound
    return json_answer(transfer_view(group, transfer))


@get(
    "/api/v1/groups/{group_id:str}",
    summary="Find a group of transfers by id",
    responses=documented(200, TransferGroupView, READ_PROBLEMS),
)
async def get_group(
    group_id: Annotated[str, PathParameter(description="The UUID of the group's first transfer")],
    state: State,
) -> Response[bytes]:
    """Find a group by its id; a transfer that came alone is a group of one."""
    wanted = uuid_of(group_id, "/group_id")
    group: TransferGroup = await state.ledger.group(wanted)
    if group.group_id != wanted:
        raise errors.TransferNotFound
    return json_answer(group_view(group))


@get(
    "/api/v1/groups",
    summary="Find transfers by key",
    responses=documented(200, TransferGroupView, READ_PROBLEMS),
)
async def find_group(
    state: State, key: Annotated[str, QueryParameter(name="idempotency_key")]
) -> Response[bytes]:
    """Find what was accepted under an Idempotency-Key, a transfer alone or a group."""
    wanted = idempotency_key(key) or ""
    return json_answer(group_view(await state.ledger.group_by_key(wanted)))
