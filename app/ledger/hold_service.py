"""The use cases of holds: placed, captured, released, read. Their expiry is the worker's.

What an act does depends on what is held still, so it is computed from the hold as it is and done
only to that version of it; when another act came first, it is computed anew.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple
from uuid import UUID

import msgspec

from app import errors, limits
from app.kit.cursor import decode_number, encode_cursor
from app.kit.ids import AttemptNumbers
from app.kit.money import minor_units
from app.ledger.accounts import KnownAccounts, answered_by
from app.ledger.batcher import Batcher
from app.ledger.codes import HoldKind, HoldStatus
from app.ledger.dry_run import DryRun, Foreseen
from app.ledger.group_store import find_units
from app.ledger.hold_store import read_hold, read_holds
from app.ledger.hold_unit import (
    HoldUnit,
    Way,
    asked_of,
    capturing,
    is_repetition,
    placing,
    releasing,
)
from app.ledger.holds import (
    CaptureRequest,
    DoneAct,
    Hold,
    HoldAcceptance,
    HoldRequest,
    holding_account_id,
)
from app.ledger.model import Account, AccountRequest, Identity, check_account_id
from app.ledger.store import LedgerStore
from app.ledger.unit import Unit

# Acts on one hold that came at once come again at different times.
_PAUSE_S = 0.005
Build = Callable[[Hold, Account, Way], HoldUnit]


class _Wanted(NamedTuple):
    """What is to be done to a hold: what a client said of it, and how it is computed."""

    hold_id: UUID
    kind: HoldKind
    asked: str
    key: str | None
    build: Build


class Holds:
    """Sets money aside and gives it on."""

    def __init__(
        self,
        accounts: KnownAccounts,
        units: Batcher[Unit],
        reads: LedgerStore,
        decisions: LedgerStore,
        attempts: AttemptNumbers,
        dry_run: DryRun,
        deadline_s: float,
        *,
        requires_key: bool,
    ) -> None:
        """Share the queue of transfers; does no I/O. An act reads its hold by `decisions`, a few of
        them at once, so that neither reads hold it up nor a crowd of acts what is decided.
        """
        self._accounts = accounts
        self._units = units
        self._reads = reads
        self._store = decisions
        self._turns = asyncio.Semaphore(limits.HOLD_LOOK_UPS_MAX)
        self._attempts = attempts
        self._dry_run = dry_run
        self._deadline_s = deadline_s
        self._requires_key = requires_key

    async def place(self, request: HoldRequest, key: str | None) -> HoldAcceptance:
        """Hold an amount: set aside durably when this returns, or refused with an error."""
        way = self._named_way(key, request)
        account, credit = await self._sides(request, way)
        holding = await self._holding(account, way)
        accepted: HoldAcceptance = await self._units.begin(
            placing(request, account, credit, holding, way)
        )
        return accepted

    async def foresee_place(self, request: HoldRequest, key: str | None) -> Foreseen:
        """Say what `place` would do now; raises what it would raise."""
        way = self._named_way(key, request)
        account, credit = await self._sides(request, way)
        holding = await self._found_holding(account, way)
        return await self._foresee(placing(request, account, credit, holding, way))

    def _named_way(self, key: str | None, request: HoldRequest) -> Way:
        self._require_name(key is not None or request.hold_id is not None)
        return self._way(key)

    async def _sides(self, request: HoldRequest, way: Way) -> tuple[Account, Account | None]:
        """The account that an amount is held on, and the one that it is for."""
        wanted = [request.account_id]
        if request.credit_account_id is not None:
            wanted.append(request.credit_account_id)
        accounts = await self._found(wanted, way)
        account = accounts.get(request.account_id)
        if account is None:
            raise errors.AccountNotFound(pointer="/account_id")
        credit = None
        if request.credit_account_id is not None:
            credit = accounts.get(request.credit_account_id)
            if credit is None:
                raise errors.AccountNotFound(pointer="/credit_account_id")
            if credit.currency != account.currency:
                detail = f"One account has {account.currency}, the other {credit.currency}."
                raise errors.CurrencyMismatch(detail, pointer="/credit_account_id")
        return account, credit

    async def capture(
        self, hold_id: UUID, request: CaptureRequest, key: str | None
    ) -> HoldAcceptance:
        """Give what is held, or some of it, to whom it is for."""
        return await self._act(_capture(hold_id, request, key))

    async def foresee_capture(
        self, hold_id: UUID, request: CaptureRequest, key: str | None
    ) -> tuple[Foreseen, Hold]:
        """Say what `capture` would do now, and the hold that it would leave."""
        return await self._foresee_act(_capture(hold_id, request, key))

    async def release(self, hold_id: UUID, key: str | None) -> HoldAcceptance:
        """Give back all that is held still."""
        return await self._act(_release(hold_id, key))

    async def foresee_release(self, hold_id: UUID, key: str | None) -> tuple[Foreseen, Hold]:
        """Say what `release` would do now, and the hold that it would leave."""
        return await self._foresee_act(_release(hold_id, key))

    async def read(self, hold_id: UUID) -> Hold:
        """Read a hold as it is now."""
        return _there(await read_hold(self._reads, hold_id))

    async def of_account(
        self, account_id: str, status: HoldStatus | None, cursor: str | None, limit: int
    ) -> tuple[Sequence[Hold], str | None]:
        """Read a page of an account's holds in the order they were placed, and its next cursor."""
        check_account_id(account_id)
        after = 0 if cursor is None else decode_number(cursor)
        account = (await self._found([account_id], self._way(None))).get(account_id)
        if account is None:
            raise errors.AccountNotFound(pointer="/account_id")
        holds, last = await read_holds(self._reads, account.account_no, status, after, limit)
        return holds, None if last is None else encode_cursor(last)

    async def _act(self, wanted: _Wanted) -> HoldAcceptance:
        """Do something to a hold, computed anew when another act came first."""
        self._require_name(wanted.key is not None)
        deadline = self._way(wanted.key).deadline
        for number in range(limits.HOLD_ROUNDS_MAX):
            await asyncio.sleep(random.uniform(0, number * _PAUSE_S))  # noqa: S311 - no secret
            way = self._way(wanted.key)._replace(deadline=deadline)
            hold = await self._read_to_act(wanted, way)
            if number == 0:
                # Its time may have come after an earlier sending was accepted: the journal tells.
                hold = msgspec.structs.replace(hold, is_due=False)
            unit = await self._built(wanted, hold, way)
            if isinstance(unit, HoldAcceptance):
                return unit
            try:
                accepted: HoldAcceptance = await self._units.begin(unit)
            except errors.HoldChanged:
                continue
            return accepted
        raise errors.HoldChanged

    async def _foresee_act(self, wanted: _Wanted) -> tuple[Foreseen, Hold]:
        """Say what `_act` would do now; raises what it would raise."""
        self._require_name(wanted.key is not None)
        way = self._way(wanted.key)
        hold = await self.read(wanted.hold_id)
        unit = await self._built(wanted, hold, way)
        if isinstance(unit, HoldAcceptance):
            own = {hold.account: await self._dry_run.available(hold.account)}
            return Foreseen(unit, own), unit.hold
        foreseen = await self._foresee(unit)
        if foreseen.replayed is not None:
            return foreseen, foreseen.replayed.hold
        act = unit.own_act
        figures = (act.kind, act.captured_minor, act.released_minor)
        return foreseen, hold.after(*figures, hold.updated_at, hold.mode)

    async def _foresee(self, unit: HoldUnit) -> Foreseen:
        return await self._dry_run.foresee(unit, unit.legs, partial(find_units, self._reads))

    async def _built(self, wanted: _Wanted, hold: Hold, way: Way) -> HoldUnit | HoldAcceptance:
        """What is to be done to a hold as it is, or what was before under the same key."""
        try:
            return wanted.build(hold, await self._holding(hold.account, way), way)
        except errors.Rejected:
            # What it would do may be refused because it was done before.
            done = await self._done(wanted)
            if done is None:
                raise
            return done

    async def _read_to_act(self, wanted: _Wanted, way: Way) -> Hold:
        async with answered_by(way.deadline), self._turns:
            return _there(await read_hold(self._store, wanted.hold_id))

    async def _done(self, wanted: _Wanted) -> HoldAcceptance | None:
        """What an act was answered that was done before under this key; None when none was."""
        if wanted.key is None:
            return None
        identity = Identity.of_key(wanted.key)
        async with self._turns:
            named = await find_units(self._store, [identity])
        if identity not in named:
            return None
        found, same = named[identity], (wanted.kind, wanted.asked, wanted.hold_id)
        if not isinstance(found, DoneAct) or not is_repetition(found, *same):
            raise errors.IdempotencyKeyReused
        return HoldAcceptance(found.hold, replayed=True)

    def _require_name(self, has_name: bool) -> None:
        if self._requires_key and not has_name:
            raise errors.IdempotencyKeyRequired

    def _way(self, key: str | None) -> Way:
        deadline = asyncio.get_running_loop().time() + self._deadline_s
        return Way(deadline, self._accounts.current_postgres(), key)

    async def _found(self, account_ids: Sequence[str], way: Way) -> dict[str, Account]:
        async with answered_by(way.deadline):
            return await self._accounts.find(account_ids)

    async def _holding(self, account: Account, way: Way) -> Account:
        """The account that has what is held in a currency; it is opened for the first hold."""
        holding = await self._found_holding(account, way)
        if holding is None:
            request = AccountRequest(
                account_id=holding_account_id(account.currency),
                currency=account.currency,
                exponent=account.exponent,
            )
            await self._store.open_account(request, self._attempts.draw())
            holding = await self._found_holding(account, way)
        if holding is None:
            raise errors.InvariantViolation("the account of what is held was not opened")
        return holding

    async def _found_holding(self, account: Account, way: Way) -> Account | None:
        name = holding_account_id(account.currency)
        holding = (await self._found([name], way)).get(name)
        same = (account.currency, account.exponent)
        if holding is not None and (holding.currency, holding.exponent) != same:
            raise errors.InvariantViolation(f"the account {name} is not as it must be")
        return holding


def _there(hold: Hold | None) -> Hold:
    if hold is None:
        raise errors.HoldNotFound
    return hold


def _capture(hold_id: UUID, request: CaptureRequest, key: str | None) -> _Wanted:
    asked = asked_of(request)

    def build(hold: Hold, holding: Account, way: Way) -> HoldUnit:
        exponent = hold.account.exponent
        amount = request.amount
        minor = None if amount is None else minor_units(amount, exponent)
        captured, released = hold.to_capture(minor, final=request.is_final)
        return capturing(hold, holding, captured, released, asked, way)

    return _Wanted(hold_id, HoldKind.CAPTURE, asked, key, build)


def _release(hold_id: UUID, key: str | None) -> _Wanted:
    def build(hold: Hold, holding: Account, way: Way) -> HoldUnit:
        hold.require_open()
        return releasing(hold, holding, HoldKind.RELEASE, way)

    return _Wanted(hold_id, HoldKind.RELEASE, "", key, build)
