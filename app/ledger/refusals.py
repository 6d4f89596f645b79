"""What Redis refused: answered, or decided anew where the refusal may not stand.

A refusal stands only if its epoch still ruled after it, if no other sending of the request was
accepted or is in flight, and if no credit is durable that Redis was not told of.
"""

import asyncio
from collections.abc import Collection

from app.ledger.admission import Decision, Fenced, Slot
from app.ledger.answers import answerable, fail, refusal
from app.ledger.codes import Refused
from app.ledger.group_store import FindAccepted
from app.ledger.item import Item, identities_of
from app.ledger.mode import ModeKeeper, Ruling
from app.ledger.store import LedgerStore
from app.ledger.untold import Telling

Refusal = tuple[Item, Decision]


class Refusals:
    """Answers refused items of one process."""

    def __init__(
        self,
        mode: ModeKeeper,
        store: LedgerStore,
        telling: Telling,
        find_accepted: FindAccepted,
    ) -> None:
        """Put the parts together; does no I/O."""
        self._mode = mode
        self._store = store
        self._telling = telling
        self._find_accepted = find_accepted

    async def answer(
        self,
        slot: Slot,
        ruling: Ruling,
        refused: list[Refusal],
        others: Collection[str],
        waiting: list[Item],
    ) -> list[Item]:
        """Answer refused items; returns those that must be decided anew; never raises.

        `others` are the names that other processes had in flight at the decision. Items that
        another process was deciding then go to `waiting`, even if it gave up since, and so do
        those whose account is being changed.
        """
        again: list[Item] = []
        if not refused:
            return again
        try:
            found, rules = await asyncio.gather(
                self._find_accepted(identities_of(item for item, _ in refused)),
                self._store.epoch_rules(ruling.epoch, ruling.token, ruling.mode),
            )
            in_flight = [
                item
                for item, _ in refused
                if any(identity.text in others for identity in item.identities)
            ]
            await self._telling.tell_of_repeated(ruling, slot, in_flight, found)
            short = [
                item.account.account_id
                for item, decision in refused
                if decision.word is Refused.CREDIT_IN_FLIGHT
            ]
            credited = await self.credited(slot, ruling, short) if rules else set()
            for item, decision in refused:
                if item.answer_from(found):
                    continue
                is_short = decision.word is Refused.CREDIT_IN_FLIGHT
                if not rules or (is_short and item.account.account_id in credited):
                    again += item.together
                elif decision.word is Refused.ACCOUNT_CHANGING:
                    # It was looked up just now, and waits for the account if for nothing else.
                    item.look_up_first = item in in_flight
                    waiting.append(item)
                elif item in in_flight:
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

    async def credited(self, slot: Slot, ruling: Ruling, account_ids: Collection[str]) -> set[str]:
        """Tell Redis of journaled credits; returns the accounts that have more to spend now.

        Raises `RedisUnavailable` or `PostgresUnavailable`.
        """
        try:
            return await self._telling.tell_of_credits(ruling, slot, account_ids)
        except Fenced:
            return set(account_ids)
