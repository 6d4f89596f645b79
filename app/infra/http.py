"""What the routes of all rooms share: reading a JSON body, answering, describing a body.

It stands below the rooms, and so knows Litestar although nothing else of `infra` does: a room's
routes may not call up into `api`.
"""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec
from litestar import Request, Response
from litestar.exceptions import InternalServerException
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import (
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Parameter,
    RequestBody,
    Schema,
)

from app import errors, limits
from app.errors import BodyIncomplete, BodyTimeout, LedgerError
from app.kit.decoding import check_json_type, decode_json

T = TypeVar("T")
encode = msgspec.json.Encoder().encode
JSON = "application/json"
EVENT_STREAM = "text/event-stream"
# In the state of a guarded request: tells whether its key works now, for answers that take long.
STILL_ADMITTED = "still_admitted"
HttpRequest = Request[Any, Any, Any]


def note(scope: Any, **known: Any) -> None:
    """Leave with a request what its line in the log is to say."""
    scope.setdefault("state", {}).setdefault("noted", {}).update(known)


def noted_of(scope: Any) -> dict[str, Any]:
    """Give what was left with a request."""
    noted: dict[str, Any] = scope.get("state", {}).get("noted", {})
    return noted


async def read_json(request: HttpRequest, decoder: "msgspec.json.Decoder[T]") -> T:
    """Decode a request's body with our own errors instead of the framework's."""
    check_json_type(request.headers.get("content-type", ""))
    return decode_json(decoder, await read_in_time(request.body()))


async def read_optional_json(request: HttpRequest, decoder: "msgspec.json.Decoder[T]") -> T:
    """Decode a request's body as `read_json` does; no body at all is an empty object."""
    if await read_in_time(request.body()):
        return await read_json(request, decoder)
    return decode_json(decoder, b"{}")


async def read_in_time(body: Awaitable[bytes]) -> bytes:
    """Wait for a body; `BodyTimeout` when a client does not send it in time, `BodyIncomplete` when
    it goes away before, which the framework takes for a fault of ours.
    """
    try:
        async with asyncio.timeout(limits.BODY_READ_S):
            return await body
    except TimeoutError as exc:
        raise BodyTimeout from exc
    except InternalServerException as exc:
        raise BodyIncomplete from exc


def json_answer(
    content: Any, status: int = 200, headers: dict[str, str] | None = None
) -> Response[bytes]:
    """Answer with a struct as JSON."""
    return Response(encode(content), status_code=status, headers=headers, media_type=JSON)


class Problem(msgspec.Struct, kw_only=True):
    """RFC 9457 problem details.

    In a refused transaction `type` and `status` are the transaction's own, `debit` or `credit` and
    `REJECTED`; `problem_type` and `http_status` always describe the problem.
    """

    type: str
    problem_type: str
    title: str
    status: int | str
    http_status: int
    detail: str
    code: str
    retryable: bool
    request_id: str
    pointer: str | None = None
    success: bool | None = None
    account_id: str | float | None = None
    # A number may be whole; a schema that names both kinds would have whole ones fit twice.
    amount: str | float | None = None
    available: str | None = None
    requested: str | None = None
    balance: str | None = None
    transaction_id: str | None = None
    hold_status: str | None = None
    transfer_id: str | None = None
    expected_version: int | None = None
    from_: str | None = msgspec.field(default=None, name="from")


def problem_content(error: LedgerError, base: str = "") -> dict[str, Any]:
    """Describe an error as RFC 9457 problem details; `base` is where its pointer starts from."""
    content: dict[str, Any] = {
        "type": f"/problems/{error.code}",
        "problem_type": f"/problems/{error.code}",
        "title": (type(error).__doc__ or error.code).splitlines()[0],
        "status": error.status,
        "http_status": error.status,
        "detail": error.detail,
        "code": error.code,
        "retryable": error.retryable,
    }
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        # What the servers said is for the log; a client gets the sentence that goes with the code.
        content["detail"] = content["title"]
    if base or error.pointer is not None:
        content["pointer"] = base + (error.pointer or "")
    return content


GUARD_PROBLEMS = (401, 403, 429)
READ_PROBLEMS = (400, 404, 405, 500, 503)
WRITE_PROBLEMS = (400, 404, 405, 408, 409, 413, 415, 422, 500, 503)


