"""What never changes about accounts, remembered so that a request needs no read for it."""

from collections.abc import Iterable

from app import limits
from app.ledger.mode import ModeKeeper
from app.ledger.model import Account
from app.ledger.store import LedgerStore


class KnownAccounts:
    """Remembers a bounded number of accounts of the PostgreSQL that rules now.

    Nothing is remembered of another one: a restored PostgreSQL may have given its numbers to other
    accounts.
    """

    def __init__(self, store: LedgerStore, mode: ModeKeeper) -> None:
        """Begin with none."""
        self._store = store
        self._mode = mode
        self._accounts: dict[str, Account] = {}
        self._postgres = ""

    def current_postgres(self) -> str:
        """Name the PostgreSQL that what is remembered from here on is of."""
        postgres = self._mode.current.postgres
        if postgres != self._postgres:
            self._accounts, self._postgres = {}, postgres
        return postgres

    def get(self, account_id: str) -> Account | None:
        """Look an account up without waiting; None when it is not known."""
        return self._accounts.get(account_id)

    async def find(self, account_ids: Iterable[str]) -> dict[str, Account]:
        """Look accounts up; those that there are not are missing from the answer."""
        remembered = self._accounts
        found = {each: remembered[each] for each in account_ids if each in remembered}
        missing = [account_id for account_id in account_ids if account_id not in found]
        if missing:
            read = await self._store.accounts(missing)
            found |= read
            for account_id, account in read.items():
                if len(remembered) >= limits.ACCOUNT_CACHE_ITEMS_MAX:
                    remembered.pop(next(iter(remembered)))
                remembered[account_id] = account
        return found
