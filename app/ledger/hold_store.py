"""What PostgreSQL is asked about holds."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from app.ledger.codes import HoldKind, HoldStatus, Mode
from app.ledger.holds import DoneAct, Hold
from app.ledger.model import Account
from app.ledger.store import QUERIES, LedgerStore, account_of, decode_metadata

_Row = Any


async def read_hold(store: LedgerStore, hold_id: UUID) -> Hold | None:
    """Read a hold as it is now."""
    rows = await store.fetch_sql(QUERIES["hold_by_id"], hold_id)
    return _hold(rows[0]) if rows else None


async def read_holds(
    store: LedgerStore, account_no: int, status: HoldStatus | None, after: int, limit: int
) -> tuple[list[Hold], int | None]:
    """Read a page of an account's holds in the order they were placed, after a number, and the
    number to go on from if there may be more.
    """
    if status is None:
        rows = await store.fetch_sql(QUERIES["holds_of_account"], account_no, after, limit + 1)
    else:
        wanted = (account_no, status, after, limit + 1)
        rows = await store.fetch_sql(QUERIES["holds_by_status"], *wanted)
    last = rows[limit - 1]["hold_no"] if len(rows) > limit else None
    return [_hold(row) for row in rows[:limit]], last


async def read_due_holds(
    store: LedgerStore, after: tuple[datetime, int], limit: int
) -> tuple[list[Hold], tuple[datetime, int] | None]:
    """Read holds whose time is up, after a time and number and the longest first, and the place to
    go on from if there may be more.
    """
    rows = await store.fetch_sql(QUERIES["holds_due"], *after, limit)
    last = (rows[-1]["expires_at"], rows[-1]["hold_no"]) if len(rows) == limit else None
    return [_hold(row) for row in rows], last


async def read_done_acts(
    store: LedgerStore, places: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], DoneAct]:
    """Read the acts that begin at places in the journal, each with the hold as it left it."""
    if not places:
        return {}
    columns = ([batch_seq for batch_seq, _ in places], [item_no for _, item_no in places])
    rows = await store.fetch_sql(QUERIES["hold_acts_at"], *columns)
    return {(row["act_batch_seq"], row["act_item_no"]): _done_act(row) for row in rows}


def _hold(row: _Row) -> Hold:
    metadata = row["metadata"]
    credit = None
    if row["credit_no"] is not None:
        credit = Account(row["credit_no"], row["credit_id"], row["currency"], row["exponent"])
    return Hold(
        hold_id=UUID(int=row["hold_id"].int),
        account=account_of(row),
        credit_account=credit,
        amount_minor=row["amount_minor"],
        captured_minor=row["captured_minor"],
        released_minor=row["released_minor"],
        status=HoldStatus(row["status"]),
        version=row["version"],
        expires_at=row["expires_at"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        mode=Mode(row["mode"]),
        reference=row["reference"],
        metadata=None if metadata is None else decode_metadata(metadata),
        is_due=bool(row["is_due"]),
    )


def _done_act(row: _Row) -> DoneAct:
    """Take the hold back to the version that the act left."""
    hold, kind = _hold(row), HoldKind(row["kind"])
    before = msgspec.structs.replace(
        hold,
        captured_minor=int(row["captured_before"]),
        released_minor=int(row["released_before"]),
        status=HoldStatus.HELD,
        version=row["act_version"] - 1,
        is_due=False,
    )
    if kind is HoldKind.PLACE:
        left = msgspec.structs.replace(
            before, version=1, updated_at=hold.created_at, mode=Mode(row["act_mode"])
        )
    else:
        figures = (row["act_captured"], row["act_released"])
        left = before.after(kind, *figures, row["acted_at"], Mode(row["act_mode"]))
    return DoneAct(kind=kind, asked=row["asked"], hold=left, attempt_id=row["act_attempt_id"])
