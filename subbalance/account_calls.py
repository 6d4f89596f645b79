"""Accounts: opened, read, changed and listed.

An account is named by its id and a change says what is to be, so neither needs a key: sent twice,
each does what it does sent once.
"""

from collections.abc import Mapping

import msgspec

from subbalance.amounts import Amount, amount_text
from subbalance.answers import Account, Balance, Foreseen, Frozen, Pending, Transaction
from subbalance.call import Answer, Call, Listing, content_of, get, reads, segment
from subbalance.dry_run import foresee

_ACCOUNTS = "/api/v1/accounts"
_JSON = {"Content-Type": "application/json"}
_read_account = reads(Account)
_read_balance = reads(Balance)
_read_pending = reads(Pending)


class _Accounts(msgspec.Struct):
    accounts: list[Account]
    next_cursor: str | None = None


_read_account_page = reads(_Accounts)


def open_account(
    account_id: str,
    *,
    currency: str | None = None,
    opening_balance: Amount = 0,
    credit_limit: Amount = 0,
    metadata: Mapping[str, str] | None = None,
) -> Call[Account]:
    """Open an account; the same again answers the account as it is, `replayed`."""
    body = {
        "account_id": account_id,
        "currency": currency,
        "opening_balance": amount_text(opening_balance),
        "credit_limit": amount_text(credit_limit),
        "metadata": metadata,
    }
    return Call("POST", _ACCOUNTS, _read_account, headers=_JSON, content=content_of(body))


def get_account(account_id: str) -> Call[Account]:
    """Read an account's configuration; its `etag` changes when that does."""
    return get(f"{_ACCOUNTS}/{segment(account_id)}", _read_account)


def change_account(
    account_id: str,
    *,
    credit_limit: Amount | None = None,
    frozen: Frozen | None = None,
    metadata: Mapping[str, str] | None = None,
    closed: bool | None = None,
    if_match: str | None = None,
) -> Call[Account]:
    """Change what is given and leave the rest; in force everywhere when this returns.

    With `if_match`, an `etag` that was read before, only if nothing changed since.
    """
    body = {
        "credit_limit": None if credit_limit is None else amount_text(credit_limit),
        "frozen": frozen,
        "metadata": metadata,
        "closed": closed,
    }
    headers = _JSON if if_match is None else {**_JSON, "If-Match": if_match}
    path = f"{_ACCOUNTS}/{segment(account_id)}"
    return Call("PATCH", path, _read_account, headers=headers, content=content_of(body))


def freeze_account(
    account_id: str, frozen: Frozen = "all", *, if_match: str | None = None
) -> Call[Account]:
    """Take no more debits, credits or transactions at all; `none` takes them again."""
    return change_account(account_id, frozen=frozen, if_match=if_match)


def close_account(account_id: str, *, if_match: str | None = None) -> Call[Account]:
    """Close an account for ever, at a balance of zero."""
    return change_account(account_id, closed=True, if_match=if_match)


def list_accounts(
    *,
    currency: str | None = None,
    frozen: Frozen | None = None,
    closed: bool | None = None,
    metadata: Mapping[str, str] | None = None,
    page_items: int | None = None,
) -> Listing[Account]:
    """Go through the accounts that are as wanted, in the order they were opened."""
    wanted: dict[str, str | int | bool | None] = {
        "currency": currency,
        "frozen": frozen,
        "closed": closed,
        "limit": page_items,
        **{f"metadata.{name}": value for name, value in (metadata or {}).items()},
    }
    return Listing(lambda cursor: get(_ACCOUNTS, _read_accounts, {**wanted, "cursor": cursor}))


def get_balance(account_id: str) -> Call[Balance]:
    """Read a balance, exact at one instant."""
    return get(f"/api/v1/balance/{segment(account_id)}", _read_balance)


def get_pending(
    account_id: str, *, cursor: str | None = None, page_items: int | None = None
) -> Call[Pending]:
    """Read what is accepted and not settled: count and totals of all of it, and a page."""
    query = {"cursor": cursor, "limit": page_items}
    return get(f"/api/v1/pending/{segment(account_id)}", _read_pending, query)


def list_pending(account_id: str, *, page_items: int | None = None) -> Listing[Transaction]:
    """Go through what is accepted and not settled."""
    path = f"/api/v1/pending/{segment(account_id)}"
    return Listing(
        lambda cursor: get(path, _read_pending_items, {"cursor": cursor, "limit": page_items})
    )


def _read_pending_items(answer: Answer) -> tuple[list[Transaction], str | None]:
    page = _read_pending(answer)
    return page.items, page.next_cursor


def _read_accounts(answer: Answer) -> tuple[list[Account], str | None]:
    page = _read_account_page(answer)
    return page.accounts, page.next_cursor


foresee_open_account = foresee(open_account, Foreseen)
foresee_change_account = foresee(change_account, Foreseen)
