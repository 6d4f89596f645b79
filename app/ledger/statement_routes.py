"""Statements over HTTP."""

from urllib.parse import urlencode

from litestar import Response, get
from litestar.datastructures import ResponseHeader, State

from app import limits
from app.infra.http import JSON, HttpRequest, described_parameters, documented, json_answer
from app.kit.money import decimal_text
from app.ledger.history import Period, Place, Statement
from app.ledger.history_parameters import STATEMENT_PARAMETERS, Asked, period_of, wrong
from app.ledger.parameters import ACCOUNT_PROBLEMS, AccountIdPath
from app.ledger.schemas import instant
from app.ledger.statement_schemas import StatementAnswer, statement_answer, statement_csv

_CSV = "text/csv"
HISTORY_PROBLEMS = (*ACCOUNT_PROBLEMS, 410)
_CSV_HEADERS = {
    "Link": "CSV: the next page, if there is one, as rel=next",
    "X-Opening-Balance": "CSV: the balance before the first row",
    "X-Closing-Balance": "CSV: the balance after the last row",
    "X-Statement-To": "CSV: rows booked before this instant",
    "X-Watermark": "CSV: everything booked before this instant is known",
    "X-Is-Final": "CSV: `true` when nothing can be added to the period that was asked for",
}


@get(
    "/api/v1/accounts/{account_id:str}/statement",
    summary="Read a statement",
    operation_class=described_parameters(*STATEMENT_PARAMETERS, text_form=_CSV),
    response_headers=[
        ResponseHeader(name=name, documentation_only=True, description=description)
        for name, description in _CSV_HEADERS.items()
    ],
    responses=documented(200, StatementAnswer, HISTORY_PROBLEMS),
)
async def get_statement(
    account_id: AccountIdPath, request: HttpRequest, state: State
) -> Response[bytes]:
    """Read what moved an account in a period, in the order it was booked, with running balances.

    A page ends at the watermark at most, so no entry that is committed later belongs before its
    last row: going on from `next_cursor` gives each row once, and no row but its status changes.
    Without `from` the statement begins with the account, without `to` it ends at the watermark.
    CSV has the same rows, and the rest of the answer in headers; text that a spreadsheet would take
    for a formula begins with an apostrophe there.
    """
    asked = Asked(request.query_params.multi_items())
    is_csv = _wants_csv(asked.text("format"), request)
    start, end = period_of(asked)
    cursor = asked.text("cursor")
    most = limits.STATEMENT_ROWS_MAX if is_csv else limits.PAGE_ITEMS_MAX
    period = Period(
        start=start,
        end=end,
        after=None if cursor is None else Place.of_cursor(cursor),
        limit=asked.limit(most if is_csv else limits.PAGE_ITEMS_DEFAULT, most),
    )
    asked.end()
    page: Statement = await state.ledger.statements.statement(account_id, period)
    if not is_csv:
        return json_answer(statement_answer(page))
    return Response(await statement_csv(page), headers=_headers(page, request), media_type=_CSV)


def _wants_csv(form: str | None, request: HttpRequest) -> bool:
    if form is None:
        return request.accept.best_match([JSON, _CSV], default=JSON) == _CSV
    if form not in ("json", "csv"):
        raise wrong("format", "It must be json or csv.")
    return form == "csv"


def _headers(page: Statement, request: HttpRequest) -> dict[str, str]:
    """What a page in CSV says beside its rows."""
    exponent, name = page.account.exponent, page.account.account_id.replace(":", "-")
    headers = {
        "Content-Disposition": f'attachment; filename="statement-{name}.csv"',
        "X-Opening-Balance": decimal_text(page.opening_minor, exponent),
        "X-Closing-Balance": decimal_text(page.closing_minor, exponent),
        "X-Statement-To": instant(page.end),
        "X-Watermark": instant(page.watermark),
        "X-Is-Final": "true" if page.is_final else "false",
    }
    if page.next_place is not None:
        again = dict(request.query_params.items()) | {
            "format": "csv",
            "cursor": page.next_place.cursor,
        }
        headers["Link"] = f'<{request.url.path}?{urlencode(again)}>; rel="next"'
    return headers
