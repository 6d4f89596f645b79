"""One micro-batch's way: admit in Redis, journal in PostgreSQL, confirm in Redis, answer.

    admit ──> journal ──> confirm ──> answer        (a batch with credits)
    admit ──> journal ──> answer ──> confirm        (debits only)

In mode `postgres` a batch takes the way of `app/ledger/fallback.py` instead. Whatever fails in
between, each item is answered once, within its deadline, and the slot takes no further batch until
Redis knows what became of this one, or its epoch is over.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence

from app import errors, limits
from app.kit.ids import AttemptNumbers, EntryPosition
from app.ledger.admission import JOURNALED, RELEASED, Admission, Decision, Fenced, LostData, Slot
from app.ledger.answers import accept, answerable, fail, journaled_transaction, refusal
from app.ledger.codes import Admitted, Journaled, Mode
from app.ledger.fallback import Fallback
from app.ledger.item import Item
from app.ledger.journal import Journal, JournalOutcome, until_known
from app.ledger.mode import ModeKeeper, Ruling
from app.ledger.model import Identity, Transaction
from app.ledger.store import LedgerStore
from app.ledger.untold import tell_journaled_credits

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
    ) -> None:
        """Put the parts together; does no I/O."""
        self._mode = mode
        self._admission = admission
        self._journal = journal
        self._store = store
        self._attempts = attempts
        self._fallback = Fallback(mode, journal, store, attempts)

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
            fail(items, errors.RedisUnavailable("The epoch keeps changing; nothing changed."))
        except errors.LedgerError as error:
            fail(items, error)
        return waiting

    async def _take_round(
        self, slot: Slot, ruling: Ruling, items: list[Item], waiting: list[Item]
    ) -> list[Item]:
        """Take items through one attempt under whoever rules; returns those that need another."""
        if ruling.mode is Mode.CLOSED:
            raise errors.LedgerClosed
        if ruling.mode is Mode.POSTGRES:
            return await self._fallback.decide(slot, ruling, items)
        return await self._round(slot, ruling, items, waiting)

    async def _without_repetitions(self, slot: Slot, items: list[Item]) -> list[Item]:
        """Answer those that must be looked up before they may reserve anything."""
        doubtful = [item for item in items if item.look_up_first and item.identities]
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
        found: Mapping[Identity, Transaction],
    ) -> None:
        """Make accepted credits spendable before their repetition is answered."""
        if ruling.mode is Mode.REDIS:
            for item in items:
                if item.is_credit:
                    await self._confirm_for_another(slot, ruling, item, found)

    async def _find(self, items: Iterable[Item]) -> dict[Identity, Transaction]:
        identities = [identity for item in items for identity in item.identities]
        return await self._store.transactions_by_identity(identities)

    async def _round(
        self, slot: Slot, ruling: Ruling, items: list[Item], waiting: list[Item]
    ) -> list[Item]:
        """Take items through one attempt; returns those that need another one."""
        attempt_id = self._attempts.draw()
        admitted, refused = await self._admit(slot, ruling, attempt_id, items)
        certain, doubtful = _split_refusals(refused, admitted)
        again = await self._refuse(slot, ruling, certain, waiting)
        doubted = [item for item, _ in doubtful]
        if admitted:
            outcome = await self._write(slot, ruling, attempt_id, admitted, doubted)
            if outcome.word is Journaled.FENCED:
                await self._mode.settle_ruling(ruling.epoch)
                return [*again, *admitted, *doubted]
            if outcome.word is Journaled.VOID:
                # The reaper gave back what it saw; a late sending may have reserved after that.
                await self._release(slot, ruling, attempt_id, admitted)
                return [*again, *admitted, *doubted]
            await self._finish(slot, ruling, attempt_id, admitted, outcome, doubted)
            if outcome.duplicates:
                return [*again, *doubted]
        return again + await self._refuse(slot, ruling, doubtful, waiting)

    async def _admit(
        self, slot: Slot, ruling: Ruling, attempt_id: int, items: list[Item]
    ) -> tuple[list[Item], list[tuple[Item, Decision]]]:
        """Split a batch into reserved and refused items, loading accounts Redis does not have.

        Whatever it raises, what the attempt had reserved is given back.
        """
        batch, admitted, refused = items, [], []
        try:
            for _ in range(limits.ADMIT_ROUNDS_MAX):
                decided = await self._admission.admit(ruling, slot, attempt_id, items)
                items = [item for item, decision in decided if decision.word is Admitted.UNLOADED]
                for item, decision in decided:
                    if decision.word is Admitted.ADMITTED:
                        admitted.append(item)
                    elif decision.word is not Admitted.UNLOADED:
                        refused.append((item, decision))
                if not items:
                    return admitted, refused
                await self._load(ruling, items)
            raise errors.InvariantViolation("an account stays unloaded although it was loaded")
        except (Fenced, LostData):
            await self._tell_once(slot, ruling, attempt_id, [(item, RELEASED) for item in batch])
            raise
        except errors.RedisUnavailable as exc:
            if await self._mode.fall_back(ruling.epoch):
                raise Fenced from exc
            fail(batch, exc)
            await self._release(slot, ruling, attempt_id, batch)
            raise
        except Exception as exc:
            fail(batch, answerable(exc))
            await self._release(slot, ruling, attempt_id, batch)
            raise

    async def _load(self, ruling: Ruling, items: Iterable[Item]) -> None:
        numbers = {item.account.account_no for item in items}
        rows = await self._store.accounts_to_load(list(numbers))
        errors.require(len(rows) == len(numbers), "an account that was found has gone")
        await self._admission.load(ruling, rows.values())

    async def _refuse(
        self,
        slot: Slot,
        ruling: Ruling,
        refused: list[tuple[Item, Decision]],
        waiting: list[Item],
    ) -> list[Item]:
        """Answer refused items; returns those that must be decided anew; never raises.

        A refusal stands only if its epoch still ruled after it, if the request was not accepted
        before, and if no credit is durable that Redis was not told of. Where an acceptance's
        process died before telling Redis, Redis is told now. Items that another attempt is still
        deciding go to `waiting`.
        """
        again: list[Item] = []
        if not refused:
            return again
        try:
            found, rules, credited = await asyncio.gather(
                self._find(item for item, _ in refused),
                self._store.epoch_rules(ruling.epoch, ruling.token, ruling.mode),
                self._tell_of_untold(slot, ruling, refused),
            )
            for item, decision in refused:
                if decision.word is Admitted.IN_FLIGHT:
                    await self._confirm_for_another(slot, ruling, item, found)
                if item.answer_from(found):
                    continue
                if not rules or item.account.account_id in credited:
                    again.append(item)
                elif decision.word is Admitted.IN_FLIGHT:
                    item.look_up_first = True
                    waiting.append(item)
                else:
                    item.fail(refusal(item, decision.word, decision.available_minor))
            if not rules:
                await self._mode.settle_ruling(ruling.epoch)
        except Exception as exc:
            fail((item for item, _ in refused if item not in waiting), answerable(exc))
        return again

    async def _tell_of_untold(
        self, slot: Slot, ruling: Ruling, refused: list[tuple[Item, Decision]]
    ) -> set[str]:
        """Tell Redis of journaled credits on accounts that are short without them."""
        short = [
            item.account.account_id
            for item, decision in refused
            if decision.word is Admitted.CREDIT_IN_FLIGHT
        ]
        try:
            return await tell_journaled_credits(self._admission, self._store, ruling, slot, short)
        except Fenced:
            return set(short)

    async def _confirm_for_another(
        self, slot: Slot, ruling: Ruling, item: Item, found: Mapping[Identity, Transaction]
    ) -> None:
        """Confirm the attempt that journaled a repeated request; it may have died before that."""
        for identity in item.identities:
            if identity in found:
                attempt_id = found[identity].attempt_id
                await self._tell_once(slot, ruling, attempt_id, [(item, JOURNALED)], whole=False)

    async def _write(
        self,
        slot: Slot,
        ruling: Ruling,
        attempt_id: int,
        items: list[Item],
        bystanders: list[Item],
    ) -> JournalOutcome:
        """Journal. Whatever it raises, the reservations are given back."""

        async def ask(deadline: float, unsure: bool) -> JournalOutcome:
            return await self._journal.write(ruling, attempt_id, items, deadline, unsure=unsure)

        try:
            return await until_known(slot, items, bystanders, ask)
        except Exception as exc:
            fail([*items, *bystanders], answerable(exc))
            await self._release(slot, ruling, attempt_id, items)
            raise

    async def _finish(
        self,
        slot: Slot,
        ruling: Ruling,
        attempt_id: int,
        items: list[Item],
        outcome: JournalOutcome,
        bystanders: list[Item],
    ) -> None:
        """Answer a journaled batch and tell Redis; credits are told before they are answered."""
        outcomes = [
            (item, RELEASED if position in outcome.duplicates else JOURNALED)
            for position, item in enumerate(items)
        ]
        answers = [
            (
                item,
                journaled_transaction(
                    item,
                    attempt_id,
                    ruling.mode,
                    EntryPosition(outcome.batch_seq, position),
                    outcome.accepted_at,
                ),
            )
            for position, item in enumerate(items)
            if position not in outcome.duplicates
        ]
        if not any(item.is_credit for item, _ in answers):
            accept(answers)
        try:
            repeated = [items[position] for position in outcome.duplicates]
            await self._answer_duplicates(slot, ruling, repeated)
        finally:
            await self._until_told(slot, ruling, attempt_id, outcomes, answers, bystanders)
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
            if not item.answer_from(found):
                item.fail(errors.InvariantViolation("a key is taken but its entry is missing"))

    async def _release(
        self, slot: Slot, ruling: Ruling, attempt_id: int, items: Sequence[Item]
    ) -> None:
        """Give back what an attempt may have reserved; this process will never journal it."""
        await self._until_told(slot, ruling, attempt_id, [(item, RELEASED) for item in items])

    async def _until_told(
        self,
        slot: Slot,
        ruling: Ruling,
        attempt_id: int,
        outcomes: list[tuple[Item, str]],
        answers: Sequence[tuple[Item, Transaction]] = (),
        bystanders: Sequence[Item] = (),
    ) -> None:
        """Tell Redis what became of an attempt until it knows or its epoch is over.

        If Redis does not answer, nobody waits for it: `answers` are given, for they are durable
        already, and `bystanders` of the batch are refused for now. Once the epoch is over there
        is nobody left to tell.
        """
        pause = _OWING_PAUSE_S
        try:
            while True:
                try:
                    await self._admission.confirm(ruling, slot, attempt_id, outcomes)
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

    async def _tell_once(
        self,
        slot: Slot,
        ruling: Ruling,
        attempt_id: int,
        outcomes: list[tuple[Item, str]],
        *,
        whole: bool = True,
    ) -> None:
        """Tell Redis if it listens; for what is told again, or is gone with its epoch, anyway."""
        with contextlib.suppress(Fenced, errors.RedisUnavailable):
            await self._admission.confirm(ruling, slot, attempt_id, outcomes, whole=whole)


def _split_refusals(
    refused: list[tuple[Item, Decision]], admitted: list[Item]
) -> tuple[list[tuple[Item, Decision]], list[tuple[Item, Decision]]]:
    """Tell refusals that stand from those to look at again when the batch is journaled.

    A repetition of an accepted debit reserves its amount until the journal finds it out, and may
    be all that another request of the batch is short of.
    """
    repeatable = {
        item.account.account_no for item in admitted if item.identities and not item.is_credit
    }
    certain, doubtful = [], []
    for item, decision in refused:
        is_short = decision.word in (Admitted.INSUFFICIENT_AVAILABLE, Admitted.CREDIT_IN_FLIGHT)
        in_doubt = is_short and item.account.account_no in repeatable
        if in_doubt or decision.word is Admitted.IN_FLIGHT:
            doubtful.append((item, decision))
        else:
            certain.append((item, decision))
    return certain, doubtful
