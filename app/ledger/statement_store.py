"""What PostgreSQL is asked about history."""

from datetime import datetime
from typing import Any

from app import limits
from app.infra.queries import load_queries
from app.kit.turns import Turns
from app.ledger.history import HistoryEntry, Horizon, Place, Search
from app.ledger.model import Account
from app.ledger.store import SHARD, LedgerStore, encode_json, transaction_of

READ_QUERIES = {name: query.sql for name, query in load_queries("reads").items()}
_Row = Any


class HistoryStore:
    """Reads of history; they have not more than some of the connections that reads have."""

    def __init__(self, store: LedgerStore) -> None:
        """Read through a store."""
        self.store = store
        self.turn = Turns(
            limits.HISTORY_READS_MAX,
            limits.HISTORY_WAIT_S,
            "Too many readings of history are waiting.",
        ).turn

    async def horizon(self) -> Horizon:
        """Tell how far history reaches for the reads that begin after this one."""
        row = (await self._fetch("watermark", SHARD))[0]
        return Horizon(row["watermark"], row["now"], row["rows_from"], row["balances_from"])

    async def booked_at(self, account: Account, place: Place) -> int | None:
        """Sum up all that was booked up to a place; None where it is detached."""
        rows = await self._fetch("booked_at", account.account_no, *place)
        balance = rows[0]["balance_minor"]
        return None if balance is None else int(balance)

    async def backdated_since(self, account: Account, before: datetime) -> int:
        """Sum up what was booked from an instant on and counts before it."""
        rows = await self._fetch("backdated_since", account.account_no, before)
        return int(rows[0]["change_minor"])

    async def entries(
        self, account: Account, after: Place, end: datetime, limit: int
    ) -> list[HistoryEntry]:
        """Read entries after a place and before an instant, in the order they were booked."""
        rows = await self._fetch("statement_rows", account.account_no, *after, end, limit)
        return [_entry(row) for row in rows]

    async def search(
        self, wanted: Search, account: Account | None, start: datetime, before: Place
    ) -> tuple[list[HistoryEntry], Place | None]:
        """Find at most one entry more than a page; and, if fewer were found among as many as may be
        looked at, the place of the last of those.
        """
        account_no = None if account is None else account.account_no
        rows = await self._fetch(
            "search",
            account_no,
            wanted.reference,
            start,
            *before,
            wanted.status,
            wanted.direction,
            wanted.amount_min,
            wanted.amount_max,
            None if not wanted.metadata else encode_json(wanted.metadata).decode(),
            wanted.limit + 1,
            limits.SEARCH_LOOKED_AT_MAX,
        )
        found = [_entry(row) for row in rows if row["batch_seq"] is not None]
        last = rows[0]
        if last["ended_at"] is None:
            return found, None
        return found, Place(last["ended_at"], last["ended_batch_seq"], last["ended_item_no"])

    async def _fetch(self, name: str, *arguments: Any) -> Any:
        return await self.store.fetch_sql(READ_QUERIES[name], *arguments)


def _entry(row: _Row) -> HistoryEntry:
    place = Place(row["created_at"], row["batch_seq"], row["item_no"])
    return HistoryEntry(transaction_of(row), place)
