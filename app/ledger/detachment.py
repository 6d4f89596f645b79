"""Old months of the journal, taken out of it by an operator; their tables stay where they are."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime

from app import errors
from app.ledger.statement_store import READ_QUERIES
from app.ledger.store import SHARD, LedgerStore

_MONTH = re.compile(r"(\d{4})-(0[1-9]|1[0-2])", re.ASCII)
_REFUSALS = {
    "nothing": "no month before that is attached",
    "pending": "something of those months is not settled",
    "not_final": "something of those months may still be on its way, or this role may not know",
    "unsettled": "no settlement has recorded yet that all of those months is folded",
    "in_default": "entries of those months are in journal_entries_default, which stays attached",
}


def month_of(text: str | None) -> datetime:
    """Read the beginning of a month; raises `InvalidParameter`."""
    match = _MONTH.fullmatch(text or "")
    if match is None or match[1] == "0000":
        raise errors.InvalidParameter("--before must be a month: YYYY-MM.", pointer="/before")
    return datetime(int(match[1]), int(match[2]), 1, tzinfo=UTC)


async def detach_months(
    store: LedgerStore, before: datetime, actor: str, reason: str
) -> Sequence[str]:
    """Detach the months before one and write that down; returns their tables.

    Raises `DetachmentRefused`, and `PostgresUnavailable` where the journal was too busy: nothing
    changed then.
    """
    rows = await store.fetch_sql(READ_QUERIES["detach"], SHARD, before, actor, reason)
    outcome, tables = rows[0]
    if outcome != "detached":
        raise errors.DetachmentRefused(f"nothing was detached: {_REFUSALS[outcome]}")
    detached: Sequence[str] = tables
    return detached
