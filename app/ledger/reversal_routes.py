"""Reversals over HTTP."""

from typing import Annotated
from uuid import UUID

import msgspec
from litestar import Response, post
from litestar.datastructures import State
from litestar.params import PathParameter
from msgspec import Meta

from app.infra.http import (
    WRITE_PROBLEMS,
    HttpRequest,
    described_body,
    documented,
    json_answer,
    read_optional_json,
)
from app.kit.decoding import idempotency_key
from app.ledger.dry_run_schemas import dry_run_answer
from app.ledger.parameters import (
    DRY_RUN,
    FORESEEN,
    KEY_HEADER,
    REPLAYED,
    REPLAYED_HEADER,
    is_dry_run,
    uuid_of,
)
from app.ledger.reversals import ReversalRequest
from app.ledger.schemas import TransactionAnswer, check_said, refusals, transaction_answer


class ReversalBody(msgspec.Struct, forbid_unknown_fields=True):
    """What to say of a reversal; all of it may be left out."""

    id: Annotated[
        UUID | None, Meta(description="Your own id for the reversal, any UUID but version 8")
    ] = None
    reference: Annotated[str | None, Meta(description="At most 140 characters")] = None
    metadata: Annotated[dict[str, str] | None, Meta(description="At most 16 entries of text")] = (
        None
    )

    def to_request(self, key: str | None) -> ReversalRequest:
        """Check it; raises one error for each way to be wrong."""
        check_said(self.id, self.reference, self.metadata)
        return ReversalRequest(
            idempotency_key=key,
            chosen_id=self.id,
            reference=self.reference,
            metadata=self.metadata or None,
        )


_decode_reversal = msgspec.json.Decoder(ReversalBody)


@post(
    "/api/v1/transactions/{transaction_id:str}/reversal",
    summary="Reverse a transaction",
    response_headers=[REPLAYED_HEADER],
    operation_class=described_body(ReversalBody, KEY_HEADER, DRY_RUN),
    responses=documented(201, TransactionAnswer, WRITE_PROBLEMS) | FORESEEN,
)
async def post_reversal(
    transaction_id: Annotated[str, PathParameter(description="The transaction's UUID")],
    request: HttpRequest,
    state: State,
) -> Response[bytes]:
    """Take a transaction back by one of the same amount the other way. It is done once, whoever
    asks: asked again it is answered again, or refused where something else is said of it. Each of
    the two names the other.
    """
    with refusals():
        body = await read_optional_json(request, _decode_reversal)
        said = body.to_request(idempotency_key(request.headers.get("idempotency-key")))
        wanted = uuid_of(transaction_id, "/transaction_id")
        reversal = await state.ledger.reversal_of(wanted, said)
        if is_dry_run(request):
            return json_answer(dry_run_answer(await state.ledger.foresee_transaction(reversal)))
        accepted = await state.ledger.post_transaction(reversal)
    headers = REPLAYED if accepted.replayed else None
    return json_answer(transaction_answer(accepted.transaction), 201, headers)
