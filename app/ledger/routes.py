"""The ledger over HTTP. Handlers read, call one use case, and answer."""

import asyncio
from typing import Annotated, Any

import msgspec
from litestar import Response, Router, delete, get, post
from litestar.datastructures import State
from litestar.params import PathParameter

from app import errors, limits
from app.infra.http import (
    READ_PROBLEMS,
    WRITE_PROBLEMS,
    HttpRequest,
    described_body,
    described_parameters,
    documented,
    encode,
    json_answer,
    read_json,
)
from app.kit.decoding import check_json_type, decode_json, echo, idempotency_key
from app.ledger.account_routes import get_account, get_accounts, patch_account, post_account
from app.ledger.account_schemas import AccountBody, AccountsBody
from app.ledger.bulk_routes import post_transactions
from app.ledger.cleanup import empty_account
from app.ledger.codes import Direction
from app.ledger.dry_run_schemas import DryRunAnswer, dry_run_answer
from app.ledger.history_parameters import BALANCE_PARAMETERS, balance_parameters
from app.ledger.hold_routes import (
    HOLD,
    get_hold,
    get_holds,
    post_capture,
    post_hold,
    post_release,
)
from app.ledger.hot_routes import HotRoute, Sent, answer_hot, read_body, sent_in
from app.ledger.model import Acceptance, AccountRequest, Transaction, TransactionRequest
from app.ledger.parameters import (
    ACCOUNT_PROBLEMS,
    DRY_RUN,
    FORESEEN,
    KEY_HEADER,
    REPLAYED_HEADER,
    AccountIdPath,
    PageCursor,
    PageLimit,
    is_dry_run,
    uuid_of,
)
from app.ledger.reversal_routes import post_reversal
from app.ledger.schemas import (
    BalanceAnswer,
    PendingAnswer,
    TestAccountsAnswer,
    TestCleanupAnswer,
    TransactionAnswer,
    TransactionBody,
    TransactionView,
    VerifyAnswer,
    balance_answer,
    pending_answer,
    refused,
    transaction_answer,
    transaction_view,
    verify_answer,
)
from app.ledger.search_routes import find_transactions
from app.ledger.service import LedgerService
from app.ledger.statement_routes import HISTORY_PROBLEMS, get_statement
from app.ledger.statement_schemas import BalanceAtAnswer, balance_at_answer
from app.ledger.transfer_routes import (
    TRANSFER,
    find_group,
    get_group,
    get_transfer,
    post_group,
    post_transfer,
)

_decode_transaction = msgspec.json.Decoder(TransactionBody)
_decode_accounts = msgspec.json.Decoder(AccountsBody)


def transaction_request(sent: Sent) -> TransactionRequest:
    """Read and check what a client sent; the first part of every answer to it."""
    check_json_type(sent.content_type)
    body = decode_json(_decode_transaction, sent.body)
    return body.to_request(idempotency_key(sent.key_header))


def _begin_transaction(ledger: LedgerService, sent: Sent) -> "asyncio.Future[Acceptance]":
    request = transaction_request(sent)
    return ledger.begin_transaction(request)


def accepted_body(accepted: Acceptance) -> bytes:
    """Write the body of the 201."""
    return encode(transaction_answer(accepted.transaction))


def refusal(error: errors.LedgerError, body: bytes) -> errors.LedgerError:
    """Give a refusal what the specification wants in it beside the problem."""
    echoed = echo(body, "account_id", "amount", "type")
    if echoed["type"] not in tuple(Direction):
        del echoed["type"]
    return refused(error, error.pointer, **echoed)


def _known_of(accepted: Acceptance) -> dict[str, Any]:
    return {"transaction_id": accepted.transaction.transaction_id}


TRANSACTION = HotRoute("/api/v1/transaction", _begin_transaction, accepted_body, _known_of, refusal)
HOT_ROUTES = {route.path.encode(): route for route in (TRANSACTION, TRANSFER, HOLD)}


@post(
    TRANSACTION.path,
    summary="Debit or credit an account",
    response_headers=[REPLAYED_HEADER],
    operation_class=described_body(TransactionBody, KEY_HEADER, DRY_RUN),
    responses=documented(201, TransactionAnswer, WRITE_PROBLEMS) | FORESEEN,
)
async def post_transaction(request: HttpRequest, state: State) -> Response[bytes]:
    """Debit or credit one account. 201 means it is durable; settlement follows within seconds."""
    if is_dry_run(request):
        return json_answer(await _foreseen(request, state.ledger))
    return await answer_hot(TRANSACTION, request, state.ledger)


async def _foreseen(request: HttpRequest, ledger: LedgerService) -> DryRunAnswer:
    """Say what would be answered, and refuse as it would."""
    body = b""
    try:
        body = await read_body(request)
        wanted = transaction_request(sent_in(request, body))
        return dry_run_answer(await ledger.foresee_transaction(wanted))
    except errors.LedgerError as error:
        raise refusal(error, body) from error


