"""A group of transfers on its way: all of them or none, through the micro-batches of groups.

Each transfer is two items, a debit and a credit. Whoever decides admits all items of a group or
none, and the journal takes all or none, so that items can be carried as if each stood alone.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from app import errors
from app.ledger.codes import Direction
from app.ledger.item import PAUSE_S, Item
from app.ledger.model import Account, Identity, Transaction
from app.ledger.transfers import GroupAcceptance, Transfer, TransferGroup, TransferRequest

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


def check_transfers(requests: Sequence[TransferRequest], accounts: Mapping[str, Account]) -> None:
    """Refuse transfers between accounts that there are not, or that have different currencies."""
    for number, request in enumerate(requests):
        sides = {"debit": request.debit_account_id, "credit": request.credit_account_id}
        for side, account_id in sides.items():
            if account_id not in accounts:
                pointer = f"/transfers/{number}/{side}_account_id"
                raise errors.AccountNotFound(pointer=pointer, account_id=account_id)
        debit, credit = (accounts[account_id] for account_id in sides.values())
        if debit.currency != credit.currency:
            raise errors.CurrencyMismatch(
                f"One account has {debit.currency}, the other {credit.currency}.",
                pointer=f"/transfers/{number}/credit_account_id",
            )


class Leg(Item):
    """One half of a transfer, which is answered with its group.

    `claims` are the identities the journal notes with this half; `identities` are the group's.
    """

    __slots__ = ("claims", "group", "number")

    def __init__(
        self,
        group: "Group",
        number: int,
        direction: Direction,
        account: Account,
        deadline: float,
        postgres: str,
        *,
        key: str | None = None,
    ) -> None:
        """Take the half of transfer `number` that moves `account`; `key` is the group's."""
        request = group.requests[number].leg(direction, key)
        super().__init__(request, account, deadline, group.future, postgres)
        self.claims = self.identities
        self.group = group
        self.number = number

    @property
    def together(self) -> Sequence[Item]:
        """All halves of the group's transfers."""
        return self.group.legs

    def accept(self, transaction: Transaction, *, replayed: bool) -> None:
        """Note that this half was accepted; with the last one the group is answered."""
        errors.require(not replayed, "half of a transfer is not answered by itself")
        self.group.note(self, transaction)

    def fail(self, error: errors.LedgerError) -> None:
        """Refuse the group, naming the field at fault where it is an account of this half."""
        if isinstance(error, _ABOUT_AN_ACCOUNT):
            side = "debit" if self.change_minor < 0 else "credit"
            error = type(error)(
                error.detail,
                pointer=f"/transfers/{self.number}/{side}_account_id",
                account_id=self.account.account_id,
                **error.members,
            )
        self.group.fail(error)

    def answer_from(self, found: Mapping[Identity, Any]) -> bool:
        """Answer the group as a repetition, if it is one."""
        return self.group.answer_from(found)


