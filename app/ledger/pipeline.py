"""One micro-batch's way: admit in Redis, journal in PostgreSQL, confirm in Redis, answer.

    admit ──> journal ──> confirm ──> answer        (a batch with credits)
    admit ──> journal ──> answer ──> confirm        (debits only)

Whatever fails in between, each item is answered once, within its deadline, and the slot takes no
further batch until Redis knows what became of this one.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence

from app import errors, limits
from app.kit.ids import AttemptNumbers, EntryPosition, assigned_transaction_id
from app.kit.money import decimal_text
from app.ledger.admission import JOURNALED, RELEASED, Admission, Decision, Fenced, LostData, Slot
from app.ledger.codes import Admitted, EntryStatus, Journaled
from app.ledger.item import Item
from app.ledger.journal import Journal, JournalOutcome
from app.ledger.mode import ModeKeeper, Ruling
from app.ledger.model import Transaction
from app.ledger.store import LedgerStore, accepted_ms

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

    async def carry(self, slot: Slot, items: list[Item]) -> list[Item]:
        """Answer a batch; returns the items that must wait because another attempt holds them.

        A round that is fenced changes nothing that counts, so its items go again under the epoch
        that rules now.
        """
        waiting: list[Item] = []
        try:
            items = await self._without_repetitions(items)
            for _ in range(limits.ADMIT_ROUNDS_MAX):
                items = [item for item in items if not item.future.done()]
                if not items:
                    return waiting
                ruling = self._mode.current
                try:
                    items = await self._round(slot, ruling, items, waiting)
                except Fenced:
                    await self._mode.settle_ruling(ruling.epoch)
                except LostData:
                    _log.warning("redis lost an account inside epoch %s", ruling.epoch)
                    await self._mode.settle_ruling(ruling.epoch, lost=True)
            _fail(items, errors.RedisUnavailable("The epoch keeps changing; nothing changed."))
        except errors.LedgerError as error:
            _fail(items, error)
        return waiting

    async def _without_repetitions(self, items: list[Item]) -> list[Item]:
        """Answer those that must be looked up before they may reserve anything."""
        doubtful = [item for item in items if item.look_up_first and item.identities]
        if not doubtful:
            return items
        answered = await self._answer_repetitions(doubtful)
        return [item for item in items if item not in answered]

    async def _answer_repetitions(self, items: Iterable[Item]) -> set[Item]:
        items = list(items)
        identities = [identity for item in items for identity in item.identities]
        found = await self._store.transactions_by_identity(identities)
        return {item for item in items if item.answer_from(found)}

    async def _round(
        self, slot: Slot, ruling: Ruling, items: list[Item], waiting: list[Item]
    ) -> list[Item]:
        """Take items through one attempt; returns those that need another one."""
        attempt_id = self._attempts.draw()
        admitted, refused = await self._admit(slot, ruling, attempt_id, items)
        try:
            waiting.extend(await self._refuse(slot, ruling, refused))
        except errors.LedgerError as error:
            _fail((item for item, _ in refused), error)
        if not admitted:
            return []
        outcome = await self._write(slot, ruling, attempt_id, admitted)
        if outcome.word is Journaled.FENCED:
            await self._mode.settle_ruling(ruling.epoch)
            return admitted
        if outcome.word is Journaled.VOID:
            return admitted
        await self._finish(slot, ruling, attempt_id, admitted, outcome)
        return []

    async def _admit(
        self, slot: Slot, ruling: Ruling, attempt_id: int, items: list[Item]
    ) -> tuple[list[Item], list[tuple[Item, Decision]]]:
        """Split a batch into reserved and refused items, loading accounts Redis does not have."""
        admitted: list[Item] = []
        refused: list[tuple[Item, Decision]] = []
        for _ in range(limits.ADMIT_ROUNDS_MAX):
            try:
                decided = await self._admission.admit(ruling, slot, attempt_id, items)
            except errors.RedisUnavailable as error:
                _fail(items, error)
                await self._release(slot, ruling, attempt_id, [*admitted, *items])
                raise
            items = [item for item, decision in decided if decision.word is Admitted.UNLOADED]
            for item, decision in decided:
                if decision.word is Admitted.ADMITTED:
                    admitted.append(item)
                elif decision.word is not Admitted.UNLOADED:
                    refused.append((item, decision))
            if not items:
                return admitted, refused
            try:
                await self._load(ruling, items)
            except (errors.RedisUnavailable, errors.PostgresUnavailable) as error:
                _fail([*admitted, *items], error)
                await self._release(slot, ruling, attempt_id, admitted)
                raise
        raise errors.InvariantViolation("an account stays unloaded although it was loaded")

    async def _load(self, ruling: Ruling, items: Iterable[Item]) -> None:
        numbers = {item.account.account_no for item in items}
        rows = await self._store.accounts_to_load(list(numbers))
        errors.require(len(rows) == len(numbers), "an account that was found has gone")
        await self._admission.load(ruling, rows.values())

    async def _refuse(
        self, slot: Slot, ruling: Ruling, refused: list[tuple[Item, Decision]]
    ) -> list[Item]:
        """Answer refused items, but first find out whether they were accepted before.

        An acceptance whose process died before telling Redis is told now, so that its credit can
        be spent. Returns the items that another attempt is still deciding.
        """
        named = [item for item, _ in refused if item.identities]
        answered = await self._answer_repetitions(named) if named else set()
        waiting: list[Item] = []
        for item, decision in refused:
            if item not in answered and decision.word is not Admitted.IN_FLIGHT:
                item.fail(_refusal(item, decision))
            elif item not in answered:
                item.look_up_first = True
                waiting.append(item)
            elif decision.word is Admitted.IN_FLIGHT:
                await self._confirm_for_another(slot, ruling, item)
        return waiting

    async def _confirm_for_another(self, slot: Slot, ruling: Ruling, item: Item) -> None:
        """Confirm the attempt that journaled a repeated request; it may have died before that."""
        if item.future.cancelled() or item.future.exception() is not None:
            return
        attempt_id = item.future.result().transaction.attempt_id
        await self._until_told(slot, ruling, attempt_id, [(item, JOURNALED)])

    async def _write(
        self, slot: Slot, ruling: Ruling, attempt_id: int, items: list[Item]
    ) -> JournalOutcome:
        """Journal; past the clients' deadline they learn that the outcome is unknown, and the slot
        goes on asking until it is known.
        """
        deadline = min(item.deadline for item in items)
        while True:
            try:
                outcome = await self._journal.write(ruling.epoch, attempt_id, items, deadline)
            except errors.JournalOutcomeUnknown as error:
                _fail(items, error)
                slot.owes = errors.PostgresUnavailable()
                deadline = asyncio.get_running_loop().time() + _OWING_PAUSE_LONGEST_S
            except errors.InvariantViolation as error:
                _fail(items, error)
                await self._release(slot, ruling, attempt_id, items)
                raise
            else:
                slot.owes = None
                return outcome

    async def _finish(
        self,
        slot: Slot,
        ruling: Ruling,
        attempt_id: int,
        items: list[Item],
        outcome: JournalOutcome,
    ) -> None:
        """Answer a journaled batch and tell Redis; credits are told before they are answered."""
        outcomes = [
            (item, RELEASED if position in outcome.duplicates else JOURNALED)
            for position, item in enumerate(items)
        ]
        answers = [
            (item, _transaction(item, attempt_id, outcome, position))
            for position, item in enumerate(items)
            if position not in outcome.duplicates
        ]
        if not any(item.is_credit for item, _ in answers):
            _accept(answers)
        if outcome.duplicates:
            await self._answer_duplicates([items[position] for position in outcome.duplicates])
        await self._until_told(slot, ruling, attempt_id, outcomes, answers)
        _accept(answers)

    async def _answer_duplicates(self, duplicates: list[Item]) -> None:
        try:
            answered = await self._answer_repetitions(duplicates)
        except errors.PostgresUnavailable as error:
            _fail(duplicates, error)
            return
        for item in duplicates:
            if item not in answered:
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
    ) -> None:
        """Tell Redis what became of an attempt until it knows or its epoch is over.

        `answers` are given meanwhile if Redis does not answer: they are durable already.
        """
        pause = _OWING_PAUSE_S
        while True:
            try:
                await self._admission.confirm(ruling, slot, attempt_id, outcomes)
            except Fenced:
                break
            except errors.RedisUnavailable as error:
                _accept(answers)
                slot.owes = error
                await asyncio.sleep(pause)
                pause = min(pause * 2, _OWING_PAUSE_LONGEST_S)
            else:
                break
        slot.owes = None


def _transaction(
    item: Item, attempt_id: int, outcome: JournalOutcome, position: int
) -> Transaction:
    accepted_at = outcome.accepted_at
    if accepted_at is None:
        raise errors.InvariantViolation("a journaled batch has no time of acceptance")
    place = EntryPosition(outcome.batch_seq, position)
    return Transaction(
        transaction_id=item.request.transaction_id
        or assigned_transaction_id(accepted_ms(accepted_at), place),
        account=item.account,
        change_minor=item.change_minor,
        status=EntryStatus.PENDING,
        accepted_at=accepted_at,
        updated_at=accepted_at,
        reference=item.request.reference,
        metadata=item.request.metadata,
        attempt_id=attempt_id,
    )


def _refusal(item: Item, decision: Decision) -> errors.Rejected:
    exponent = item.account.exponent
    members = {"requested": decimal_text(abs(item.change_minor), exponent)}
    if decision.available_minor is not None:
        members["available"] = decimal_text(decision.available_minor, exponent)
    if decision.word is Admitted.INSUFFICIENT_AVAILABLE:
        return errors.InsufficientAvailable(**members)
    errors.require(
        decision.word is Admitted.BALANCE_LIMIT_EXCEEDED, f"no refusal for '{decision.word}'"
    )
    return errors.BalanceLimitExceeded(**members)


def _accept(answers: Iterable[tuple[Item, Transaction]]) -> None:
    for item, transaction in answers:
        item.accept(transaction, replayed=False)


def _fail(items: Iterable[Item], error: errors.LedgerError) -> None:
    for item in items:
        item.fail(error)
