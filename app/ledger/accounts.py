"""What never changes about accounts, remembered so that a request needs no read for it."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from app import errors, limits
from app.ledger.mode import ModeKeeper
from app.ledger.model import Account
from app.ledger.store import LedgerStore


class _LookUp:
    """Accounts that are looked up together, and what comes of it."""

    def __init__(self) -> None:
        self.wanted: set[str] = set()
        self.found: asyncio.Future[dict[str, Account]] = asyncio.get_running_loop().create_future()


class KnownAccounts:
    """Remembers a bounded number of accounts of the PostgreSQL that rules now.

    Nothing is remembered of another one: a restored PostgreSQL may have given its numbers to other
    accounts. Accounts that are not known are looked up together: what is asked for while one read
    is under way goes with the next, which begins after it was asked for. Many go by themselves.
    """

    def __init__(self, store: LedgerStore, mode: ModeKeeper) -> None:
        """Begin with none."""
        self._store = store
        self._mode = mode
        self._accounts: dict[str, Account] = {}
        self._postgres = ""
        self._look_ups: deque[_LookUp] = deque()
        self._reading: asyncio.Task[None] | None = None

    def current_postgres(self) -> str:
        """Name the PostgreSQL that what is remembered from here on is of."""
        postgres = self._mode.current.postgres
        if postgres != self._postgres:
            self._accounts, self._postgres = {}, postgres
        return postgres

    def get(self, account_id: str) -> Account | None:
        """Look an account up without waiting; None when it is not known."""
        return self._accounts.get(account_id)

    def known(self, account_ids: Collection[str]) -> dict[str, Account] | None:
        """Look accounts up without waiting; None when one of them is not known."""
        remembered = self._accounts
        known = {each: remembered[each] for each in account_ids if each in remembered}
        return known if len(known) == len(account_ids) else None

    async def find(self, account_ids: Collection[str]) -> dict[str, Account]:
        """Look accounts up, at most `REQUEST_ITEMS_MAX`; those that there are not are missing from
        the answer. Raises `PostgresUnavailable`.
        """
        remembered = self._accounts
        found = {each: remembered[each] for each in account_ids if each in remembered}
        missing = [account_id for account_id in account_ids if account_id not in found]
        if missing:
            is_shared = len(missing) <= limits.ACCOUNT_LOOK_UP_ITEMS_MAX // 2
            read = await (self._look_up(missing) if is_shared else self._look_up_alone(missing))
            found |= {each: read[each] for each in missing if each in read}
        return found

    async def _look_up(self, account_ids: Collection[str]) -> dict[str, Account]:
        waiting = self._look_ups
        most = limits.ACCOUNT_LOOK_UP_ITEMS_MAX
        if not waiting or len(waiting[-1].wanted) + len(account_ids) > most:
            waiting.append(_LookUp())
        look_up = waiting[-1]
        look_up.wanted.update(account_ids)
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        return await asyncio.shield(look_up.found)

    async def _read(self) -> None:
        """Read what is waited for, until nothing is."""
        try:
            while self._look_ups:
                look_up = self._look_ups.popleft()
                try:
                    look_up.found.set_result(await self._look_up_alone(look_up.wanted))
                except Exception as exc:
                    look_up.found.set_exception(exc)
                except BaseException:
                    look_up.found.cancel()
                    raise
        finally:
            self._reading = None

    async def _look_up_alone(self, account_ids: Collection[str]) -> dict[str, Account]:
        remembered = self._accounts
        found = await self._store.accounts(list(account_ids))
        for account_id, account in found.items():
            if len(remembered) >= limits.ACCOUNT_CACHE_ITEMS_MAX and account_id not in remembered:
                remembered.pop(next(iter(remembered)))
            remembered[account_id] = account
        return found


@asynccontextmanager
async def answered_by(deadline: float) -> AsyncIterator[None]:
    """Wait for accounts no longer than a client does; `deadline` is in loop time."""
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError as exc:
        raise errors.PostgresUnavailable("The account could not be looked up in time.") from exc