def _codes_by_status() -> dict[int, list[str]]:
    """List every code a client may meet, by HTTP status, for the API document."""
    codes: dict[int, list[str]] = {}
    families = (
        errors.Rejected,
        errors.Unavailable,
        errors.OutcomeUnknown,
        errors.InvariantViolation,
    )
    for kind in (kind for family in families for kind in family.__subclasses__()):
        codes.setdefault(kind.status, []).append(kind.code)
    return codes


def documented(
    status: int,
    answer: Any,
    problems: tuple[int, ...],
    *,
    is_guarded: bool = True,
    media_type: str = JSON,
) -> dict[int, ResponseSpec]:
    """List a route's answers for the API document: the good one and its problems by status. What
    the guard refuses may come from every route that it guards.
    """
    done = ResponseSpec(answer, generate_examples=False, description="Done", media_type=media_type)
    responses = {status: done}
    codes = _codes_by_status()
    for number in (*problems, *GUARD_PROBLEMS) if is_guarded else problems:
        responses[number] = ResponseSpec(
            Problem,
            generate_examples=False,
            description=f"{HTTPStatus(number).phrase}. Codes: {', '.join(codes[number])}",
            media_type="application/problem+json",
        )
    return responses


class _RawSchema(Schema):
    """A JSON schema that is written out as it is."""

    def __init__(self, raw: dict[str, Any]) -> None:
        super().__init__()
        object.__setattr__(self, "raw", raw)

    def __hash__(self) -> int:
        """Stand for itself in the sets the document is built with."""
        return id(self)

    def to_schema(self) -> dict[str, Any]:
        """Return the JSON schema."""
        raw: dict[str, Any] = self.raw  # type: ignore[attr-defined]
        return raw


def _inlined(node: Any, definitions: dict[str, Any]) -> Any:
    """Put definitions where they are referred to; bodies do not contain themselves."""
    if isinstance(node, list):
        return [_inlined(part, definitions) for part in node]
    if not isinstance(node, dict):
        return node
    inlined = {
        name: _inlined(part, definitions)
        for name, part in node.items()
        if name not in ("$ref", "$defs")
    }
    if "$ref" in node:
        target = definitions[node["$ref"].removeprefix("#/$defs/")]
        inlined = _inlined(target, definitions) | inlined
    return inlined


def described_parameters(*parameters: Parameter, text_form: str | None = None) -> type[Operation]:
    """Make the operation class of a route that reads its query parameters itself; `text_form` is
    the media type of another form of its good answer.
    """

    @dataclass
    class DescribedOperation(Operation):
        """An operation with its parameters described."""

        def __post_init__(self) -> None:
            self.parameters = [*(self.parameters or []), *parameters]
            good = (self.responses or {}).get("200")
            if text_form is not None and isinstance(good, OpenAPIResponse):
                media_type = OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING))
                good.content = {**(good.content or {}), text_form: media_type}

    return DescribedOperation


def described_events(data: type) -> type[Operation]:
    """Make the operation class of a route that answers with server-sent events, whose data is the
    given struct as JSON.
    """
    schema = msgspec.json.schema(data)
    inlined = _inlined(schema, schema["$defs"])
    told = {"type": "string", "contentMediaType": JSON, "contentSchema": inlined}
    event = {"type": "object", "properties": {"data": told}, "required": ["data"]}

    @dataclass
    class DescribedOperation(Operation):
        """An operation with its events described."""

        def __post_init__(self) -> None:
            good = (self.responses or {})["200"]
            if isinstance(good, OpenAPIResponse):
                good.content = {EVENT_STREAM: OpenAPIMediaType(schema=_RawSchema(event))}

    return DescribedOperation


def described_body(
    body: type, *headers: Parameter, media_types: tuple[str, ...] = (JSON,)
) -> type[Operation]:
    """Make the operation class of a route whose body `read_json` decodes as the given struct."""
    schema = msgspec.json.schema(body)
    raw = _inlined(schema, schema["$defs"])

    @dataclass
    class DescribedOperation(Operation):
        """An operation with its request body described."""

        def __post_init__(self) -> None:
            media_type = OpenAPIMediaType(schema=_RawSchema(raw))
            content = dict.fromkeys(media_types, media_type)
            self.request_body = RequestBody(content=content, required=True)
            self.parameters = [*(self.parameters or []), *headers]

    return DescribedOperation
