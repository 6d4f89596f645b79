"""A part of a bulk request: items that are decided in one batch of their own, because they stand or
fall together or have one key for all of them.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from app import errors
from app.ledger.answers import JournaledBatch, answer_known, fail, stored_refusal
from app.ledger.codes import Extent, Mode
from app.ledger.item import PAUSE_S, Item, Tally
from app.ledger.model import Identity, StoredPart, Transaction
from app.ledger.outcomes import Claim
from app.ledger.store import LedgerStore, encode_json

_NOT_FOUND = errors.AccountNotFound.code


class Part:
    """Items in the order of their accounts, each with its position in the request's part."""

    def __init__(
        self,
        items: Mapping[int, Item],
        future: "asyncio.Future[None]",
        *,
        extent: Extent,
        key: Identity | None = None,
        identity: Identity | None = None,
        digest: bytes | None = None,
        not_found: Sequence[int] = (),
    ) -> None:
        """Take items by position, at least one; `future` is done when all are answered.

        `key` names the whole request, `identity` this part of it, and `digest` says what the whole
        request asks for; all three or none.
        `not_found` are the positions of items whose accounts there are not; they are remembered
        with what will be refused.
        """
        by_account: dict[str, list[int]] = {}
        for position, item in items.items():
            by_account.setdefault(item.account.account_id, []).append(position)
        self.positions = [position for group in by_account.values() for position in group]
        self.items = [items[position] for position in self.positions]
        self.extent = extent
        self.key = key
        self.identity = identity
        self.digest = digest
        self.not_found = not_found
        self.deadline = min(item.deadline for item in self.items)
        self.weight = len(self.items)
        self.look_up_first = False
        self.waits_for_account = False
        self.pause_s = PAUSE_S
        self.tellings = 0
        self.not_found_before: list[int] = []
        self.future = future
        names = [identity] if identity is not None else []
        names += [each for item in self.items for each in item.identities]
        self.identities = tuple(dict.fromkeys(names))
        if identity is not None:
            self.items[0].name = identity.text
        Tally(self.items, future)

    @property
    def accepted(self) -> Transaction | None:
        """No single transaction answers for a part."""
        return None

    def is_among(self, names: Collection[str]) -> bool:
        """Tell whether one of these names is the part's or an item's."""
        return any(identity.text in names for identity in self.identities)

    def fail(self, error: errors.LedgerError) -> None:
        """Answer every item that has no answer yet."""
        fail(self.items, error)

    def answer_from(self, _found: Mapping[Identity, Any]) -> bool:
        """Leave a repetition to be looked up."""
        return False

    def claim(self, refused: Mapping[Item, tuple[str, int]]) -> Claim:
        """Say what the journal is to remember, refusals included."""
        if self.identity is None or self.key is None:
            return Claim(self.extent)
        refusals: list[tuple[int, str, str | None]] = [
            (position, _NOT_FOUND, None) for position in self.not_found
        ]
        for position, item in zip(self.positions, self.items, strict=True):
            if item in refused:
                code, available = refused[item]
                refusals.append((position, code, str(available)))
        return Claim(
            self.extent,
            self.identity.scope,
            self.key.name,
            self.identity.name,
            self.digest,
            encode_json(refusals).decode(),
        )

    def answer_again(self, stored: StoredPart | None) -> None:
        """Answer a repetition from what is remembered of it, if it is the same request."""
        if stored is None or stored.digest != self.digest:
            self.fail(errors.IdempotencyKeyReused())
            return
        # Items are numbered as they were when this part was journaled: those that Redis refused
        # had no number, those that PostgreSQL refused kept theirs.
        batch = JournaledBatch(stored.attempt_id, stored.mode, stored.batch_seq, stored.accepted_at)
        self.not_found_before = [
            position for position, (code, _) in stored.refusals.items() if code == _NOT_FOUND
        ]
        item_no = 0
        for position, item in zip(self.positions, self.items, strict=True):
            code, available = stored.refusals.get(position, ("", None))
            if code == _NOT_FOUND:
                item.fail(errors.AccountNotFound(pointer="/account_id"))
                continue
            if code:
                item.fail(stored_refusal(item, code, available))
                item_no += stored.mode is Mode.POSTGRES
                continue
            item.accept(batch.transaction(item, item_no), replayed=True)
            item_no += 1


async def answer_part_again(store: LedgerStore, part: Part) -> bool:
    """Answer a part that was accepted before, or whose names were used for something else; False
    when neither is so.
    """
    if part.key is not None and part.identity is not None:
        stored = await store.requests_by_identity([part.key, part.identity])
        if part.identity in stored:
            part.answer_again(stored[part.identity])
            return True
        request = stored.get(part.key)
        if part.key in stored and (request is None or request.digest != part.digest):
            part.fail(errors.IdempotencyKeyReused())
            return True
        return False
    if not await answer_known(store, part.items):
        return False
    part.fail(errors.OthersRefused())
    return True
