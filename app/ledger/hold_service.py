"""The use cases of holds: placed, captured, released, read. Their expiry is the worker's.

What an act does depends on what is held still, so it is computed from the hold as it is and done
only to that version of it; when another act came first, it is computed anew.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from uuid import UUID

import msgspec

from app import errors, limits
from app.kit.cursor import decode_number, encode_cursor
from app.kit.ids import AttemptNumbers
from app.kit.money import minor_units
from app.ledger.accounts import KnownAccounts, answered_by
from app.ledger.batcher import Batcher
from app.ledger.codes import HoldKind, HoldStatus
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


class Holds:
    """Sets money aside and gives it on."""

    def __init__(
        self,
        accounts: KnownAccounts,
        units: Batcher[Unit],
        store: LedgerStore,
        attempts: AttemptNumbers,
        deadline_s: float,
        *,
        requires_key: bool,
    ) -> None:
        """Share the queue of transfers; does no I/O."""
        self._accounts = accounts
        self._units = units
        self._store = store
        self._attempts = attempts
        self._deadline_s = deadline_s
        self._requires_key = requires_key

    async def place(self, request: HoldRequest, key: str | None) -> HoldAcceptance:
        """Hold an amount: set aside durably when this returns, or refused with an error."""
        self._require_name(key is not None or request.hold_id is not None)
        way = self._way(key)
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
        holding = await self._holding(account, way)
        accepted: HoldAcceptance = await self._units.begin(
            placing(request, account, credit, holding, way)
        )
        return accepted

    async def capture(
        self, hold_id: UUID, request: CaptureRequest, key: str | None
    ) -> HoldAcceptance:
        """Give what is held, or some of it, to whom it is for."""
        asked = asked_of(request)

        def build(hold: Hold, holding: Account, way: Way) -> HoldUnit:
            exponent = hold.account.exponent
            amount = request.amount
            minor = None if amount is None else minor_units(amount, exponent)
            captured, released = hold.to_capture(minor, final=request.is_final)
            return capturing(hold, holding, captured, released, asked, way)

        return await self._act(hold_id, HoldKind.CAPTURE, asked, key, build)

    async def release(self, hold_id: UUID, key: str | None) -> HoldAcceptance:
        """Give back all that is held still."""

        def build(hold: Hold, holding: Account, way: Way) -> HoldUnit:
            hold.require_open()
            return releasing(hold, holding, HoldKind.RELEASE, way)

        return await self._act(hold_id, HoldKind.RELEASE, "", key, build)

    async def read(self, hold_id: UUID) -> Hold:
        """Read a hold as it is now."""
        hold = await read_hold(self._store, hold_id)
        if hold is None:
            raise errors.HoldNotFound
        return hold

    async def of_account(
        self, account_id: str, status: HoldStatus | None, cursor: str | None, limit: int
    ) -> tuple[Sequence[Hold], str | None]:
        """Read a page of an account's holds in the order they were placed, and its next cursor."""
        check_account_id(account_id)
        after = 0 if cursor is None else decode_number(cursor)
        account = (await self._found([account_id], self._way(None))).get(account_id)
        if account is None:
            raise errors.AccountNotFound(pointer="/account_id")
        holds, last = await read_holds(self._store, account.account_no, status, after, limit)
        return holds, None if last is None else encode_cursor(last)

    async def _act(
        self, hold_id: UUID, kind: HoldKind, asked: str, key: str | None, build: Build
    ) -> HoldAcceptance:
        """Do something to a hold, computed anew when another act came first."""
        self._require_name(key is not None)
        deadline = self._way(key).deadline
        for number in range(limits.HOLD_ROUNDS_MAX):
            await asyncio.sleep(random.uniform(0, number * _PAUSE_S))  # noqa: S311 - no secret
            way = self._way(key)._replace(deadline=deadline)
            hold = await self.read(hold_id)
            if number == 0:
                # Its time may have come after an earlier sending was accepted: the journal tells.
                hold = msgspec.structs.replace(hold, is_due=False)
            try:
                unit = build(hold, await self._holding(hold.account, way), way)
            except errors.Rejected:
                # What it would do may be refused because it was done before.
                done = await self._done(hold_id, kind, asked, key)
                if done is None:
                    raise
                return done
            try:
                accepted: HoldAcceptance = await self._units.begin(unit)
            except errors.HoldChanged:
                continue
            return accepted
        raise errors.HoldChanged

    async def _done(
        self, hold_id: UUID, kind: HoldKind, asked: str, key: str | None
    ) -> HoldAcceptance | None:
        """What an act was answered that was done before under this key; None when none was."""
        if key is None:
            return None
        identity = Identity.of_key(key)
        named = await find_units(self._store, [identity])
        if identity not in named:
            return None
        found = named[identity]
        if not isinstance(found, DoneAct) or not is_repetition(found, kind, asked, hold_id):
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
        name = holding_account_id(account.currency)
        found = await self._found([name], way)
        if name not in found:
            request = AccountRequest(
                account_id=name, currency=account.currency, exponent=account.exponent
            )
            await self._store.open_account(request, self._attempts.draw())
            found = await self._found([name], way)
        holding = found.get(name)
        if holding is None or (holding.currency, holding.exponent) != (
            account.currency,
            account.exponent,
        ):
            raise errors.InvariantViolation(f"there is no account {name} as it must be")
        return holding
