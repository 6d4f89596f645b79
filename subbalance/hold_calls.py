"""Holds: an amount set aside, captured in whole or in parts, released, or expired by itself."""

from collections.abc import Mapping
from uuid import UUID

import msgspec

from subbalance.amounts import Amount, amount_text
from subbalance.answers import Foreseen, Hold, HoldStatus
from subbalance.call import Answer, Call, Listing, get, reads, segment, write
from subbalance.dry_run import foresee

_HOLDS = "/api/v1/holds"
_read_hold = reads(Hold)


class _Holds(msgspec.Struct):
    holds: list[Hold]
    next_cursor: str | None = None


_read_hold_page = reads(_Holds)


def place_hold(
    account_id: str,
    amount: Amount,
    *,
    key: str | None = None,
    credit_account_id: str | None = None,
    expires_in_s: int | None = None,
    id: UUID | None = None,  # noqa: A002  the service's word
    reference: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Call[Hold]:
    """Set an amount aside; what is captured goes to `credit_account_id` or leaves the ledger."""
    body = {
        "account_id": account_id,
        "amount": amount_text(amount),
        "credit_account_id": credit_account_id,
        "expires_in_s": expires_in_s,
        "id": id,
        "reference": reference,
        "metadata": metadata,
    }
    return write(_HOLDS, _read_hold, body, key)


def capture_hold(
    hold_id: UUID | str,
    amount: Amount | None = None,
    *,
    final: bool | None = None,
    key: str | None = None,
) -> Call[Hold]:
    """Capture an amount, as often as it takes, or all that is left; `final` releases the rest."""
    body = {"amount": None if amount is None else amount_text(amount), "final": final}
    return write(f"{_HOLDS}/{segment(hold_id)}/capture", _read_hold, body, key)


def release_hold(hold_id: UUID | str, *, key: str | None = None) -> Call[Hold]:
    """Give back all that is held still."""
    return write(f"{_HOLDS}/{segment(hold_id)}/release", _read_hold, {}, key)


def get_hold(hold_id: UUID | str) -> Call[Hold]:
    """Read a hold as it is now."""
    return get(f"{_HOLDS}/{segment(hold_id)}", _read_hold)


def list_holds(
    account_id: str, *, status: HoldStatus | None = None, page_items: int | None = None
) -> Listing[Hold]:
    """Go through an account's holds in the order they were placed."""
    wanted = {"account_id": account_id, "status": status, "limit": page_items}
    return Listing(lambda cursor: get(_HOLDS, _read_holds, {**wanted, "cursor": cursor}))


def _read_holds(answer: Answer) -> tuple[list[Hold], str | None]:
    page = _read_hold_page(answer)
    return page.holds, page.next_cursor


foresee_place_hold = foresee(place_hold, Foreseen)
foresee_capture_hold = foresee(capture_hold, Foreseen)
foresee_release_hold = foresee(release_hold, Foreseen)
