"""Gathers requests into micro-batches: what has arrived while the previous batch was busy.

There is no timer, so a lonely request leaves at once. The queue, the slots and the time a request
may wait are bounded. Requests of one identity go one after the other.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

from app import errors
from app.ledger.admission import Slot
from app.ledger.item import Item
from app.ledger.model import Identity
from app.ledger.part import Part
from app.ledger.unit import Unit

_log = logging.getLogger(__name__)
# Bulk requests leave the rest of the queue, in hundredths, to single ones.
_BULK_SHARE = 75
# A batch begins beside another for so many items, or when the newest began so long ago.
_BESIDE_ITEMS = 32
_BESIDE_S = 0.005
_SWEEP_S = 0.1
_POSTPONE_LONGEST_S = 0.16
_STOP_POLL_S = 0.02
_STOP_S = 6.0
_CANCELS_MAX = 3
_CANCEL_WAIT_S = 0.5
# What is gathered: single items, or groups of them.
G = TypeVar("G", Item, Unit)
CarryPart = Callable[[Slot, Part], Awaitable[bool]]
Finish = Callable[[Slot], Awaitable[None]]


async def _no_parts(_slot: Slot, _part: Part) -> bool:
    raise errors.InvariantViolation("there are no parts among what is gathered here")


class Batcher(Generic[G]):
    """A bounded queue in front of a few slots."""

    def __init__(
        self,
        carry: Callable[[Slot, list[G]], Awaitable[list[G]]],
        carry_part: CarryPart | None,
        finish: Finish,
        slot_names: list[str],
        batch_items: int,
        queue_items: int,
    ) -> None:
        """Hand batches of at most `batch_items`, or of one group, to `carry`, and parts of requests
        as they are to `carry_part`, one at a time for each slot; `finish` does what a slot has left
        for its next batch, when there is none for a while.
        """
        self._carry: Callable[[Slot, list[G]], Awaitable[list[G]]] = carry
        self._carry_part: CarryPart = carry_part or _no_parts
        self._finish = finish
        self._slots = [Slot(name) for name in slot_names]
        self._batch_items = batch_items
        self._queue_items = queue_items
        self._queue: deque[G | Part] = deque()
        self._queued_items = 0
        self._held_count = 0
        self._claims: dict[Identity, deque[G | Part]] = {}
        self._idle: list[tuple[Slot, asyncio.Future[bool]]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._busy_count = 0
        self._gathered_count = 0
        self._begun_at = 0.0
        self._stopping = False

    @property
    def waiting_count(self) -> int:
        """Items that are not in a batch yet."""
        return self._queued_items + self._held_count

    @property
    def _has_work(self) -> bool:
        slots = zip(self._slots, self._tasks, strict=False)
        is_left = any(slot.journaled and not task.done() for slot, task in slots)
        return bool(self.waiting_count or self._busy_count or is_left)

    @property
    def is_running(self) -> bool:
        """Tell whether every slot is there to take batches."""
        return not self._stopping and all(not task.done() for task in self._tasks)

    def start(self) -> None:
        """Start the slots."""
        self._tasks = [asyncio.create_task(self._run(slot)) for slot in self._slots]
        self._tasks.append(asyncio.create_task(self._sweep()))

    async def stop(self) -> None:
        """Refuse new requests, answer those that wait, and end; bounded."""
        self._stopping = True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _STOP_S
        while self._has_work and loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(_STOP_POLL_S)
        pending = set(self._tasks)
        for _ in range(_CANCELS_MAX):
            for task in pending:
                task.cancel()
            if pending:
                _, pending = await asyncio.wait(pending, timeout=_CANCEL_WAIT_S)
        held: list[G | Part] = [each for waiters in self._claims.values() for each in waiters]
        for item in [*self._queue, *held]:
            item.fail(errors.Stopping())

    def begin(self, item: G) -> "asyncio.Future[Any]":
        """Queue a request; the future has its answer, or raises what it was refused with.

        Raises at once when there is no room or nobody to decide. A caller that goes away takes
        nothing back: the decision goes on without it.
        """
        if item.weight > self._queue_items:
            raise errors.BodyTooLarge(f"At most {self._queue_items} items can be taken at once.")
        self._require_room(item.weight)
        self._enqueue(item)
        return item.future

    def begin_all(self, waiters: Sequence[G | Part]) -> None:
        """Queue what a request is made of, all of it or nothing; see `begin`.

        Raises `BodyTooLarge` where it never fits.
        """
        count = sum(waiter.weight for waiter in waiters)
        room = self._queue_items * _BULK_SHARE // 100
        if count > room:
            raise errors.BodyTooLarge(f"At most {room} transactions can be taken at once.")
        self._require_room(count + self._queue_items - room)
        for waiter in waiters:
            self._enqueue(waiter)

    def _require_room(self, count: int) -> None:
        if self._stopping:
            raise errors.Stopping
        owed = [slot.owes for slot in self._slots]
        if owed[0] is not None and all(owed):
            raise type(owed[0])(owed[0].detail)
        if self.waiting_count + count > self._queue_items:
            raise errors.Overloaded

    def _enqueue(self, item: G | Part) -> None:
        """Queue a request, or hold it behind the one that has its identity."""
        for identity in item.identities:
            holders = self._claims.get(identity)
            if holders is not None:
                holders.append(item)
                self._held_count += item.weight
                return
        for identity in item.identities:
            self._claims[identity] = deque()
        self._append(item)

    def _append(self, item: G | Part) -> None:
        self._queue.append(item)
        self._queued_items += item.weight
        if self._is_worth_a_batch:
            self._wake_one()

    @property
    def _is_worth_a_batch(self) -> bool:
        """Tell whether what waits is to go at once: a batch costs the same for one item as for ten,
        so a few of them wait for the one in flight, unless that one is slow. A part goes alone, so
        it waits for nothing, and nothing for it.
        """
        if not self._gathered_count or self._queued_items >= _BESIDE_ITEMS:
            return True
        if isinstance(self._queue[0], Part):
            return True
        return asyncio.get_running_loop().time() - self._begun_at > _BESIDE_S

    def _wake_one(self) -> None:
        """Wake the slot that rested last: what it has left goes along with its next batch."""
        while self._idle:
            _, idle = self._idle.pop()
            if not idle.done():
                idle.set_result(False)
                return

    async def _run(self, slot: Slot) -> None:
        while True:
            is_to_finish = False
            if not self._queue:
                idle = asyncio.get_running_loop().create_future()
                self._idle.append((slot, idle))
                is_to_finish = await idle
            batch = self._take()
            is_gathered = isinstance(batch, list) and bool(batch)
            self._busy_count += 1
            self._gathered_count += is_gathered
            if is_gathered:
                self._begun_at = asyncio.get_running_loop().time()
            if batch and self._queue and self._is_worth_a_batch:
                self._wake_one()
            try:
                if batch:
                    await self._carry_out(slot, batch)
                elif is_to_finish:
                    await self._finish(slot)
            finally:
                self._busy_count -= 1
                self._gathered_count -= is_gathered
                del batch  # a slot that rests keeps nothing

    def _take(self) -> list[G] | Part:
        """Take what has arrived; requests nobody waits for and late ones stay behind."""
        batch: list[G] = []
        now = asyncio.get_running_loop().time()
        queue, left = self._queue, self._batch_items
        while queue and left:
            item = queue[0]
            if batch and (item.weight > left or isinstance(item, Part)):
                break
            queue.popleft()
            self._queued_items -= item.weight
            if item.future.done() or item.deadline <= now:
                self._expire(item)
            elif isinstance(item, Part):
                return item
            else:
                batch.append(item)
                left = max(0, left - item.weight)
        return batch

    async def _carry_out(self, slot: Slot, batch: list[G] | Part) -> None:
        waiting: Sequence[G | Part] = ()
        members: Sequence[G | Part] = [batch] if isinstance(batch, Part) else batch
        try:
            if isinstance(batch, Part):
                waiting = [] if await self._carry_part(slot, batch) else [batch]
            else:
                waiting = await self._carry(slot, batch)
        except asyncio.CancelledError:
            for item in members:
                item.fail(errors.JournalOutcomeUnknown())
            raise
        except Exception:
            _log.exception("a batch failed")
        undecided = set(waiting)
        for item in members:
            if item not in undecided:
                if not item.future.done():
                    item.fail(errors.InternalError())
                self._let_go(item)
        for item in waiting:
            self._held_count += item.weight
            asyncio.get_running_loop().call_later(item.pause_s, self._again, item)
            item.pause_s = min(2 * item.pause_s, _POSTPONE_LONGEST_S)

    def _again(self, item: G | Part) -> None:
        """Queue an item once more that another process is deciding, or whose account is being
        changed; it keeps its claims.
        """
        self._held_count -= item.weight
        if self._stopping or item.deadline <= asyncio.get_running_loop().time():
            item.fail(errors.RequestInFlight() if item.look_up_first else errors.AccountBusy())
            self._let_go(item)
        else:
            self._append(item)

    def _expire(self, item: G | Part) -> None:
        item.fail(errors.DeadlinePassed())
        self._let_go(item)

    def _let_go(self, item: G | Part) -> None:
        """Give up an item's claims; those held behind it get its answer or their turn."""
        held: list[G | Part] = []
        for identity in item.identities:
            held.extend(self._claims.pop(identity, ()))
        if not held:
            return
        self._held_count -= sum(waiter.weight for waiter in held)
        accepted = item.accepted
        found = {} if accepted is None else dict.fromkeys(item.identities, accepted)
        for waiter in held:
            # One that has other names besides may be known by those.
            is_known = all(identity in found for identity in waiter.identities)
            if not (is_known and waiter.answer_from(found)):
                waiter.look_up_first = True
                self._enqueue(waiter)

    async def _sweep(self) -> None:
        """Answer requests whose deadline passes while every slot is busy, and let resting slots
        finish.
        """
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = asyncio.get_running_loop().time()
            while self._queue and self._queue[0].deadline <= now:
                late = self._queue.popleft()
                self._queued_items -= late.weight
                self._expire(late)
            if self._held_count:
                self._expire_held(now)
            if self._queue:
                self._wake_one()
            self._let_finish()

    def _let_finish(self) -> None:
        """Wake resting slots that have something left to do."""
        resting = self._idle
        self._idle = [each for each in resting if not each[0].journaled]
        for slot, idle in resting:
            if slot.journaled and not idle.done():
                idle.set_result(True)

    def _expire_held(self, now: float) -> None:
        """Answer those whose deadline passes behind a request that is still being decided."""
        for waiters in self._claims.values():
            while waiters and waiters[0].deadline <= now:
                late = waiters.popleft()
                late.fail(errors.RequestInFlight())
                self._held_count -= late.weight