class Group:
    """Transfers that stand or fall together; `future` has the answer to all of them."""

    def __init__(
        self,
        requests: Sequence[TransferRequest],
        key: str | None,
        accounts: Mapping[str, Account],
        deadline: float,
        postgres: str,
    ) -> None:
        """Take checked transfers, one at least, and the key that names all of them; the rest is
        what `Item` takes. Raises `AmountTooPrecise` or `AmountTooLarge`.
        """
        self.requests = requests
        self.future: asyncio.Future[GroupAcceptance] = asyncio.get_running_loop().create_future()
        self.deadline = deadline
        self.look_up_first = False
        self.pause_s = PAUSE_S
        self._halves: dict[Leg, Transaction] = {}

        def legs(direction: Direction) -> list[Leg]:
            made = []
            for number, request in enumerate(requests):
                is_debit = direction is Direction.DEBIT
                name = request.debit_account_id if is_debit else request.credit_account_id
                named = key if is_debit and number == 0 else None
                try:
                    leg = Leg(
                        self, number, direction, accounts[name], deadline, postgres, key=named
                    )
                except errors.Rejected as error:
                    error.pointer = f"/transfers/{number}{error.pointer or ''}"
                    raise
                made.append(leg)
            return made

        debits, credits_ = legs(Direction.DEBIT), legs(Direction.CREDIT)
        self.pairs = list(zip(debits, credits_, strict=True))
        # Debits first: the credits of a group fund none of its debits.
        self.legs = [*debits, *credits_]
        self.weight = len(self.legs)
        self.identities = tuple(dict.fromkeys(each for leg in debits for each in leg.claims))
        for leg in self.legs:
            leg.identities = self.identities

    @property
    def accepted(self) -> TransferGroup | None:
        """What this was accepted as; None where it was not, or not yet."""
        future = self.future
        if not future.done() or future.cancelled() or future.exception() is not None:
            return None
        return future.result().group

    def note(self, leg: Leg, transaction: Transaction) -> None:
        """Note that a half was accepted; with the last one all are, and the group is answered."""
        if self.future.done():
            return
        self._halves[leg] = transaction
        if len(self._halves) == len(self.legs):
            halves = self._halves
            transfers = [Transfer(halves[debit], halves[credit]) for debit, credit in self.pairs]
            self._answer(TransferGroup(tuple(transfers)), replayed=False)

    def _answer(self, group: TransferGroup, *, replayed: bool) -> None:
        if not self.future.done():
            self.future.set_result(GroupAcceptance(group, replayed))

    def fail(self, error: errors.LedgerError) -> None:
        """Answer with an error, unless nobody waits any more."""
        if not self.future.done():
            self.future.set_exception(error)

    def answer_from(self, found: Mapping[Identity, Any]) -> bool:
        """Answer a repeated request from what was accepted before; False when nothing was.

        Every identity it gives must name the one group, and it must ask for the same.
        """
        if self.future.done():
            return True
        groups = [found[each] for each in self.identities if each in found]
        if not groups:
            return False
        first: TransferGroup | None = groups[0]
        if first is None:
            self.fail(errors.IdempotencyKeyReused())
        elif len(groups) < len(self.identities) or any(each is not first for each in groups):
            self.fail(errors.IdempotencyIdentityConflict(transaction_id=str(first.group_id)))
        elif not self._is_repetition_of(first):
            self.fail(errors.IdempotencyKeyReused(transaction_id=str(first.group_id)))
        else:
            self._answer(first, replayed=True)
        return True

    def _is_repetition_of(self, group: TransferGroup) -> bool:
        """Compare everything a client says about a group."""
        return len(group.transfers) == len(self.requests) and all(
            transfer.answers(request) and transfer.debit.change_minor == debit.change_minor
            for transfer, request, (debit, _) in zip(
                group.transfers, self.requests, self.pairs, strict=True
            )
        )


def put_together(items: Sequence[Item]) -> list[Item]:
    """Let the items of each group stand together in their order, as PostgreSQL decides them."""
    return list(dict.fromkeys(each for item in items for each in item.together))


def as_leg(item: Item) -> Leg:
    """The item of a group's batch; raises `InvariantViolation` for any other."""
    if not isinstance(item, Leg):
        raise errors.InvariantViolation("a batch of transfers has other items")
    return item


def group_positions(items: Sequence[Item], placed: Sequence[Item]) -> str:
    """Say for each group, in the order of `items`, at which positions from 1 its own are `placed`,
    as `admit_groups` takes it.
    """
    positions = {as_leg(item): position for position, item in enumerate(placed, start=1)}
    groups = dict.fromkeys(as_leg(item).group for item in items)
    return ";".join(",".join([str(positions[leg]) for leg in group.legs]) for group in groups)


def group_numbers(items: Sequence[Item]) -> tuple[list[int], list[int]] | tuple[None, None]:
    """Number the transfers of a batch and their groups, for each item: see `journal_batches`."""
    if not items or not isinstance(items[0], Leg):
        return None, None
    firsts: dict[Group, int] = {}
    count = 0
    transfer_nos, group_nos = [], []
    for item in items:
        leg = as_leg(item)
        if leg.group not in firsts:
            firsts[leg.group] = count
            count += len(leg.group.requests)
        group_nos.append(firsts[leg.group])
        transfer_nos.append(firsts[leg.group] + leg.number)
    return transfer_nos, group_nos


class GroupCarrier:
    """Carries batches of groups as batches of their items."""

    def __init__(self, pipeline: "Pipeline") -> None:
        """`pipeline` decides items group by group."""
        self._pipeline = pipeline

    async def carry(self, slot: "Slot", groups: list[Group]) -> list[Group]:
        """Answer a batch; returns the groups that must wait, as `Pipeline.carry` does."""
        legs: list[Item] = []
        for group in groups:
            for leg in group.legs:
                leg.look_up_first = group.look_up_first
            legs += group.legs
        waiting: dict[Group, bool] = {}
        for leg in map(as_leg, await self._pipeline.carry(slot, legs)):
            waiting[leg.group] = waiting.get(leg.group, False) or leg.look_up_first
        for group, look_up_first in waiting.items():
            group.look_up_first = look_up_first
        return list(waiting)
