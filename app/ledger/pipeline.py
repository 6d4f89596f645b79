"""One micro-batch's way: admit in Redis, journal in PostgreSQL, confirm in Redis, answer.

    admit ──> journal ──> confirm ──> answer        (a batch with credits)
    admit ──> journal ──> answer ──> confirm        (debits only)

Debits are confirmed along with the slot's next admission, or by a call of their own where none
comes soon. In mode `postgres` a batch takes the way of `app/ledger/fallback.py` instead. Whatever
fails in between, each item is answered once, within its deadline, and a slot takes no further batch
until what it reserved is journaled or given back, or its epoch is over.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial

from app import errors, limits
from app.kit.ids import AttemptNumbers
from app.ledger.admission import (
    JOURNALED,
    RELEASED,
    Admission,
    Admittance,
    Attempt,
    Fenced,
    LostData,
    Slot,
    split_refusals,
)
from app.ledger.answers import accept, answerable, fail, journaled_answers, why_taken
from app.ledger.codes import Extent, Journaled, Mode
from app.ledger.fallback import Fallback
from app.ledger.group_store import Accepted, FindAccepted, find_units
from app.ledger.item import Item, identities_of
from app.ledger.journal import Journal, until_known
from app.ledger.mode import ModeKeeper, Ruling
from app.ledger.model import Identity, Transaction
from app.ledger.outcomes import JournalOutcome
from app.ledger.refusals import Refusals
from app.ledger.store import LedgerStore
from app.ledger.unit import put_together
from app.ledger.untold import Telling

_log = logging.getLogger(__name__)
_OWING_PAUSE_S = 0.05
_OWING_PAUSE_LONGEST_S = 1.0


class Pipeline:
    """Carries batches; one instance serves all slots of a process."""

    def __init__(
        self,
        mode: ModeKeeper,
        admission: Admission,
        journal: Journal,
        store: LedgerStore,
        attempts: AttemptNumbers,
        *,
        groups: bool = False,
    ) -> None:
        """Put the parts together; does no I/O. It carries single items, or `groups` of them."""
        self._mode = mode
        self._admission = admission
        self._journal = journal
        self._store = store
        self._attempts = attempts
        self._extent = Extent.GROUPS if groups else Extent.EACH
        self._find_accepted: FindAccepted = (
            partial(find_units, store) if groups else store.transactions_by_identity
        )
        self._fallback = Fallback(mode, journal, store, attempts, self._find_accepted)
        self._telling = Telling(admission, store)
        self.refusals = Refusals(mode, store, self._telling, self._find_accepted)

    async def carry(self, slot: Slot, items: list[Item]) -> list[Item]:
        """Answer a batch; returns the items that must wait because another attempt holds them.

        A round that is fenced changes nothing that counts, so its items go again under the epoch
        that rules now.
        """
        waiting: list[Item] = []
        try:
            items = await self._without_repetitions(slot, items)
            for _ in range(limits.ADMIT_ROUNDS_MAX):
                items = [item for item in items if not item.future.done()]
                if not items:
                    return waiting
                ruling = self._mode.current
                try:
                    items = await self._take_round(slot, ruling, items, waiting)
                except Fenced:
                    await self._mode.settle_ruling(ruling.epoch)
                except LostData:
                    _log.warning("redis lost an account inside epoch %s", ruling.epoch)
                    await self._mode.settle_ruling(ruling.epoch, lost="redis lost data")
            fail(items, errors.RedisUnavailable("It could not be decided in time."))
        except errors.LedgerError as error:
            fail(items, error)
        return waiting

    async def _take_round(
        self, slot: Slot, ruling: Ruling, items: list[Item], waiting: list[Item]
    ) -> list[Item]:
        """Take items through one attempt under whoever rules; returns those that need another."""
        items = await self._resolved(ruling, items)
        if ruling.mode is Mode.CLOSED or not items:
            await self._answer_closed(items)
            return []
        if ruling.mode is Mode.POSTGRES:
            # Redis has placed them by account.
            items = put_together(items) if self._extent is Extent.GROUPS else items
            return await self._fallback.decide(slot, ruling, items)
        return await self._round(slot, ruling, items, waiting)

    async def _resolved(self, ruling: Ruling, items: list[Item]) -> list[Item]:
        """Look accounts up again that were read in another PostgreSQL: numbers may differ there."""
        old = [item for item in items if item.postgres != ruling.postgres]
        if not old:
            return items
        found = await self._store.accounts([item.account.account_id for item in old])
        for item in old:
            account = found.get(item.account.account_id)
            if account is None:
                item.fail(errors.AccountNotFound(pointer="/account_id"))
            elif account.currency != item.account.currency:
                item.fail(errors.PostgresUnavailable("The account was opened anew."))
            else:
                item.account, item.postgres = account, ruling.postgres
        return [item for item in items if not item.future.done()]

    async def _answer_closed(self, items: list[Item]) -> None:
        """Answer what was accepted before; nothing else is while the ledger is closed."""
        found = await self._find(items)
        for item in items:
            if not item.answer_from(found):
                item.fail(errors.LedgerClosed())

    async def _without_repetitions(self, slot: Slot, items: list[Item]) -> list[Item]:
        """Answer those that must be looked up before they may reserve anything: also those that a
        condition of another item on their account would count, though they moved money before.
        """
        watched = {item.account.account_no for item in items if item.expected is not None}
        doubtful = [
            item
            for item in items
            if item.identities and (item.look_up_first or item.account.account_no in watched)
        ]
        if not doubtful:
            return items
        found = await self._find(doubtful)
        await self._tell_of_credits(slot, self._mode.current, doubtful, found)
        answered = {item for item in doubtful if item.answer_from(found)}
        return [item for item in items if item not in answered]

    async def _tell_of_credits(
        self,
        slot: Slot,
        ruling: Ruling,
        items: Iterable[Item],
        found: Mapping[Identity, Accepted | None],
    ) -> None:
        """Make accepted credits spendable before their repetition is answered."""
        if ruling.mode is Mode.REDIS:
            repeated = [item for item in items if item.is_credit]
            await self._telling.tell_of_repeated(ruling, slot, repeated, found)

    async def _find(self, items: Iterable[Item]) -> Mapping[Identity, Accepted | None]:
        return await self._find_accepted(identities_of(items))

    async def _round(
        self, slot: Slot, ruling: Ruling, items: list[Item], waiting: list[Item]
    ) -> list[Item]:
        """Take items through one attempt; returns those that need another one."""
        attempt = Attempt(self._attempts)
        admitted, refused, others, _ = await self.reserve(
            slot, ruling, attempt, items, self._extent
        )
        certain, doubtful = split_refusals(refused, admitted)
        again = await self.refusals.answer(slot, ruling, certain, others, waiting)
        doubted = [each for item, _ in doubtful for each in item.together]
        if admitted:
            outcome = await self._write(slot, ruling, attempt, admitted, doubted)
            if outcome.word is Journaled.FENCED:
                await self._mode.settle_ruling(ruling.epoch)
                return [*again, *admitted, *doubted]
            if outcome.word is Journaled.VOID:
                # The reaper gave back what it saw; a late sending may have reserved after that.
                await self.release(slot, ruling, attempt)
                return [*again, *admitted, *doubted]
            await self._finish(slot, ruling, attempt, admitted, outcome, doubted)
            if outcome.duplicates:
                return [*again, *doubted]
        return again + await self.refusals.answer(slot, ruling, doubtful, others, waiting)

    async def reserve(
        self,
        slot: Slot,
        ruling: Ruling,
        attempt: Attempt,
        items: list[Item],
        extent: Extent = Extent.EACH,
    ) -> Admittance:
        """Split a batch into reserved and refused items, loading accounts Redis does not have.

        Whatever it raises, what the attempt had reserved is given back.
        """
        try:
            for _ in range(limits.ADMIT_ROUNDS_MAX):
                admittance = await self._admission.admit(ruling, slot, attempt, items, extent)
                if not admittance.unloaded:
                    return admittance
                gone = await self._load(ruling, admittance.unloaded)
                if gone:
                    items = [item for item in items if not item.future.done()]
                if not items or (gone and extent is Extent.ALL):
                    return admittance
            raise errors.InvariantViolation("an account stays unloaded although it was loaded")
        except (Fenced, LostData):
            with contextlib.suppress(Fenced, errors.RedisUnavailable):
                await self._admission.release(ruling, slot, attempt)
            raise
        except errors.RedisUnavailable as exc:
            if await self._mode.fall_back(ruling.epoch):
                raise Fenced from exc
            fail(items, exc)
            await self.release(slot, ruling, attempt)
            raise
        except Exception as exc:
            fail(items, answerable(exc))
            await self.release(slot, ruling, attempt)
            raise

    async def _load(self, ruling: Ruling, items: Iterable[Item]) -> frozenset[int]:
        """Load the accounts of items; returns the numbers of accounts that there are not.

        An account goes only with a PostgreSQL that lost its history.
        """
        numbers = {item.account.account_no for item in items}
        rows = await self._store.accounts_to_load(list(numbers))
        await self._admission.load(ruling, rows.values())
        gone = frozenset(numbers - set(rows))
        missing = [item for item in items if item.account.account_no in gone]
        fail(missing, errors.AccountNotFound(pointer="/account_id"))
        return gone

    async def _write(
        self,
        slot: Slot,
        ruling: Ruling,
        attempt: Attempt,
        items: list[Item],
        bystanders: list[Item],
    ) -> JournalOutcome:
        """Journal. Whatever it raises, the reservations are given back."""

        async def ask(deadline: float, unsure: bool) -> JournalOutcome:
            number = attempt.attempt_id
            return await self._journal.write(ruling, number, items, deadline, unsure=unsure)

        try:
            return await until_known(slot, items, bystanders, ask)
        except Exception as exc:
            fail([*items, *bystanders], answerable(exc))
            await self.release(slot, ruling, attempt)
            raise

    async def _finish(
        self,
        slot: Slot,
        ruling: Ruling,
        attempt: Attempt,
        items: list[Item],
        outcome: JournalOutcome,
        bystanders: list[Item],
    ) -> None:
        """Answer a journaled batch and tell Redis; credits are told before they are answered."""
        outcomes = [
            (item, RELEASED if position in outcome.duplicates else JOURNALED)
            for position, item in enumerate(items)
        ]
        answers = journaled_answers(items, attempt.attempt_id, ruling.mode, outcome)
        if not any(item.is_credit for item, _ in answers):
            accept(answers)
        try:
            repeated = [items[position] for position in outcome.duplicates]
            await self._answer_duplicates(slot, ruling, repeated)
        finally:
            try:
                await self.tell(slot, ruling, attempt, outcomes, answers, bystanders)
            finally:
                accept(answers)

    async def _answer_duplicates(self, slot: Slot, ruling: Ruling, duplicates: list[Item]) -> None:
        if not duplicates:
            return
        try:
            found = await self._find(duplicates)
            await self._tell_of_credits(slot, ruling, duplicates, found)
        except errors.LedgerError as error:
            fail(duplicates, error)
            return
        for item in duplicates:
            if not item.future.done() and not item.answer_from(found):
                item.fail(await why_taken(self._store, item))

    async def release(self, slot: Slot, ruling: Ruling, attempt: Attempt) -> None:
        """Give back what an attempt may have reserved; this process will never journal it."""
        await self.tell(slot, ruling, attempt, None)

    async def tell(
        self,
        slot: Slot,
        ruling: Ruling,
        attempt: Attempt,
        outcomes: Sequence[tuple[Item, str]] | None,
        answers: Sequence[tuple[Item, Transaction]] = (),
        bystanders: Sequence[Item] = (),
    ) -> None:
        """Tell Redis what became of an attempt until it knows or its epoch is over; without
        outcomes everything is released.

        If Redis does not answer, nobody waits for it: `answers` are given, for they are durable
        already, and `bystanders` of the batch are refused for now. Once the epoch is over there
        is nobody left to tell.
        """

        async def say() -> None:
            if outcomes is None:
                await self._admission.release(ruling, slot, attempt)
            else:
                await self._admission.confirm(ruling, slot, attempt, outcomes)

        await self._insist(slot, ruling, say, answers, bystanders)

    async def tell_what_is_left(self, slot: Slot) -> None:
        """Tell Redis of a slot's last debits, that no further admission has told it of."""
        try:
            ruling = self._mode.current
            if ruling.mode is Mode.REDIS:
                await self._insist(slot, ruling, lambda: self._admission.confirm_left(ruling, slot))
        except Exception:
            _log.exception("redis was not told of attempt %s", slot.journaled)
        slot.journaled = 0

    async def _insist(
        self,
        slot: Slot,
        ruling: Ruling,
        say: Callable[[], Awaitable[None]],
        answers: Sequence[tuple[Item, Transaction]] = (),
        bystanders: Sequence[Item] = (),
    ) -> None:
        """Say something until Redis has heard it or the epoch is over; see `tell`."""
        pause = _OWING_PAUSE_S
        try:
            while True:
                try:
                    await say()
                except errors.RedisUnavailable as error:
                    accept(answers)
                    if await self._mode.fall_back(ruling.epoch):
                        return
                    fail(bystanders, error)
                    slot.owes = error
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, _OWING_PAUSE_LONGEST_S)
                else:
                    return
        except Fenced:
            return
        finally:
            slot.owes = None
