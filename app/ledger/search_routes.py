"""Search over HTTP: transactions by what is known of them."""

from litestar import Response, get
from litestar.datastructures import State

from app import limits
from app.infra.http import HttpRequest, described_parameters, documented, json_answer
from app.kit.decoding import check_metadata, check_text, idempotency_key
from app.ledger.codes import Direction, EntryStatus
from app.ledger.history import Place, Search
from app.ledger.history_parameters import SEARCH_PARAMETERS, Asked, period_of, wrong
from app.ledger.parameters import METADATA_PREFIX
from app.ledger.schemas import TransactionView, transaction_view
from app.ledger.statement_routes import HISTORY_PROBLEMS
from app.ledger.statement_schemas import SearchAnswer, search_answer

_KEY = "idempotency_key"


@get(
    "/api/v1/transactions",
    summary="Find transactions",
    operation_class=described_parameters(*SEARCH_PARAMETERS),
    responses=documented(200, TransactionView | SearchAnswer, HISTORY_PROBLEMS),
)
async def find_transactions(request: HttpRequest, state: State) -> Response[bytes]:
    """Find the transaction accepted under an Idempotency-Key, which tells what became of an unclear
    request; or all that are as wanted, of one account or with one reference, the newest first.

    A search looks at 10,000 transactions a page at most, those with the reference if one is given,
    else those of the account: a page may have fewer than `limit`, or none, although there are more.
    Go on until `next_cursor` is null.
    """
    asked = Asked(request.query_params.multi_items())
    key = asked.text(_KEY)
    if key is not None:
        if asked:
            raise wrong(_KEY, "It names one transaction; no other parameter may stand beside it.")
        wanted = idempotency_key(key) or ""
        found = await state.ledger.transaction_by_key(wanted)
        return json_answer(transaction_view(found, await state.ledger.reversal_id(found)))
    return json_answer(search_answer(await state.ledger.searches.search(_search(asked))))


def _search(asked: Asked) -> Search:
    """Read what is sought; raises one error for each way to be wrong."""
    if "account_id" not in asked and "reference" not in asked:
        raise wrong("account_id", f"account_id, reference or {_KEY} is required.")
    start, end = period_of(asked)
    metadata = asked.starting(METADATA_PREFIX)
    check_metadata(metadata)
    reference, cursor = asked.text("reference"), asked.text("cursor")
    check_text(reference, limits.REFERENCE_LENGTH_MAX, "/reference")
    wanted = Search(
        account_id=asked.text("account_id"),
        reference=reference,
        status=asked.word("status", EntryStatus),
        direction=asked.word("type", Direction),
        start=start,
        end=end,
        amount_min=asked.amount("amount_min"),
        amount_max=asked.amount("amount_max"),
        metadata=metadata or None,
        before=None if cursor is None else Place.of_cursor(cursor),
        limit=asked.limit(limits.PAGE_ITEMS_DEFAULT, limits.PAGE_ITEMS_MAX),
    )
    asked.end()
    least, most = wanted.amount_min, wanted.amount_max
    if least is not None and most is not None and least > most:
        raise wrong("amount_max", "It must not be less than amount_min.")
    return wanted
