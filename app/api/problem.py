"""Every error as RFC 9457 problem+json, the framework's own included."""

import itertools
import logging
import re
import secrets
from functools import lru_cache
from typing import Any

from litestar import Response
from litestar.datastructures import Headers, MutableScopeHeaders
from litestar.exceptions import HTTPException, ValidationException

from app import errors, limits
from app.infra.http import HttpRequest, encode, note, problem_content
from app.infra.log import fields

PROBLEM_TYPE = "application/problem+json"
_REQUEST_ID = re.compile(rf"[A-Za-z0-9._:-]{{1,{limits.REQUEST_ID_LENGTH_MAX}}}", re.ASCII)
# The framework says only in words which parameter is missing.
_MISSING = re.compile(r"Missing required \w+ parameter '(\w+)'")
_BY_STATUS: dict[int, type[errors.Rejected]] = {
    404: errors.NotFound,
    405: errors.MethodNotAllowed,
    413: errors.BodyTooLarge,
    415: errors.UnsupportedMediaType,
}
_SERVER_ERROR = 500
_log = logging.getLogger(__name__)
_numbers = itertools.count(1)


def request_id(sent: str | None) -> str:
    """Take a client's request id if it is harmless, else make one that no other process makes."""
    if sent and _REQUEST_ID.fullmatch(sent):
        return sent
    return f"{_process_name()}-{next(_numbers):x}"


@lru_cache(maxsize=1)
def _process_name() -> str:
    """Draw a name for this process, once."""
    return secrets.token_hex(5)


def problem(error: errors.LedgerError, request_id: str) -> tuple[int, dict[str, str], bytes]:
    """Render an error as status, headers and body."""
    content = problem_content(error) | {"request_id": request_id} | error.members
    headers = {"X-Request-ID": request_id}
    if error.retryable:
        headers["Retry-After"] = str(error.retry_after_s)
    headers |= error.headers
    if isinstance(error, errors.InvariantViolation):
        _log.error("%s", error.detail, exc_info=error, extra=fields(request_id=request_id))
    return error.status, headers, encode(content)


def known_of(error: errors.LedgerError) -> dict[str, Any]:
    """Give what a line of the log says of a refusal."""
    return {"code": error.code, "transaction_id": error.members.get("transaction_id")}


async def name_answer(message: Any, scope: Any) -> None:
    """Give every answer of the router a request id that has none yet."""
    if message["type"] == "http.response.start":
        headers = MutableScopeHeaders.from_message(message)
        if "x-request-id" not in headers:
            headers["X-Request-ID"] = request_id(Headers.from_scope(scope).get("x-request-id"))


def render(request: HttpRequest, raised: Exception) -> Response[bytes]:
    """Answer any exception of the router's as a problem."""
    headers: dict[str, str] = {}
    if isinstance(raised, errors.LedgerError):
        error = raised
    elif isinstance(raised, HTTPException):
        error = _of_framework(raised)
        headers = dict(raised.headers or {})
    else:
        _log.error("unexpected error", exc_info=raised)
        error = errors.InternalError()
    note(request.scope, **known_of(error))
    status, more, body = problem(error, request_id(request.headers.get("x-request-id")))
    media_type = PROBLEM_TYPE
    return Response(body, status_code=status, headers={**headers, **more}, media_type=media_type)


def _of_framework(raised: HTTPException) -> errors.LedgerError:
    if isinstance(raised, ValidationException):
        return errors.InvalidParameter(_first_complaint(raised), pointer=_first_pointer(raised))
    kind = _BY_STATUS.get(raised.status_code)
    if kind is not None:
        return kind()
    if raised.status_code < _SERVER_ERROR:
        return errors.InvalidParameter(str(raised.detail))
    _log.error("unexpected error", exc_info=raised)
    return errors.InternalError()


def _complaints(raised: ValidationException) -> list[dict[str, Any]]:
    extra = raised.extra if isinstance(raised.extra, list) else []
    return [complaint for complaint in extra if isinstance(complaint, dict)]


def _first_complaint(raised: ValidationException) -> str:
    complaints = _complaints(raised)
    return f"{complaints[0].get('message', raised.detail)}." if complaints else str(raised.detail)


def _first_pointer(raised: ValidationException) -> str | None:
    complaints = _complaints(raised)
    if complaints and complaints[0].get("key"):
        return f"/{complaints[0]['key']}"
    missing = _MISSING.match(str(raised.detail))
    return f"/{missing[1]}" if missing else None
