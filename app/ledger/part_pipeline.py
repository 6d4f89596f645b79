"""The way of a part of a bulk request: like a micro-batch's, and answered as a whole.

A part is never mixed with other requests. What is refused of it is remembered with its key, in the
same commit as what is accepted, so that a repetition gets the same answers.
"""

from app import errors, limits
from app.kit.ids import AttemptNumbers
from app.ledger.admission import (
    JOURNALED,
    Admittance,
    Attempt,
    Decision,
    Fenced,
    LostData,
    Slot,
)
from app.ledger.answers import accept, answerable, fail, journaled_answers, refusal, told_word
from app.ledger.codes import Decided, Extent, Journaled, Mode, Refused
from app.ledger.item import Item
from app.ledger.journal import Journal, until_known
from app.ledger.mode import ModeKeeper, Ruling
from app.ledger.outcomes import DecidedOutcome, JournalOutcome
from app.ledger.part import Part, answer_part_again
from app.ledger.pipeline import Pipeline
from app.ledger.store import LedgerStore

Refusal = tuple[Item, Decision]
_TELLINGS_MAX = 3


class PartPipeline:
    """Carries parts; one instance serves all slots of a process."""

    def __init__(
        self,
        pipeline: Pipeline,
        mode: ModeKeeper,
        journal: Journal,
        store: LedgerStore,
        attempts: AttemptNumbers,
    ) -> None:
        """`pipeline` reserves and confirms."""
        self._pipeline = pipeline
        self._refusals = pipeline.refusals
        self._mode = mode
        self._journal = journal
        self._store = store
        self._attempts = attempts

    async def carry(self, slot: Slot, part: Part) -> bool:
        """Answer a part; False when it must wait because another process is deciding it or one of
        its accounts is being changed.
        """
        part.waits_for_account = False
        try:
            for _ in range(limits.ADMIT_ROUNDS_MAX):
                if part.future.done() or (
                    part.look_up_first and await answer_part_again(self._store, part)
                ):
                    return True
                ruling = self._mode.current
                try:
                    if await self._take_round(slot, ruling, part):
                        must_wait = part.look_up_first or part.waits_for_account
                        return not must_wait or part.future.done()
                except Fenced:
                    await self._mode.settle_ruling(ruling.epoch)
                except LostData:
                    await self._mode.settle_ruling(ruling.epoch, lost="redis lost data")
            part.fail(errors.RedisUnavailable("It could not be decided in time."))
        except errors.LedgerError as error:
            part.fail(error)
        return True

    async def _take_round(self, slot: Slot, ruling: Ruling, part: Part) -> bool:
        """Take a part through one attempt; False when it needs another."""
        if any(item.postgres != ruling.postgres for item in part.items):
            raise errors.PostgresUnavailable("The accounts must be looked up again.")
        if ruling.mode is Mode.CLOSED:
            if not await answer_part_again(self._store, part):
                part.fail(errors.LedgerClosed())
            return True
        decide = self._in_postgres if ruling.mode is Mode.POSTGRES else self._in_redis
        return await decide(slot, ruling, part)

    async def _in_redis(self, slot: Slot, ruling: Ruling, part: Part) -> bool:
        attempt = Attempt(self._attempts)
        admittance = await self._pipeline.reserve(slot, ruling, attempt, part.items, part.extent)
        admitted, refused = admittance.admitted, admittance.refused
        try:
            if len(admitted) + len(refused) < len(part.items) and part.extent is Extent.EACH:
                raise errors.PostgresUnavailable("The accounts must be looked up again.")
            if any(decision.word is Refused.ACCOUNT_CHANGING for _, decision in refused):
                await self._pipeline.release(slot, ruling, attempt)
                part.waits_for_account = True
                part.look_up_first = part.is_among(admittance.others)
                return True
            if await self._was_untold(slot, ruling, part, refused):
                await self._pipeline.release(slot, ruling, attempt)
                return False
            if refused and admitted and part.is_among(admittance.others):
                # What it lacks may be held by another sending of itself.
                await self._pipeline.release(slot, ruling, attempt)
                part.look_up_first = True
                return True
            if not admitted:
                return await self._refuse(ruling, part, refused, admittance.others)
            outcome = await self._write(slot, ruling, part, attempt, admittance)
        except Exception as exc:
            part.fail(answerable(exc))
            await self._pipeline.release(slot, ruling, attempt)
            raise
        if outcome.word is not Journaled.JOURNALED:
            return await self._not_journaled(slot, ruling, part, attempt, outcome.word)
        answers = journaled_answers(admitted, attempt.attempt_id, ruling.mode, outcome)
        for item, decision in refused:
            item.fail(refusal(item, decision.word, decision.available_minor))
        if not any(item.is_credit for item in admitted):
            accept(answers)
        outcomes = [(item, JOURNALED) for item in admitted]
        await self._pipeline.tell(slot, ruling, attempt, outcomes, answers)
        accept(answers)
        return True

    async def _write(
        self, slot: Slot, ruling: Ruling, part: Part, attempt: Attempt, admittance: Admittance
    ) -> JournalOutcome:
        admitted, refused = admittance.admitted, admittance.refused
        claim = part.claim(
            {
                item: (told_word(item, each.word, each.available_minor), each.available_minor)
                for item, each in refused
            }
        )

        async def ask(deadline: float, unsure: bool) -> JournalOutcome:
            return await self._journal.write(
                ruling, attempt.attempt_id, admitted, deadline, unsure=unsure, claim=claim
            )

        # What was refused is remembered with what was admitted, or not at all: one fate for all.
        return await until_known(slot, part.items, (), ask)

    async def _was_untold(
        self, slot: Slot, ruling: Ruling, part: Part, refused: list[Refusal]
    ) -> bool:
        """Tell Redis of durable credits that a refused item lacks; True when it may have more now.

        A bounded number of times; what it lacks may be credits of the part itself, which fund none
        of its debits.
        """
        own = {item.account.account_id for item in part.items if item.is_credit}
        short = {
            item.account.account_id
            for item, decision in refused
            if decision.word is Refused.CREDIT_IN_FLIGHT
        }
        if not short or (part.tellings >= _TELLINGS_MAX and short <= own):
            return False
        if part.tellings >= _TELLINGS_MAX:
            raise errors.RedisUnavailable("It could not be decided in time.")
        part.tellings += 1
        return bool(await self._refusals.credited(slot, ruling, short))

    async def _not_journaled(
        self, slot: Slot, ruling: Ruling, part: Part, attempt: Attempt, word: Journaled
    ) -> bool:
        """Go on after the journal took nothing; True when the part is answered."""
        if word is Journaled.FENCED:
            await self._mode.settle_ruling(ruling.epoch)
            return False
        await self._pipeline.release(slot, ruling, attempt)
        return word is Journaled.DUPLICATE and await answer_part_again(self._store, part)

    async def _refuse(
        self, ruling: Ruling, part: Part, refused: list[Refusal], others: frozenset[str]
    ) -> bool:
        """Answer a part that was refused whole, if that stands; else it waits or goes again."""
        rules = await self._store.epoch_rules(ruling.epoch, ruling.token, ruling.mode)
        if await answer_part_again(self._store, part):
            return True
        if not rules:
            await self._mode.settle_ruling(ruling.epoch)
            return False
        if part.is_among(others):
            part.look_up_first = True
            return True
        for item, decision in refused:
            item.fail(refusal(item, decision.word, decision.available_minor))
        fail(part.items, errors.OthersRefused())
        return True

    async def _in_postgres(self, slot: Slot, ruling: Ruling, part: Part) -> bool:
        attempt_id = self._attempts.draw()
        claim = part.claim({})
        positions = None if part.identity is None else part.positions

        async def ask(deadline: float, unsure: bool) -> DecidedOutcome:
            return await self._journal.decide(
                ruling,
                attempt_id,
                part.items,
                deadline,
                unsure=unsure,
                claim=claim,
                positions=positions,
            )

        try:
            outcome = await until_known(slot, part.items, (), ask)
        except Exception as exc:
            part.fail(answerable(exc))
            raise
        repeated = (Decided.DUPLICATE, Decided.UNDECIDED)
        if outcome.word is Journaled.DUPLICATE or any(word in repeated for word in outcome.words):
            return await answer_part_again(self._store, part)
        if outcome.word not in (Journaled.JOURNALED, Journaled.REFUSED):
            if outcome.word is Journaled.FENCED:
                await self._mode.settle_ruling(ruling.epoch)
            return False
        accepted = outcome.word is Journaled.JOURNALED
        for number, (item, word) in enumerate(zip(part.items, outcome.words, strict=True)):
            if word is Decided.UNKNOWN_ACCOUNT:
                item.fail(errors.AccountNotFound(pointer="/account_id"))
            elif word is not Decided.ADMITTED:
                item.fail(refusal(item, word, outcome.availables[number]))
            elif accepted:
                accept(journaled_answers([item], attempt_id, ruling.mode, outcome, number))
        fail(part.items, errors.OthersRefused())
        return True
