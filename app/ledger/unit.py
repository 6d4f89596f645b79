"""Items that stand or fall together on their way, through micro-batches of their own: the transfers
of a group, an act on a hold.

Each transfer is two items, a debit and a credit. Whoever decides admits all items of a unit or
none, and the journal takes all or none, so that items can be carried as if each stood alone.
"""

import asyncio
import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from app import errors
from app.ledger.codes import HoldKind
from app.ledger.item import PAUSE_S, Item
from app.ledger.model import Account, Identity, Transaction, TransactionRequest
from app.ledger.store import encode_json
from app.ledger.transfers import TransferGroup

if TYPE_CHECKING:
    from app.ledger.admission import Slot
    from app.ledger.pipeline import Pipeline

_ABOUT_AN_ACCOUNT = (
    errors.AccountNotFound,
    errors.AccountFrozen,
    errors.AccountClosed,
    errors.InsufficientAvailable,
    errors.BalanceLimitExceeded,
)


class Leg(Item):
    """One half of a transfer, which is answered with all that it stands or falls with.

    Its `identities` are those of all. `number` counts transfers; a debit that nobody here is
    credited has none. Who carries it keeps its unit: a reference back would make a circle, and
    the collector, which stood still for tens of milliseconds, would have to free each of them.
    """

    __slots__ = ("_claims", "_unit", "number")

    def __init__(
        self,
        unit: "Unit",
        number: int | None,
        request: TransactionRequest,
        account: Account,
        deadline: float,
        postgres: str,
    ) -> None:
        """Take what `Item` takes, and where it stands."""
        super().__init__(request, account, deadline, unit.future, postgres)
        self._claims = self.identities
        self._unit = weakref.ref(unit)
        self.number = number

    @property
    def unit(self) -> "Unit":
        """What it is part of. Raises `InvariantViolation` when nobody carries that any more."""
        unit = self._unit()
        if unit is None:
            raise errors.InvariantViolation("half of a transfer is left of what was given up")
        return unit

    @property
    def claims(self) -> tuple[Identity, ...]:
        """The identities that are noted with this half."""
        return self._claims

    @property
    def together(self) -> Sequence[Item]:
        """All items that stand or fall together with this one."""
        return self.unit.legs

    def accept(self, transaction: Transaction, *, replayed: bool) -> None:
        """Note that this half was accepted; with the last one all are answered."""
        errors.require(not replayed, "half of a transfer is not answered by itself")
        self.unit.note(self, transaction)

    def fail(self, error: errors.LedgerError) -> None:
        """Refuse all, naming the field at fault where it is an account of this half."""
        if isinstance(error, _ABOUT_AN_ACCOUNT):
            error = self.unit.refusal_of(self, error)
        self.unit.fail(error)

    def left_out(self) -> errors.LedgerError | None:
        """Why the journal left all of it out."""
        return self.unit.left_out()

    def answer_from(self, found: Mapping[Identity, Any]) -> bool:
        """Answer all as a repetition, if it is one."""
        return self.unit.answer_from(found)


class Act(msgspec.Struct, frozen=True, kw_only=True):
    """What a unit does to a hold, as `claim_holds_v1` takes it; `asked` is what a client said."""

    kind: HoldKind
    asked: str
    hold_id: UUID | None = None
    version: int = 0
    captured_minor: int = 0
    released_minor: int = 0
    credit_account_no: int | None = None
    expires_in_s: int | None = None


