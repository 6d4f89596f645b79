"""Bulk requests: many transactions, each on its own or all of them or none.

Items on their own join the micro-batches of single requests. An atomic request, and each part of
one that has a single key, is decided in a batch of its own.
"""

import asyncio
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from uuid import UUID

import msgspec

from app import errors, limits
from app.ledger.answers import JournaledBatch
from app.ledger.batcher import Batcher
from app.ledger.codes import Extent, Mode
from app.ledger.dry_run import DryRun
from app.ledger.item import Item, Tally
from app.ledger.model import Acceptance, Account, Identity, TransactionRequest
from app.ledger.part import Part
from app.ledger.store import encode_json

Asked = Sequence[TransactionRequest | errors.LedgerError]
Answered = list[Acceptance | errors.LedgerError]


class ForeseenItem(msgspec.Struct, frozen=True):
    """One of many transactions that would be accepted, or the one that was accepted before."""

    is_replayed: bool
    transaction_id: UUID | None = None


class ForeseenBulk(msgspec.Struct, frozen=True):
    """What would become of each transaction, in order, and what accounts could spend afterwards,
    in minor units.
    """

    answers: list[ForeseenItem | errors.LedgerError]
    available_minor: dict[Account, int]


class BulkRequest:
    """One bulk request on its way; positions count its transactions from 0."""

    def __init__(self, asked: Asked, idempotency_key: str | None, *, atomic: bool) -> None:
        """Take checked transactions, or what is wrong with one, in order."""
        self._asked = asked
        self._key = idempotency_key
        self._atomic = atomic
        self._answers: dict[int, errors.LedgerError] = {
            position: request
            for position, request in enumerate(asked)
            if isinstance(request, errors.LedgerError)
        }
        self._items: dict[int, Item] = {}
        self._not_found: set[int] = set()
        self._digest = _digest(atomic, asked) if idempotency_key is not None else b""
        if atomic and idempotency_key is None:
            self._require_names()
        if atomic:
            self._refuse_repeated_names()

    @property
    def account_ids(self) -> set[str]:
        """The accounts that are asked for."""
        return {each.account_id for each in self._asked if isinstance(each, TransactionRequest)}

    def _require_names(self) -> None:
        """Without a key of its own an atomic request is known again by its items, so all have a
        name or none has.
        """
        asked = [each for each in self._asked if isinstance(each, TransactionRequest)]
        if not any(request.identities for request in asked):
            return
        for position, request in enumerate(self._asked):
            if isinstance(request, TransactionRequest) and not request.identities:
                self._answers[position] = errors.IdempotencyKeyRequired(pointer="/idempotency_key")

    def _refuse_repeated_names(self) -> None:
        """One name can move money once, so an atomic request cannot use it twice."""
        names: set[Identity] = set()
        for position, request in enumerate(self._asked):
            if not isinstance(request, TransactionRequest):
                continue
            if not names.isdisjoint(request.identities):
                repeated = request.idempotency_key is None or request.identities[0] not in names
                self._answers[position] = errors.InvalidValue(
                    "An atomic request uses a key or id once.",
                    pointer="/id" if repeated else "/idempotency_key",
                )
            names.update(request.identities)

    def make_items(self, accounts: Mapping[str, Account], deadline: float, postgres: str) -> None:
        """Turn what is asked into items, as far as it can be done; see `Item`."""
        create_future = asyncio.get_running_loop().create_future
        for position, request in enumerate(self._asked):
            if position in self._answers or not isinstance(request, TransactionRequest):
                continue
            account = accounts.get(request.account_id)
            if account is None:
                self._answers[position] = errors.AccountNotFound(pointer="/account_id")
                self._not_found.add(position)
                continue
            try:
                item = Item(request, account, deadline, create_future(), postgres)
            except errors.Rejected as error:
                self._answers[position] = error
            else:
                self._items[position] = item

    async def answer(self, batcher: Batcher[Item]) -> Answered:
        """Have everything decided; raises what refuses the request as a whole."""
        if self._may_be_decided:
            await self._decide(batcher)
        answers = [self._answer_of(position) for position in range(len(self._asked))]
        return [errors.OthersRefused() if each is None else each for each in answers]

    async def foresee(self, dry_run: DryRun) -> ForeseenBulk:
        """Say what would become of everything now, as `answer` would."""
        available: dict[Account, int] = {}
        repeats: set[Item] = set()
        if self._may_be_decided:
            parts = self._parts()
            if parts:
                available = await dry_run.foresee_each(
                    list(self._items.values()), list(parts.values())
                )
                self._note_not_found(parts)
            else:
                available, repeats = await _foresee_singles(dry_run, list(self._items.values()))
        answers = [self._answer_of(position) for position in range(len(self._asked))]
        is_refused = self._atomic and any(isinstance(each, errors.LedgerError) for each in answers)
        foreseen: list[ForeseenItem | errors.LedgerError] = []
        for position, answer in enumerate(answers):
            if isinstance(answer, errors.LedgerError):
                foreseen.append(answer)
            elif isinstance(answer, Acceptance):
                foreseen.append(ForeseenItem(True, answer.transaction.transaction_id))
            elif is_refused:
                foreseen.append(errors.OthersRefused())
            else:
                foreseen.append(ForeseenItem(self._items[position] in repeats))
        return ForeseenBulk(foreseen, available)

    @property
    def _may_be_decided(self) -> bool:
        return bool(self._items) and not (self._atomic and self._answers)

    def _answer_of(self, position: int) -> Acceptance | errors.LedgerError | None:
        """The answer to one transaction; None where it has none."""
        if position in self._answers:
            return self._answers[position]
        future = self._items[position].future
        if not future.done():
            return None
        error = future.exception()
        return future.result() if error is None else _known(error)

    async def _decide(self, batcher: Batcher[Item]) -> None:
        parts = self._parts()
        if parts:
            batcher.begin_all(list(parts.values()))
            for part in parts.values():
                await part.future
            self._note_not_found(parts)
            return
        items = list(self._items.values())
        tally = Tally(items, asyncio.get_running_loop().create_future())
        batcher.begin_all(items)
        await tally.future

    def _parts(self) -> dict[int, Part]:
        """What the items go in by the position it begins at; none where each goes on its own."""
        if not self._atomic and self._key is None:
            return {}
        create_future = asyncio.get_running_loop().create_future
        size = len(self._asked) if self._atomic else limits.PART_ITEMS
        return {
            first: self._part(first, size, create_future())
            for first in range(0, len(self._asked), size)
            if any(position in self._items for position in range(first, first + size))
        }

    def _note_not_found(self, parts: Mapping[int, Part]) -> None:
        for first, part in parts.items():
            for position in part.not_found_before:
                self._answers[first + position] = errors.AccountNotFound(pointer="/account_id")

    def _part(self, first: int, size: int, future: "asyncio.Future[None]") -> Part:
        """Make the part that begins at a position; its own positions count from 0 again."""
        positions = range(first, min(first + size, len(self._asked)))
        extent = Extent.ALL if self._atomic else Extent.EACH
        key = identity = None
        if self._key is not None:
            key, identity = Identity.of_key(self._key), Identity.of_part(self._key, first // size)
        return Part(
            {each - first: self._items[each] for each in positions if each in self._items},
            future,
            extent=extent,
            key=key,
            identity=identity,
            digest=self._digest if key is not None else None,
            not_found=[each - first for each in positions if each in self._not_found],
        )


async def _foresee_singles(
    dry_run: DryRun, items: Sequence[Item]
) -> tuple[dict[Account, int], set[Item]]:
    """Foresee items that go each on its own; returns what accounts would have, and which items
    would repeat one that would be accepted.

    Nobody remembers a refused one, so what repeats it is decided after the others.
    """
    available: dict[Account, int] = {}
    accepted: list[Item] = []
    repeating: set[Item] = set()
    waiting, first_of = list(items), dict[Item, Item]()
    for _ in range(limits.DRY_RUN_ROUNDS):
        first_of = _firsts([*accepted, *waiting])
        decided = [*accepted, *(item for item in waiting if item not in first_of)]
        available = await dry_run.foresee_each(decided, [])
        accepted = [item for item in decided if not item.future.done()]
        waits: dict[Item, None] = {}
        for item, first in first_of.items():
            if first in waits or _refused(first) is not None:
                waits[item] = None
            elif _repeats(item, first):
                repeating.add(item)
        waiting = list(waits)
        if not waiting:
            break
    for item in waiting:
        item.fail(_refused(first_of[item]) or errors.IdempotencyKeyReused())
    return available, repeating


def _firsts(items: Iterable[Item]) -> dict[Item, Item]:
    """Items that use a name of an earlier one, with that one."""
    named: dict[Identity, Item] = {}
    first_of: dict[Item, Item] = {}
    for item in items:
        found = [named[each] for each in item.identities if each in named]
        if found:
            first_of[item] = found[0]
        for each in item.identities:
            named.setdefault(each, item)
    return first_of


def _refused(item: Item) -> errors.LedgerError | None:
    error = item.future.exception() if item.future.done() else None
    return error if isinstance(error, errors.LedgerError) else None


def _repeats(item: Item, first: Item) -> bool:
    """Tell whether an item would repeat the one with a name of its; answer it if not."""
    if first.accepted is not None:
        item.answer_from(dict.fromkeys(first.identities, first.accepted))
    elif not set(item.identities) <= set(first.identities):
        item.fail(errors.IdempotencyIdentityConflict())
    else:
        done = JournaledBatch(0, Mode.POSTGRES, 0, datetime.now(UTC)).transaction(first, 0)
        if not item.is_repetition_of(done):
            item.fail(errors.IdempotencyKeyReused())
    return not item.future.done()


def _digest(atomic: bool, asked: Asked) -> bytes:
    """Summarise everything a client says, so that another request under the same key is noticed."""
    said = [
        (
            request.account_id,
            request.direction,
            request.amount.whole,
            request.amount.fraction.rstrip("0"),
            request.reference,
            sorted(request.metadata.items()) if request.metadata else (),
            *_said_since(request),
        )
        if isinstance(request, TransactionRequest)
        else (request.code, request.pointer)
        for request in asked
    ]
    return hashlib.sha256(encode_json([atomic, said])).digest()


def _said_since(request: TransactionRequest) -> list[object]:
    """What a client may say since version 6, and then only: digests of before stay as they are."""
    expect, effective_at = request.expect, request.effective_at
    if expect is None and effective_at is None:
        return []
    least = None if expect is None else expect.available_at_least
    return [
        None if expect is None else expect.version,
        None if least is None else (least.whole, least.fraction.rstrip("0")),
        expect is not None and expect.is_negative,
        None if effective_at is None else effective_at.astimezone(UTC),
    ]


def _known(error: BaseException) -> errors.LedgerError:
    return error if isinstance(error, errors.LedgerError) else errors.InternalError()
