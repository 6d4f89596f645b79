"""What was: balances as of an instant, statements, searches."""

from collections.abc import Mapping
from datetime import datetime

import msgspec

from subbalance.amounts import Amount, amount_text
from subbalance.answers import BalanceAt, Basis, Statement, StatementRow, Transaction, Type
from subbalance.call import Answer, Call, Listing, get, instant_text, reads, segment

Instant = datetime | str
_read_balance_at = reads(BalanceAt)
_read_statement = reads(Statement)


class _Found(msgspec.Struct):
    transactions: list[Transaction]
    next_cursor: str | None = None


_read_found_page = reads(_Found)


def get_balance_at(account_id: str, at: Instant, *, by: Basis | None = None) -> Call[BalanceAt]:
    """Read a balance as of an instant: of what was booked by then, or `effective` by then."""
    query = {"at": instant_text(at), "by": by}
    return get(f"/api/v1/balance/{segment(account_id)}", _read_balance_at, query)


def get_statement(
    account_id: str,
    *,
    start: Instant | None = None,
    end: Instant | None = None,
    cursor: str | None = None,
    page_items: int | None = None,
) -> Call[Statement]:
    """Read a page of what moved an account from `start` to before `end`, with running balances."""
    query = {
        "from": instant_text(start),
        "to": instant_text(end),
        "cursor": cursor,
        "limit": page_items,
    }
    return get(f"/api/v1/accounts/{segment(account_id)}/statement", _read_statement, query)


def list_statement(
    account_id: str,
    *,
    start: Instant | None = None,
    end: Instant | None = None,
    page_items: int | None = None,
) -> Listing[StatementRow]:
    """Go through the rows of a statement, each once, in the order they were booked."""

    def page(cursor: str | None) -> Call[tuple[list[StatementRow], str | None]]:
        whole = get_statement(
            account_id, start=start, end=end, cursor=cursor, page_items=page_items
        )
        return get(whole.path, _read_rows, whole.query)

    return Listing(page)


def search_transactions(
    *,
    account_id: str | None = None,
    reference: str | None = None,
    status: str | None = None,
    type: Type | None = None,  # noqa: A002  the service's word
    start: Instant | None = None,
    end: Instant | None = None,
    amount_min: Amount | None = None,
    amount_max: Amount | None = None,
    metadata: Mapping[str, str] | None = None,
    page_items: int | None = None,
) -> Listing[Transaction]:
    """Go through the transactions of an account or with a reference, the newest first."""
    if account_id is None and reference is None:
        raise ValueError("a search needs an account_id or a reference")
    wanted: dict[str, str | int | None] = {
        "account_id": account_id,
        "reference": reference,
        "status": status,
        "type": type,
        "from": instant_text(start),
        "to": instant_text(end),
        "amount_min": None if amount_min is None else amount_text(amount_min),
        "amount_max": None if amount_max is None else amount_text(amount_max),
        "limit": page_items,
        **{f"metadata.{name}": value for name, value in (metadata or {}).items()},
    }
    return Listing(
        lambda cursor: get("/api/v1/transactions", _read_found, {**wanted, "cursor": cursor})
    )


def _read_rows(answer: Answer) -> tuple[list[StatementRow], str | None]:
    page = _read_statement(answer)
    return page.rows, page.next_cursor


def _read_found(answer: Answer) -> tuple[list[Transaction], str | None]:
    page = _read_found_page(answer)
    return page.transactions, page.next_cursor