class Unit(ABC):
    """Items that stand or fall together, debits first: what they credit funds none of them.

    `future` has the answer to all of them.
    """

    legs: list[Leg]
    weight: int
    identities: tuple[Identity, ...]

    def __init__(self, deadline: float, transfer_count: int, act: Act | None = None) -> None:
        """Begin without items; `stand` adds them."""
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.deadline = deadline
        self.transfer_count = transfer_count
        self.act = act
        self.look_up_first = False
        self.pause_s = PAUSE_S
        self._halves: dict[Leg, Transaction] = {}

    def stand(self, debits: Sequence[Leg], credits_: Sequence[Leg]) -> None:
        """Take the items, one debit at least."""
        self.legs = [*debits, *credits_]
        self.weight = len(self.legs)
        self.identities = tuple(dict.fromkeys(each for leg in debits for each in leg.claims))
        for leg in self.legs:
            leg.identities = self.identities

    @property
    def accepted(self) -> Any:
        """What this was accepted as; None where it was not, or not yet."""
        future = self.future
        if not future.done() or future.cancelled() or future.exception() is not None:
            return None
        return self._as_found(future.result())

    def note(self, leg: Leg, transaction: Transaction) -> None:
        """Note that a half was accepted; with the last one all are, and the unit is answered."""
        if self.future.done():
            return
        self._halves[leg] = transaction
        if len(self._halves) == len(self.legs):
            self.answer(self._completed(self._halves))

    def answer(self, result: Any) -> None:
        """Answer, unless nobody waits any more."""
        if not self.future.done():
            self.future.set_result(result)

    def fail(self, error: errors.LedgerError) -> None:
        """Answer with an error, unless nobody waits any more."""
        if not self.future.done():
            self.future.set_exception(error)

    def answer_from(self, found: Mapping[Identity, Any]) -> bool:
        """Answer a repeated request from what was accepted before; False when nothing was.

        Every identity it gives must name the one unit, and it must ask for the same.
        """
        if self.future.done():
            return True
        named = [found[each] for each in self.identities if each in found]
        if not named:
            return False
        first = named[0]
        if first is None:
            self.fail(errors.IdempotencyKeyReused())
            return True
        members = {"transaction_id": str(self._id_of(first))}
        if len(named) < len(self.identities) or any(each is not first for each in named):
            self.fail(errors.IdempotencyIdentityConflict(**members))
        elif not self._is_repetition_of(first):
            self.fail(errors.IdempotencyKeyReused(**members))
        else:
            self.answer(self._replayed(first))
        return True

    def refusal_of(self, leg: Leg, error: errors.LedgerError) -> errors.LedgerError:
        """Say whose account it is that refuses, and where it stands in the request."""
        members = {"account_id": leg.account.account_id, **error.members}
        return type(error)(error.detail, pointer=self.pointer_of(leg), **members)

    def left_out(self) -> errors.LedgerError | None:
        """Why the journal left this out where its names were free, if that can be."""
        return None

    @abstractmethod
    def pointer_of(self, leg: Leg) -> str:
        """Name the field of the request that an item's account is."""

    @abstractmethod
    def _completed(self, halves: Mapping[Leg, Transaction]) -> Any:
        """The answer, now that all items were accepted."""

    @abstractmethod
    def _replayed(self, found: Any) -> Any:
        """The answer to a repetition."""

    @abstractmethod
    def _as_found(self, result: Any) -> Any:
        """What an answer would be found as."""

    @staticmethod
    def _id_of(found: Any) -> UUID:
        """The id of what was found: of a group, or of the hold that an act is on."""
        own: UUID = found.group_id if isinstance(found, TransferGroup) else found.hold.hold_id
        return own

    @abstractmethod
    def _is_repetition_of(self, found: Any) -> bool:
        """Compare everything a client says."""


def put_together(items: Sequence[Item]) -> list[Item]:
    """Let the items of each unit stand together in their order, as PostgreSQL decides them."""
    units = dict.fromkeys(as_leg(item).unit for item in items)
    return [leg for unit in units for leg in unit.legs]


def as_leg(item: Item) -> Leg:
    """The item of a unit's batch; raises `InvariantViolation` for any other."""
    if not isinstance(item, Leg):
        raise errors.InvariantViolation("a batch of units has other items")
    return item


def positions_of(items: Sequence[Item], placed: Sequence[Item]) -> str:
    """Say for each unit, in the order of `items`, at which positions from 1 its own are `placed`,
    as `admit_groups` takes it.
    """
    positions = {as_leg(item): position for position, item in enumerate(placed, start=1)}
    units = dict.fromkeys(as_leg(item).unit for item in items)
    return ";".join(",".join([str(positions[leg]) for leg in unit.legs]) for unit in units)


def numbers_of(
    items: Sequence[Item],
) -> tuple[list[int | None] | None, list[int] | None, str | None]:
    """Number the transfers of a batch and their units, for each item, and say what it does to
    holds: see `journal_batches` and `claim_holds_v1`.
    """
    if not items or not isinstance(items[0], Leg):
        return None, None, None
    firsts: dict[Unit, int] = {}
    places: dict[Leg, int] = {}
    count = 0
    transfer_nos: list[int | None] = []
    group_nos: list[int] = []
    for place, item in enumerate(items):
        leg = as_leg(item)
        places[leg] = place
        if leg.unit not in firsts:
            firsts[leg.unit] = count
            count += leg.unit.transfer_count
        group_nos.append(firsts[leg.unit])
        transfer_nos.append(None if leg.number is None else firsts[leg.unit] + leg.number)
    acts = [
        {"item": places[unit.legs[0]], **msgspec.structs.asdict(unit.act)}
        for unit in firsts
        if unit.act is not None
    ]
    return transfer_nos, group_nos, encode_json(acts).decode() if acts else None


class UnitCarrier:
    """Carries batches of units as batches of their items."""

    def __init__(self, pipeline: "Pipeline") -> None:
        """`pipeline` decides items unit by unit."""
        self._pipeline = pipeline

    async def carry(self, slot: "Slot", units: list[Unit]) -> list[Unit]:
        """Answer a batch; returns the units that must wait, as `Pipeline.carry` does."""
        legs: list[Item] = []
        for unit in units:
            for leg in unit.legs:
                leg.look_up_first = unit.look_up_first
            legs += unit.legs
        waiting: dict[Unit, bool] = {}
        for leg in map(as_leg, await self._pipeline.carry(slot, legs)):
            waiting[leg.unit] = waiting.get(leg.unit, False) or leg.look_up_first
        for unit, look_up_first in waiting.items():
            unit.look_up_first = look_up_first
        return list(waiting)
