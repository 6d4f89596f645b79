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
from app.ledger.admission import (
    JOURNALED,
    RELEASED,
    Admission,
    Decision,
    Fenced,
    LostData,
    Slot,
    split_refusals,
)
from app.ledger.answers import accept, answerable, fail, journaled_transaction, refusal
from app.ledger.codes import Admitted, Journaled, Mode
from app.ledger.fallback import Fallback
from app.ledger.item import Item
from app.ledger.journal import Journal, JournalOutcome, until_known
from app.ledger.mode import ModeKeeper, Ruling
from app.ledger.model import Identity, Transaction
from app.ledger.store import LedgerStore
from app.ledger.untold import tell_journaled_credits, tell_of_repeated

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
            repeated = [item for item in items if item.is_credit]
            await tell_of_repeated(self._admission, ruling, slot, repeated, found)

    async def _find(self, items: Iterable[Item]) -> dict[Identity, Transaction]:
        identities = [identity for item in items for identity in item.identities]
        return await self._store.transactions_by_identity(identities)

    async def _round(
        self, slot: Slot, ruling: Ruling, items: list[Item], waiting: list[Item]
    ) -> list[Item]:
        """Take items through one attempt; returns those that need another one."""
        attempt_id = self._attempts.draw()
        admitted, refused = await self._admit(slot, ruling, attempt_id, items)
        certain, doubtful = split_refusals(refused, admitted)
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
                if items:
                    items = await self._load(ruling, items)
                if not items:
                    return admitted, refused
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

    async def _load(self, ruling: Ruling, items: Iterable[Item]) -> list[Item]:
        """Load the accounts of items; returns those whose account there is.

        An account goes only with a PostgreSQL that lost its history.
        """
        numbers = {item.account.account_no for item in items}
        rows = await self._store.accounts_to_load(list(numbers))
        await self._admission.load(ruling, rows.values())
        gone = [item for item in items if item.account.account_no not in rows]
        fail(gone, errors.AccountNotFound(pointer="/account_id"))
        return [item for item in items if item not in gone]

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
            found, rules = await asyncio.gather(
                self._find(item for item, _ in refused),
                self._store.epoch_rules(ruling.epoch, ruling.token, ruling.mode),
            )
            in_flight = [item for item, decision in refused if decision.word is Admitted.IN_FLIGHT]
            await tell_of_repeated(self._admission, ruling, slot, in_flight, found)
            credited = await self._tell_of_untold(slot, ruling, refused) if rules else set()
            for item, decision in refused:
                if item.answer_from(found):
                    continue
                short = decision.word is Admitted.CREDIT_IN_FLIGHT
                if not rules or (short and item.account.account_id in credited):
                    again.append(item)
                elif decision.word is Admitted.IN_FLIGHT:
                    item.look_up_first = True
                    waiting.append(item)
                else:
                    item.fail(refusal(item, decision.word, decision.available_minor))
            if not rules:
                await self._mode.settle_ruling(ruling.epoch)
        except Exception as exc:
            left = set(waiting)
            fail((item for item, _ in refused if item not in left), answerable(exc))
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
            try:
                await self._until_told(slot, ruling, attempt_id, outcomes, answers, bystanders)
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
    ) -> None:
        """Tell Redis if it listens; for what is told again, or is gone with its epoch, anyway."""
        with contextlib.suppress(Fenced, errors.RedisUnavailable):
            await self._admission.confirm(ruling, slot, attempt_id, outcomes)
