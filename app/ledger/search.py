"""Search for transactions, the newest first, within a bound on how many a page looks at."""

from datetime import UTC, datetime

from app import errors
from app.ledger.history import Found, Place, Search
from app.ledger.model import EXTERNAL_PREFIX, Account, check_account_id
from app.ledger.statement_store import HistoryStore
from app.ledger.statements import check_attached

_FIRST = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)


class Searches:
    """Finds transactions."""

    def __init__(self, history: HistoryStore) -> None:
        """Read through a store of history."""
        self._history = history

    async def search(self, wanted: Search) -> Found:
        """Find a page of transactions of an account or with a reference.

        Unlike a statement it shows what was booked a moment ago; an entry that is committed late
        may come to stand above a page that was read.
        """
        async with self._history.turn():
            account = await self._account(wanted.account_id)
            start = wanted.start or _FIRST
            before = wanted.before or Place(wanted.end or _LAST)
            if before.at < start:
                raise errors.InvalidCursor(pointer="/cursor")
            entries, ended = await self._history.search(wanted, account, start, before)
            horizon = await self._history.horizon()
        rows_from = horizon.rows_from
        # Down to where months were detached there is something to find; who goes on is told.
        if wanted.start is not None or before.at <= (rows_from or _FIRST):
            check_attached(min(start, before.at), horizon)
        page = tuple(entries[: wanted.limit])
        if len(entries) > wanted.limit:
            return Found(page, page[-1].place)
        if ended is None and rows_from is not None and start < rows_from:
            ended = Place(rows_from)
        return Found(page, ended)

    async def _account(self, account_id: str | None) -> Account | None:
        if account_id is None:
            return None
        check_account_id(account_id)
        if account_id.startswith(EXTERNAL_PREFIX):
            raise errors.AccountReserved(
                "An external account has no entries of its own to find.", pointer="/account_id"
            )
        account = (await self._history.store.accounts([account_id])).get(account_id)
        if account is None:
            raise errors.AccountNotFound(pointer="/account_id")
        return account