@get(
    "/api/v1/balance/{account_id:str}",
    summary="Read a balance",
    operation_class=described_parameters(*BALANCE_PARAMETERS),
    responses=documented(200, BalanceAnswer | BalanceAtAnswer, HISTORY_PROBLEMS),
)
async def get_balance(
    account_id: AccountIdPath, request: HttpRequest, state: State
) -> Response[bytes]:
    """Read a balance, exact at one instant: `available_balance` counts what is pending.

    With `at`, the balance as of that instant, the other answer: what was booked at it or before. By
    effective time what was backdated counts from then; more may be backdated later.
    """
    at, by = balance_parameters(request.query_params.multi_items())
    if at is None:
        return json_answer(balance_answer(await state.ledger.balance(account_id)))
    answer = balance_at_answer(await state.ledger.statements.balance_at(account_id, at, by))
    return json_answer(answer)


@get(
    "/api/v1/pending/{account_id:str}",
    summary="Read what is pending",
    responses=documented(200, PendingAnswer, ACCOUNT_PROBLEMS),
)
async def get_pending(
    account_id: AccountIdPath,
    state: State,
    cursor: PageCursor = None,
    limit: PageLimit = limits.PAGE_ITEMS_DEFAULT,
) -> Response[bytes]:
    """Read what is accepted and not settled; `count` and totals cover all of it."""
    return json_answer(pending_answer(await state.ledger.pending(account_id, cursor, limit)))


@get(
    "/api/v1/transactions/{transaction_id:str}",
    summary="Find a transaction by id",
    responses=documented(200, TransactionView, READ_PROBLEMS),
)
async def get_transaction(
    transaction_id: Annotated[str, PathParameter(description="The transaction's UUID")],
    state: State,
) -> Response[bytes]:
    """Find a transaction by its id, from the moment it was accepted and for ever."""
    wanted = uuid_of(transaction_id, "/transaction_id")
    return json_answer(await _viewed(state.ledger, await state.ledger.transaction(wanted)))


async def _viewed(ledger: LedgerService, transaction: Transaction) -> TransactionView:
    """Show a transaction with what takes it back."""
    return transaction_view(transaction, await ledger.reversal_id(transaction))


@get(
    "/api/v1/verify",
    summary="Prove that the books are right",
    responses=documented(200, VerifyAnswer, (405, 500, 503)),
)
async def get_verify(state: State) -> Response[bytes]:
    """Compare Redis, balances, settlements and journal, exact while traffic flows.

    One run at a time. A history too long for one run is gone through by the runs that follow.
    """
    return json_answer(verify_answer(await state.ledger.verify()))


@post(
    "/test/accounts",
    summary="Open test accounts",
    operation_class=described_body(AccountsBody),
    request_max_body_size=limits.TEST_BODY_BYTES_MAX,
    responses=documented(201, TestAccountsAnswer, WRITE_PROBLEMS),
)
async def post_test_accounts(request: HttpRequest, state: State) -> Response[bytes]:
    """Open accounts for tests; those that are there already are left as they are."""
    body = await read_json(request, _decode_accounts)
    requests = [
        _checked(account, number, state.default_currency)
        for number, account in enumerate(body.accounts)
    ]
    opened = present = 0
    for wanted in requests:
        marked = msgspec.structs.replace(wanted, metadata={**wanted.metadata, "test": "true"})
        try:
            _, replayed = await state.ledger.open_account(marked)
        except errors.AccountExists:
            replayed = True
        present += replayed
        opened += not replayed
    return json_answer(TestAccountsAnswer(opened=opened, present=present), 201)


def _checked(account: AccountBody, number: int, default_currency: str) -> AccountRequest:
    """Check one account of several, naming its place in the list when it is wrong."""
    try:
        return account.to_request(default_currency)
    except errors.Rejected as error:
        error.pointer = f"/accounts/{number}{error.pointer or ''}"
        raise


@delete(
    "/test/cleanup",
    summary="Empty test accounts",
    status_code=200,
    responses=documented(200, TestCleanupAnswer, (*ACCOUNT_PROBLEMS, 409)),
)
async def delete_test_cleanup(state: State) -> Response[bytes]:
    """Bring every test account to zero by ordinary transactions, after what is frozen was thawed
    and what is held released; nothing is deleted.
    """
    account_ids = await state.ledger.test_account_ids()
    emptied = 0
    for account_id in account_ids:
        emptied += await empty_account(state.ledger, account_id)
    return json_answer(TestCleanupAnswer(accounts=len(account_ids), emptied=emptied))


def ledger_router(*, test_mode: bool) -> Router:
    """Build the ledger's routes; those for tests only when asked."""
    handlers: list[Any] = [
        post_transaction,
        post_transactions,
        get_balance,
        get_pending,
        get_transaction,
        post_reversal,
        find_transactions,
        get_statement,
        post_account,
        get_account,
        patch_account,
        get_accounts,
        post_transfer,
        get_transfer,
        post_group,
        get_group,
        find_group,
        post_hold,
        post_capture,
        post_release,
        get_hold,
        get_holds,
        get_verify,
    ]
    if test_mode:
        handlers += [post_test_accounts, delete_test_cleanup]
    return Router(path="/", route_handlers=handlers, tags=["ledger"])
