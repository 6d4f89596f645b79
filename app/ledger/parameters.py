"""Parameters and headers that several routes document."""

from typing import Annotated
from uuid import UUID

from litestar.datastructures import ResponseHeader
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import OpenAPIType, Schema
from litestar.openapi.spec import Parameter as DescribedParameter
from litestar.params import PathParameter, QueryParameter

from app import errors, limits
from app.infra.http import READ_PROBLEMS, HttpRequest
from app.ledger.codes import Frozen
from app.ledger.dry_run_schemas import DryRunAnswer


def uuid_of(text: str, pointer: str) -> UUID:
    """Read an id in a path."""
    try:
        return UUID(text)
    except ValueError as exc:
        raise errors.InvalidParameter("The id must be a UUID.", pointer=pointer) from exc


METADATA_PREFIX = "metadata."
ACCOUNT_PROBLEMS = (*READ_PROBLEMS, 422)
AccountIdPath = Annotated[str, PathParameter(description="The account's id")]
PageCursor = Annotated[str | None, QueryParameter(description="The previous page's `next_cursor`")]
PageLimit = Annotated[
    int, QueryParameter(ge=1, le=limits.PAGE_ITEMS_MAX, description="Most items in a page")
]
REPLAYED = {"Idempotency-Replayed": "true"}
REPLAYED_HEADER = ResponseHeader(
    name="Idempotency-Replayed",
    documentation_only=True,
    description="`true` when an earlier sending of this request was accepted",
)
ETAG_HEADER = ResponseHeader(
    name="ETag", documentation_only=True, description="Changes with the account's configuration"
)
KEY_HEADER = DescribedParameter(
    name="Idempotency-Key",
    param_in="header",
    required=False,
    schema=Schema(min_length=1, max_length=limits.IDEMPOTENCY_KEY_LENGTH_MAX),
    description="Your name for this one intention, 1 to 255 visible ASCII characters, kept for "
    "ever. A refusal is not remembered: the same key may succeed later.",
)
IF_MATCH_HEADER = DescribedParameter(
    name="If-Match",
    param_in="header",
    required=False,
    schema=Schema(type=OpenAPIType.STRING),
    description="Change the account only if it still has this ETag, or one of these; else 412",
)


def is_dry_run(request: HttpRequest) -> bool:
    """Tell whether a client only asks what would happen; raises `InvalidParameter`."""
    sent = request.query_params.getall("dry_run", [])
    if sent not in ([], ["true"], ["false"]):
        raise errors.InvalidParameter("`dry_run` is true or false.", pointer="/dry_run")
    return sent == ["true"]


def _in_query(name: str, schema: Schema, description: str) -> DescribedParameter:
    return DescribedParameter(
        name=name, param_in="query", required=False, schema=schema, description=description
    )


DRY_RUN = _in_query(
    "dry_run",
    Schema(type=OpenAPIType.BOOLEAN),
    "Say what would happen and change nothing: 200 with what accounts would have, or the refusal",
)
FORESEEN = {
    200: ResponseSpec(DryRunAnswer, generate_examples=False, description="What a dry run foresees")
}
LIST_PARAMETERS = (
    _in_query("currency", Schema(type=OpenAPIType.STRING), "ISO 4217: accounts in this currency"),
    _in_query(
        "frozen",
        Schema(type=OpenAPIType.STRING, enum=[each.value for each in Frozen]),
        "Accounts that are frozen in this way",
    ),
    _in_query(
        "closed", Schema(type=OpenAPIType.BOOLEAN), "Accounts that are closed, or that are not"
    ),
    _in_query(
        f"{METADATA_PREFIX}<key>",
        Schema(type=OpenAPIType.STRING),
        "Accounts whose metadata has this value under the key; any number of keys",
    ),
    _in_query("cursor", Schema(type=OpenAPIType.STRING), "The previous page's `next_cursor`"),
    _in_query(
        "limit",
        Schema(type=OpenAPIType.INTEGER, minimum=1, maximum=limits.PAGE_ITEMS_MAX),
        "Most accounts in a page",
    ),
)
