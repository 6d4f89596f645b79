"""Accounts over HTTP: opening, reading, changing and listing them."""

import re
from collections.abc import Iterable

import msgspec
from litestar import Response, get, patch, post
from litestar.datastructures import State

from app import errors, limits
from app.infra.http import (
    READ_PROBLEMS,
    WRITE_PROBLEMS,
    HttpRequest,
    described_body,
    described_parameters,
    documented,
    json_answer,
    read_json,
)
from app.kit.decoding import check_metadata
from app.kit.money import currency_exponent
from app.ledger.account_schemas import (
    AccountAnswer,
    AccountBody,
    AccountChangeBody,
    AccountsAnswer,
    account_answer,
    accounts_answer,
)
from app.ledger.codes import Frozen
from app.ledger.dry_run_schemas import DryRunAnswer, dry_run_answer
from app.ledger.model import AccountDetails, AccountFilter
from app.ledger.parameters import (
    ACCOUNT_PROBLEMS,
    DRY_RUN,
    ETAG_HEADER,
    FORESEEN,
    IF_MATCH_HEADER,
    LIST_PARAMETERS,
    METADATA_PREFIX,
    REPLAYED,
    REPLAYED_HEADER,
    AccountIdPath,
    is_dry_run,
)

_decode_account = msgspec.json.Decoder(AccountBody)
_decode_change = msgspec.json.Decoder(AccountChangeBody)
_ETAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]*"', re.ASCII)
_ETAGS = re.compile(rf"\s*{_ETAG.pattern}(?:\s*,\s*{_ETAG.pattern})*\s*", re.ASCII)
_OWN_ETAG = re.compile(r'"([1-9][0-9]{0,17})"', re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)
_ETAGS_LENGTH_MAX = 1_000


@post(
    "/api/v1/accounts",
    summary="Open an account",
    response_headers=[REPLAYED_HEADER, ETAG_HEADER],
    operation_class=described_body(AccountBody, DRY_RUN),
    responses=documented(201, AccountAnswer, WRITE_PROBLEMS) | FORESEEN,
)
async def post_account(request: HttpRequest, state: State) -> Response[bytes]:
    """Open an account; an opening balance is a credit from the currency's external account. Asked
    for again it is answered with the account as it is now.
    """
    body = await read_json(request, _decode_account)
    wanted, ledger = body.to_request(state.default_currency), state.ledger
    if is_dry_run(request):
        return json_answer(dry_run_answer(await ledger.foresee_account(wanted)))
    details, replayed = await ledger.open_account(wanted)
    headers = {"ETag": details.etag, **(REPLAYED if replayed else {})}
    return json_answer(account_answer(details), 201, headers)


@get(
    "/api/v1/accounts/{account_id:str}",
    summary="Read an account",
    response_headers=[ETAG_HEADER],
    responses=documented(200, AccountAnswer, ACCOUNT_PROBLEMS),
)
async def get_account(account_id: AccountIdPath, state: State) -> Response[bytes]:
    """Read an account's configuration; the ETag changes when it does."""
    details: AccountDetails = await state.ledger.account(account_id)
    return json_answer(account_answer(details), headers={"ETag": details.etag})


@patch(
    "/api/v1/accounts/{account_id:str}",
    summary="Change, freeze or close an account",
    response_headers=[ETAG_HEADER],
    operation_class=described_body(AccountChangeBody, IF_MATCH_HEADER, DRY_RUN),
    responses=documented(200, AccountAnswer | DryRunAnswer, (*WRITE_PROBLEMS, 412)),
)
async def patch_account(
    account_id: AccountIdPath, request: HttpRequest, state: State
) -> Response[bytes]:
    """Change an account; in force on every instance and in both modes when 200 is answered.

    Transactions that are under way are waited for, and those that come meanwhile wait. A lower
    limit must leave the account enough; closing needs a balance of zero and is final. A change
    that changes nothing keeps the ETag.
    """
    body = await read_json(request, _decode_change)
    change = body.to_change(_config_versions(request.headers.get("if-match")))
    if is_dry_run(request):
        return json_answer(dry_run_answer(await state.ledger.foresee_change(account_id, change)))
    details: AccountDetails = await state.ledger.change_account(account_id, change)
    return json_answer(account_answer(details), headers={"ETag": details.etag})


@get(
    "/api/v1/accounts",
    summary="List accounts",
    operation_class=described_parameters(*LIST_PARAMETERS),
    responses=documented(200, AccountsAnswer, READ_PROBLEMS),
)
async def get_accounts(request: HttpRequest, state: State) -> Response[bytes]:
    """List customers' accounts in the order they were opened, those that are as wanted.

    Go on until there is no `next_cursor`: a page looks at a bounded number of accounts, so it may
    have few or none of those that are wanted although there are more.
    """
    asked = _single(request.query_params.multi_items())
    cursor = asked.pop("cursor", None)
    limit = _limit(asked.pop("limit", str(limits.PAGE_ITEMS_DEFAULT)))
    page = await state.ledger.list_accounts(_filter(asked), cursor, limit)
    return json_answer(accounts_answer(page))


def _config_versions(if_match: str | None) -> tuple[int, ...] | None:
    """Read an If-Match header as versions that an account may have, None for any."""
    if if_match is None or if_match.strip() == "*":
        return None
    if len(if_match) > _ETAGS_LENGTH_MAX or not _ETAGS.fullmatch(if_match):
        raise errors.InvalidParameter(
            "If-Match is '*' or a list of ETags.", pointer="/headers/If-Match"
        )
    own = (_OWN_ETAG.fullmatch(etag) for etag in _ETAG.findall(if_match))
    return tuple(int(match[1]) for match in own if match is not None)


def _single(items: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Take parameters by name, each at most once."""
    asked: dict[str, str] = {}
    for name, value in items:
        if name in asked:
            raise _wrong(name, "It may be given once.")
        asked[name] = value
    return asked


def _limit(text: str) -> int:
    if not _NUMBER.fullmatch(text) or not 1 <= int(text) <= limits.PAGE_ITEMS_MAX:
        raise _wrong("limit", f"It must be a number from 1 to {limits.PAGE_ITEMS_MAX}.")
    return int(text)


def _filter(asked: dict[str, str]) -> AccountFilter:
    """Read which accounts are wanted; raises one error for each way to be wrong."""
    metadata = {
        name.removeprefix(METADATA_PREFIX): asked.pop(name)
        for name in list(asked)
        if name.startswith(METADATA_PREFIX)
    }
    check_metadata(metadata)
    currency, frozen, closed = (asked.pop(name, None) for name in ("currency", "frozen", "closed"))
    if asked:
        raise _wrong(next(iter(asked)), "This list has no such parameter.")
    if currency is not None:
        try:
            currency_exponent(currency)
        except errors.UnknownCurrency as error:
            error.pointer = "/currency"
            raise
    if frozen is not None and frozen not in tuple(Frozen):
        raise _wrong("frozen", f"It must be one of {', '.join(Frozen)}.")
    if closed not in (None, "true", "false"):
        raise _wrong("closed", "It must be true or false.")
    return AccountFilter(
        currency=currency,
        frozen=None if frozen is None else Frozen(frozen),
        closed=None if closed is None else closed == "true",
        metadata=metadata,
    )


def _wrong(name: str, why: str) -> errors.InvalidParameter:
    shown = name[: limits.METADATA_KEY_LENGTH_MAX]
    return errors.InvalidParameter(why, pointer=f"/{shown}")
