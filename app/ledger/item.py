"""One request on its way through admission and journal, and the rule for repeated requests."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from app import errors
from app.kit.money import minor_units
from app.ledger.codes import Direction
from app.ledger.model import (
    Acceptance,
    Account,
    Expectation,
    Identity,
    Transaction,
    TransactionRequest,
)

_NO_NAME = "-"
# What must wait for others is tried again after so long, the first time.
PAUSE_S = 0.02
_CREDIT = Direction.CREDIT


def _name(identities: tuple[Identity, ...]) -> str:
    """Name a request in Redis, so that a refusal can tell that another sending is in flight."""
    if len(identities) == 1:
        return identities[0].text
    return " ".join([identity.text for identity in identities])


def effective_before(effective_at: datetime | None, accepted_at: datetime) -> datetime | None:
    """When something counts by effective time; None where that is not before it was booked, for
    two clocks may differ.
    """
    return effective_at if effective_at is not None and effective_at < accepted_at else None


def _expected(expect: Expectation, account: Account) -> tuple[int | None, int | None]:
    """The version and the available amount, in minor units, that an item expects."""
    return expect.version, expect.available_minor(account.exponent)


def identities_of(items: "Iterable[Item]") -> list[Identity]:
    """The identities of items, each once."""
    return list(dict.fromkeys(identity for item in items for identity in item.identities))


class Tally:
    """Counts the answers of items that are waited for together; `future` is done with the last."""

    __slots__ = ("future", "left")

    def __init__(self, items: "Sequence[Item]", future: "asyncio.Future[None]") -> None:
        """Count the answers of items that have none yet, at least one."""
        self.left = len(items)
        self.future = future
        for item in items:
            item.tally = self

    def count_down(self) -> None:
        """Note one answer."""
        self.left -= 1
        if self.left == 0 and not self.future.done():
            self.future.set_result(None)


class Item:
    """A request with its account, its signed amount and the future its client waits on."""

    __slots__ = (
        "account",
        "change_minor",
        "deadline",
        "expected",
        "future",
        "identities",
        "look_up_first",
        "name",
        "pause_s",
        "postgres",
        "request",
        "tally",
    )
    weight = 1

    def __init__(
        self,
        request: TransactionRequest,
        account: Account,
        deadline: float,
        future: "asyncio.Future[Any]",
        postgres: str,
    ) -> None:
        """Take a checked request; `deadline` is in loop time, and `postgres` names the PostgreSQL
        that `account` was read from. Raises `AmountTooPrecise` or `AmountTooLarge`.
        """
        amount_minor = minor_units(request.amount, account.exponent)
        identities = request.identities
        self.request = request
        self.account = account
        self.change_minor = amount_minor if request.direction is _CREDIT else -amount_minor
        self.identities = identities
        self.name = _name(identities) if identities else _NO_NAME
        self.deadline = deadline
        self.postgres = postgres
        self.expected = None if request.expect is None else _expected(request.expect, account)
        self.look_up_first = False
        self.pause_s = PAUSE_S
        self.future = future
        self.tally: Tally | None = None

    @property
    def accepted(self) -> Transaction | None:
        """What this was accepted as; None where it was not, or not yet."""
        future = self.future
        if not future.done() or future.cancelled() or future.exception() is not None:
            return None
        transaction: Transaction = future.result().transaction
        return transaction

    @property
    def claims(self) -> tuple[Identity, ...]:
        """The identities that the journal notes with this item."""
        return self.identities

    @property
    def together(self) -> "Sequence[Item]":
        """The items that stand or fall with this one, itself among them."""
        return (self,)

    def left_out(self) -> errors.LedgerError | None:
        """Why the journal left this out where its names were free, if that can be."""
        return None

    @property
    def is_credit(self) -> bool:
        """Tell whether journaling this raises the balance."""
        return self.change_minor > 0

    def accept(self, transaction: Transaction, *, replayed: bool) -> None:
        """Answer with an accepted transaction, unless nobody waits any more."""
        if not self.future.done():
            self.future.set_result(Acceptance(transaction, replayed))
            if self.tally is not None:
                self.tally.count_down()

    def fail(self, error: errors.LedgerError) -> None:
        """Answer with an error, unless nobody waits any more."""
        if not self.future.done():
            self.future.set_exception(error)
            if self.tally is not None:
                self.tally.count_down()

    def answer_from(self, found: Mapping[Identity, Any]) -> bool:
        """Answer a repeated request from what was accepted before; False when nothing was.

        Every identity the request gives must name the one transaction, and it must be the same
        request; otherwise the repetition is refused.
        """
        transactions = [found[identity] for identity in self.identities if identity in found]
        if not transactions:
            return False
        first = transactions[0]
        ids = {transaction.transaction_id for transaction in transactions}
        if len(transactions) < len(self.identities) or len(ids) > 1:
            self.fail(self._conflict(errors.IdempotencyIdentityConflict, found, first))
        elif not self.is_repetition_of(first):
            self.fail(self._conflict(errors.IdempotencyKeyReused, found, first))
        else:
            self.accept(first, replayed=True)
        return True

    def _conflict(
        self,
        kind: type[errors.LedgerError],
        found: Mapping[Identity, Any],
        first: Transaction,
    ) -> errors.LedgerError:
        """Say what was found in place of this request's own repetition."""
        reverses = self.request.reverses
        reversal = None if reverses is None else found.get(Identity.of_reversal(reverses))
        if reversal is not None:
            return errors.AlreadyReversed(transaction_id=str(reversal.transaction_id))
        return kind(transaction_id=str(first.transaction_id))

    def is_repetition_of(self, transaction: Transaction) -> bool:
        """Compare everything a client says about a transaction."""
        return (
            self.account.account_no == transaction.account.account_no
            and self.change_minor == transaction.change_minor
            and transaction.transfer_id is None
            and self.request.reference == transaction.reference
            and (self.request.metadata or None) == (transaction.metadata or None)
            and effective_before(self.request.effective_at, transaction.accepted_at)
            == transaction.effective_at
            and self.request.reverses == transaction.reverses
        )
