"""Balances as of an instant, and statements.

Below the watermark nothing is added to history any more, so what is read there in several
statements is as exact as what is read in one. The watermark is always read before the rows.
"""

from datetime import datetime

from app import errors, limits
from app.kit.instants import MICROSECOND
from app.ledger.history import BalanceAt, Basis, HistoryEntry, Horizon, Period, Place, Statement
from app.ledger.model import EXTERNAL_PREFIX, Account, AccountDetails, check_account_id
from app.ledger.schemas import instant
from app.ledger.statement_store import HistoryStore


class Statements:
    """Answers what accounts had and what moved it."""

    def __init__(self, history: HistoryStore) -> None:
        """Read through a store of history."""
        self._history = history

    async def balance_at(self, account_id: str, at: datetime, by: Basis) -> BalanceAt:
        """Read the balance of all that was booked at an instant or before; by effective time, of
        all that counts then. Final when nothing can be added any more that was booked then, which
        backdating always may by effective time.
        """
        async with self._history.turn():
            account = (await self._details(account_id)).account
            horizon = await self._history.horizon()
            if at > horizon.now:
                raise errors.InstantInFuture(pointer="/at")
            balance_minor = await self._booked(account, Place(at + MICROSECOND))
            if by is Basis.EFFECTIVE:
                balance_minor += await self._history.backdated_since(account, at + MICROSECOND)
        return BalanceAt(
            account=account,
            at=at,
            by=by,
            balance_minor=balance_minor,
            watermark=horizon.watermark,
            is_final=by is Basis.BOOKED and at < horizon.watermark,
        )

    async def statement(self, account_id: str, period: Period) -> Statement:
        """Read a page of what moved an account in a period, in the order it was booked.

        It ends at the watermark, so no page misses an entry that is committed later. Without a
        start it begins with the account.
        """
        async with self._history.turn():
            details = await self._details(account_id)
            account, start = details.account, period.start or details.created_at
            horizon = await self._history.horizon()
            if start > horizon.now:
                raise errors.InstantInFuture(pointer="/from")
            after = self._after(period, start, horizon)
            covered = (
                horizon.watermark if period.end is None else min(horizon.watermark, period.end)
            )
            end = max(after.at, covered)
            opening_minor = await self._booked(account, after)
            entries: list[HistoryEntry] = []
            while len(entries) <= period.limit:
                place = entries[-1].place if entries else after
                size = min(limits.STATEMENT_SLICE_ROWS, period.limit + 1 - len(entries))
                more = await self._history.entries(account, place, end, size)
                entries += more
                if len(more) < size:
                    break
            # Months may have been detached meanwhile.
            check_attached(after.at, await self._history.horizon())
        page = tuple(entries[: period.limit])
        closing_minor = opening_minor + sum(each.transaction.change_minor for each in page)
        return Statement(
            account=account,
            start=start,
            end=end,
            opening_minor=opening_minor,
            closing_minor=closing_minor,
            entries=page,
            next_place=page[-1].place if len(entries) > len(page) else None,
            watermark=horizon.watermark,
            is_final=period.end is not None and period.end <= horizon.watermark,
        )

    @staticmethod
    def _after(period: Period, start: datetime, horizon: Horizon) -> Place:
        """The place that a page begins after."""
        place = period.after or Place(start)
        if place.at > horizon.now or place.at < start:
            raise errors.InvalidCursor(pointer="/cursor")
        return place

    async def _details(self, account_id: str) -> AccountDetails:
        check_account_id(account_id)
        if account_id.startswith(EXTERNAL_PREFIX):
            raise errors.AccountReserved(
                "An external account has no entries of its own to read history from.",
                pointer="/account_id",
            )
        details = await self._history.store.account_details(account_id)
        if details is None:
            raise errors.AccountNotFound(pointer="/account_id")
        return details

    async def _booked(self, account: Account, place: Place) -> int:
        balance_minor = await self._history.booked_at(account, place)
        if balance_minor is None:
            raise detached((await self._history.horizon()).balances_from)
        return balance_minor


def check_attached(start: datetime, horizon: Horizon) -> None:
    """Refuse to read rows from an instant whose month is detached."""
    if horizon.rows_from is not None and start < horizon.rows_from:
        raise detached(horizon.rows_from)


def detached(available_from: datetime | None) -> errors.HistoryDetached:
    """Say from when on there is history."""
    known = {} if available_from is None else {"from": instant(available_from)}
    return errors.HistoryDetached(**known)
