"""What would become of a request now: decided by the functions that decide in mode `postgres`, on
one snapshot of PostgreSQL and without their locks; nothing is written.

What Redis has in flight is not seen, so the answer is that of a request sent a moment later.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from app import errors, limits
from app.ledger.answers import refusal
from app.ledger.codes import Decided, Mode
from app.ledger.group_store import FindAccepted
from app.ledger.item import Item
from app.ledger.mode import ModeKeeper
from app.ledger.model import HOLDING_PREFIX, Account, Identity
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

    async def foresee(self, asked: Asked, items: Sequence[Item], find: FindAccepted) -> Foreseen:
        """Say what would become of an item, or of a unit with its items; raises what it would be
        refused with.
        """
        identities = list(asked.identities)
        if identities and asked.answer_from(await find(identities)):
            return await self._as_before(asked, items)
        if identities and await self._store.requests_by_identity(identities):
            # It may have been accepted since.
            if asked.answer_from(await find(identities)):
                return await self._as_before(asked, items)
            raise errors.IdempotencyKeyReused
        if self._mode.current.mode is Mode.CLOSED:
            raise errors.LedgerClosed
        query, arguments = _question(items)
        decided, rows = await self._store.foresee(query, arguments, _numbers(items))
        _refuse(items, decided)
        available = _available(items, rows)
        for item in items:
            if item.account in available:
                available[item.account] += item.change_minor
        return Foreseen(None, available)

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


def _question(items: Sequence[Item]) -> tuple[str, tuple[Any, ...]]:
    """The query that decides items, and its arguments."""
    account_nos = [item.account.account_no for item in items]
    columns = (limits.BALANCE_MINOR_MAX, account_nos, [item.change_minor for item in items])
    if isinstance(items[0], Leg):
        return "foresee_group", columns
    expected = [item.expected or (None, None) for item in items]
    versions = [version for version, _ in expected]
    return "foresee_items", (*columns, versions, [available for _, available in expected])


def _refuse(items: Sequence[Item], decided: Any) -> None:
    """Raise what the first item at fault would be refused with, if one would."""
    for item, word, figure in zip(items, decided["words"], decided["availables"], strict=True):
        if word in (Decided.ADMITTED, Decided.GROUP_REFUSED):
            continue
        if word == Decided.UNKNOWN_ACCOUNT:
            raise errors.AccountNotFound(pointer="/account_id")
        item.fail(refusal(item, word, None if figure is None else int(figure)))
        item.future.result()
