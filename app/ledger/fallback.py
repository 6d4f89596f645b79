"""One micro-batch's way while Redis is gone: PostgreSQL decides and journals it in one call.

The same batches, words and answers as in mode `redis`. There is nothing to reserve and nothing to
confirm: what is admitted is durable when the call returns.
"""

from collections.abc import Sequence

from app import errors
from app.kit.ids import AttemptNumbers
from app.ledger.admission import Slot
from app.ledger.answers import accept, answerable, fail, journaled_answers, refusal, why_taken
from app.ledger.codes import Decided, Journaled
from app.ledger.group_store import FindAccepted
from app.ledger.item import Item, identities_of
from app.ledger.journal import Journal, until_known
from app.ledger.mode import ModeKeeper, Ruling
from app.ledger.outcomes import DecidedOutcome
from app.ledger.store import LedgerStore


class Fallback:
    """Decides batches under the row locks of PostgreSQL."""

    def __init__(
        self,
        mode: ModeKeeper,
        journal: Journal,
        store: LedgerStore,
        attempts: AttemptNumbers,
        find_accepted: FindAccepted,
    ) -> None:
        """Put the parts together; does no I/O."""
        self._mode = mode
        self._journal = journal
        self._store = store
        self._attempts = attempts
        self._find_accepted = find_accepted

    async def decide(self, slot: Slot, ruling: Ruling, items: list[Item]) -> list[Item]:
        """Take items through one attempt; returns those that need another one."""
        attempt_id = self._attempts.draw()
        outcome = await self._ask(slot, ruling, attempt_id, items)
        if outcome.word is not Journaled.JOURNALED:
            if outcome.word is Journaled.FENCED:
                await self._mode.settle_ruling(ruling.epoch)
            return items
        unsettled: list[tuple[Item, Decided]] = []
        short: list[Item] = []
        for position, (item, word) in enumerate(zip(items, outcome.words, strict=True)):
            if word is Decided.ADMITTED:
                accept(journaled_answers([item], attempt_id, ruling.mode, outcome, position))
            elif word in (Decided.DUPLICATE, Decided.UNDECIDED):
                unsettled.append((item, word))
            elif word is Decided.CREDIT_IN_FLIGHT:
                short += item.together
            elif word is Decided.GROUP_REFUSED:
                continue  # another item of the group says why
            elif word is Decided.UNKNOWN_ACCOUNT:
                item.fail(errors.AccountNotFound(pointer="/account_id"))
            else:
                item.fail(refusal(item, word, outcome.availables[position]))
        return short + await self._answer_repeated(unsettled)

    async def _ask(
        self, slot: Slot, ruling: Ruling, attempt_id: int, items: Sequence[Item]
    ) -> DecidedOutcome:
        async def ask(deadline: float, unsure: bool) -> DecidedOutcome:
            return await self._journal.decide(ruling, attempt_id, items, deadline, unsure=unsure)

        try:
            return await until_known(slot, items, (), ask)
        except Exception as exc:
            fail(items, answerable(exc))
            raise

    async def _answer_repeated(self, unsettled: Sequence[tuple[Item, Decided]]) -> list[Item]:
        """Answer items whose key is taken; returns those that an earlier sending left out.

        Such an item was refused by a sending whose answer was lost, or its key was taken.
        """
        again: list[Item] = []
        if not unsettled:
            return again
        try:
            found = await self._find_accepted(identities_of(item for item, _ in unsettled))
        except errors.LedgerError as error:
            fail((item for item, _ in unsettled), error)
            return again
        for item, word in unsettled:
            if item.future.done() or item.answer_from(found):
                continue
            if word is Decided.UNDECIDED:
                again.append(item)
            else:
                item.fail(await why_taken(self._store, item))
        return again
