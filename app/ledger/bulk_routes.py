"""Bulk requests over HTTP, in JSON or MessagePack as the request is."""

from typing import Any

import msgspec
from litestar import Response, post
from litestar.datastructures import State

from app import errors, limits
from app.infra.http import (
    JSON,
    WRITE_PROBLEMS,
    HttpRequest,
    described_body,
    documented,
    encode,
)
from app.kit.decoding import check_json_type, decode_json, decode_msgpack, idempotency_key
from app.ledger.bulk_schemas import (
    BulkAnswer,
    BulkAnswerView,
    BulkBody,
    BulkDryRunAnswer,
    BulkDryRunView,
    bulk_dry_run_answer,
    bulk_results,
)
from app.ledger.hot_routes import read_body
from app.ledger.model import Acceptance
from app.ledger.parameters import DRY_RUN, KEY_HEADER, REPLAYED, REPLAYED_HEADER, is_dry_run

BULK_PATH = "/api/v1/transactions"
_MSGPACK = "application/msgpack"
_decode_bulk = msgspec.json.Decoder(BulkBody)
_decode_packed = msgspec.msgpack.Decoder(BulkBody)
_encode_packed = msgspec.msgpack.Encoder().encode
_documented = documented(201, BulkAnswerView, WRITE_PROBLEMS)


@post(
    BULK_PATH,
    summary="Debit or credit accounts, up to 8,000 transactions at once",
    response_headers=[REPLAYED_HEADER],
    operation_class=described_body(BulkBody, KEY_HEADER, DRY_RUN, media_types=(JSON, _MSGPACK)),
    request_max_body_size=limits.REQUEST_BYTES_MAX,
    responses=_documented | documented(200, BulkAnswerView | BulkDryRunView, ()),
)
async def post_transactions(request: HttpRequest, state: State) -> Response[bytes]:
    """Each transaction stands alone unless `atomic`. 201: all were accepted and are durable. 200:
    some were not, and `results` say which. A request that is named by its `Idempotency-Key` is
    answered again as it was, a thousand transactions at a time, where any of them were accepted.
    """
    is_dry = is_dry_run(request)
    content_type = request.headers.get("content-type", "")
    is_packed = content_type.lower() == _MSGPACK
    if not is_packed:
        check_json_type(content_type)
    body = await read_body(request)
    sent = decode_msgpack(_decode_packed, body) if is_packed else decode_json(_decode_bulk, body)
    key = idempotency_key(request.headers.get("idempotency-key"))
    asked, ledger = sent.to_asked(key), state.ledger
    answer: BulkAnswer | BulkDryRunAnswer
    if is_dry:
        foreseen = await ledger.foresee_transactions(asked, key, atomic=sent.atomic)
        answers, answer = foreseen.answers, bulk_dry_run_answer(foreseen)
    else:
        answers = await ledger.post_transactions(asked, key, atomic=sent.atomic)
        answer = BulkAnswer(results=bulk_results(answers))
    refused = {n: each for n, each in enumerate(answers) if isinstance(each, errors.LedgerError)}
    if sent.atomic or len(refused) == len(answers):
        _raise_as_one(refused, answer.results, key, atomic=sent.atomic)
    content, media_type = (_encode_packed, _MSGPACK) if is_packed else (encode, JSON)
    status = 200 if refused or is_dry else 201
    accepted = [each.replayed for each in answers if isinstance(each, Acceptance)]
    headers = REPLAYED if accepted and all(accepted) else None
    return Response(content(answer), status_code=status, media_type=media_type, headers=headers)


def _raise_as_one(
    refused: dict[int, errors.LedgerError], results: Any, key: str | None, *, atomic: bool
) -> None:
    """Refuse the request as a whole where it could not be decided, or is one by its name."""
    for family in (errors.OutcomeUnknown, errors.InvariantViolation, errors.Unavailable):
        for error in refused.values():
            if isinstance(error, family):
                raise type(error)(error.detail)
    for error in refused.values():
        if error.retryable or not isinstance(error, errors.Rejected):
            raise type(error)(error.detail)
    # Of one key that names all of it no item has a name of its own.
    if key is not None and any(type(e) is errors.IdempotencyKeyReused for e in refused.values()):
        raise errors.IdempotencyKeyReused
    own = [n for n, error in refused.items() if not isinstance(error, errors.OthersRefused)]
    if atomic and refused:
        first = min(own or refused)
        raise errors.AtomicRequestRefused(pointer=f"/transactions/{first}", results=results)
