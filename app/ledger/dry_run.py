"""What would become of a request now: decided by the functions that decide in mode `postgres`, on
one snapshot of PostgreSQL and without their locks; nothing is written.

What Redis has in flight is not seen, so the answer is that of a request sent a moment later.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from app import errors, limits
from app.kit.turns import Turns
from app.ledger.answers import answer_known, fail, refusal
from app.ledger.codes import Decided, Mode
from app.ledger.group_store import FindAccepted
from app.ledger.item import Item
from app.ledger.mode import ModeKeeper
from app.ledger.model import HOLDING_PREFIX, Account, Identity
from app.ledger.part import Part, answer_part_again
from app.ledger.store import LedgerStore
from app.ledger.unit import Leg


class Asked(Protocol):
    """An item or a unit, as far as it is asked about here."""

    future: "asyncio.Future[Any]"

    @property
    def identities(self) -> tuple[Identity, ...]:
        """What makes it the same request."""

    def answer_from(self, found: Mapping[Identity, Any]) -> bool:
        """Answer it as a repetition, if it is one."""


class Foreseen(msgspec.Struct, frozen=True):
    """What would become of a request that is not refused.

    `replayed` is what was accepted before, if it was. `available_minor` has for each account what
    could be spent afterwards, in minor units.
    """

    replayed: Any | None
    available_minor: dict[Account, int]


class DryRun:
    """Foresees what would become of requests."""

    def __init__(self, store: LedgerStore, mode: ModeKeeper) -> None:
        """Ask this PostgreSQL; does no I/O."""
        self._store = store
        self._mode = mode
        # They share the connections of reads, and leave some to others.
        self.turn = Turns(
            limits.DRY_RUNS_MAX, limits.DRY_RUN_WAIT_S, "Too many dry runs are waiting."
        ).turn

    def require_open(self) -> None:
        """Refuse what is refused while this instance decides nothing; raises `InstanceOutdated` or
        `LedgerClosed`.
        """
        if self._mode.is_outdated:
            raise errors.InstanceOutdated
        if self._mode.current.mode is Mode.CLOSED:
            raise errors.LedgerClosed

    async def foresee(self, asked: Asked, items: Sequence[Item], find: FindAccepted) -> Foreseen:
        """Say what would become of an item, or of a unit with its items; raises what it would be
        refused with.
        """
        async with self.turn():
            return await self._foresee(asked, items, find)

    async def _foresee(self, asked: Asked, items: Sequence[Item], find: FindAccepted) -> Foreseen:
        identities = list(asked.identities)
        if identities and asked.answer_from(await find(identities)):
            return await self._as_before(asked, items)
        if identities and await self._store.requests_by_identity(identities):
            # It may have been accepted since.
            if asked.answer_from(await find(identities)):
                return await self._as_before(asked, items)
            raise errors.IdempotencyKeyReused
        self.require_open()
        available, short = await self._decide(items, items)
        _refuse_short(short)
        if asked.future.done():
            asked.future.result()
        return Foreseen(None, available)

    async def foresee_each(
        self, items: Sequence[Item], parts: Sequence[Part]
    ) -> dict[Account, int]:
        """Answer those of many items that are repetitions or would be refused, and leave without an
        answer those that would be accepted; returns what accounts would have.

        `parts` are what the items go in, if they do not go each on its own.
        """
        async with self.turn():
            return await self._foresee_each(items, parts)

    async def _foresee_each(
        self, items: Sequence[Item], parts: Sequence[Part]
    ) -> dict[Account, int]:
        if parts:
            for part in parts:
                await answer_part_again(self._store, part)
        else:
            await answer_known(self._store, items)
        undecided = [item for item in items if not item.future.done()]
        try:
            self.require_open()
        except errors.Unavailable as error:
            fail(undecided, error)
            undecided = []
        available, short = await self._decide(undecided, items)
        if parts:
            # What a part credits funds none of its debits.
            _refuse_short(short)
            return available
        for item, _ in short:
            _decide_funded(item, available)
        return available

    async def available(self, account: Account) -> int:
        """What an account has to spend now, in minor units."""
        _, rows = await self._store.foresee(None, (), [account.account_no])
        return int(rows[0]["available_minor"])

    async def _decide(
        self, undecided: Sequence[Item], items: Sequence[Item]
    ) -> tuple[dict[Account, int], list[tuple[Item, int]]]:
        """Answer those that would be refused; returns what the accounts of all items would have,
        and, with what it met, each that would need what is credited before it.
        """
        query, arguments = _question(undecided) if undecided else (None, ())
        decided, rows = await self._store.foresee(query, arguments, _numbers(items))
        available = _available(items, rows)
        short: list[tuple[Item, int]] = []
        words, figures = (decided["words"], decided["availables"]) if decided else ((), ())
        for item, word, figure in zip(undecided, words, figures, strict=True):
            if word == Decided.ADMITTED:
                _move(item, available)
            elif word == Decided.CREDIT_IN_FLIGHT:
                short.append((item, int(figure)))
            elif word == Decided.UNKNOWN_ACCOUNT:
                item.fail(errors.AccountNotFound(pointer="/account_id"))
            elif word != Decided.GROUP_REFUSED:  # another item of the group says why
                item.fail(refusal(item, word, None if figure is None else int(figure)))
        return available, short

    async def _as_before(self, asked: Asked, items: Sequence[Item]) -> Foreseen:
        """Say that a request was accepted before, and what its accounts have now."""
        _, rows = await self._store.foresee(None, (), _numbers(items))
        return Foreseen(asked.future.result(), _available(items, rows))


def _numbers(items: Sequence[Item]) -> list[int]:
    return list({item.account.account_no for item in items})


def _available(items: Sequence[Item], rows: Sequence[Any]) -> dict[Account, int]:
    """What clients' accounts have to spend."""
    accounts = {item.account.account_no: item.account for item in items}
    return {
        accounts[row["account_no"]]: int(row["available_minor"])
        for row in rows
        if not row["account_id"].startswith(HOLDING_PREFIX)
    }


def _move(item: Item, available: dict[Account, int]) -> None:
    if item.account in available:
        available[item.account] += item.change_minor


def _question(items: Sequence[Item]) -> tuple[str, tuple[Any, ...]]:
    """The query that decides items, and its arguments."""
    account_nos = [item.account.account_no for item in items]
    columns = (limits.BALANCE_MINOR_MAX, account_nos, [item.change_minor for item in items])
    if isinstance(items[0], Leg):
        return "foresee_group", columns
    expected = [item.expected or (None, None) for item in items]
    versions = [version for version, _ in expected]
    return "foresee_items", (*columns, versions, [available for _, available in expected])


def _refuse_short(short: Sequence[tuple[Item, int]]) -> None:
    """Refuse what lacks something that would be credited with it."""
    for item, available_minor in short:
        item.fail(refusal(item, Decided.CREDIT_IN_FLIGHT, available_minor))


def _decide_funded(item: Item, available: dict[Account, int]) -> None:
    """Decide what needs credits of the same request, which are durable by the time of it."""
    has_minor, least = available[item.account], item.expected[1] if item.expected else None
    if has_minor < -item.change_minor or (least is not None and has_minor < least):
        item.fail(refusal(item, Decided.CREDIT_IN_FLIGHT, has_minor))
    else:
        _move(item, available)
