"""Putting batches together: items, the scripts' arguments, the journal's columns, the queue."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NoReturn, cast

from app.infra.resilience import Breaker
from app.kit.ids import AttemptNumbers
from app.ledger.admission import Admission, Attempt, Slot
from app.ledger.batcher import Batcher
from app.ledger.codes import Mode
from app.ledger.item import Item
from app.ledger.journal import Journal
from app.ledger.mode import Ruling
from bench.speed.conftest import per_item

RULING = Ruling(1, Mode.REDIS, token="token")
# Ending a call as it is sent counts as a failure.
_FAILURES_MAX = 10**9
MakeItems = Callable[[int], list[Item]]


class _Sent(BaseException):
    """Ends a call where it would leave the process; no handler of errors takes it for one."""


class _Server:
    """Takes the place of the scripts and of a pool of connections."""

    async def call(self, *_: Any) -> NoReturn:
        raise _Sent

    async def acquire(self, **_: Any) -> "_Server":
        return self

    async def release(self, *_: Any, **__: Any) -> None:
        pass

    async def fetchrow(self, *_: Any) -> NoReturn:
        raise _Sent


def until_sent(call: Coroutine[Any, Any, Any]) -> bool:
    """Run a call that waits for nothing up to where it would be sent."""
    try:
        call.send(None)
    except _Sent:
        return True
    raise ValueError("the call waits for something else")


def test_make_items(benchmark: Any, size: int, make_items: MakeItems) -> None:
    """Make the items of a batch."""
    per_item(benchmark, size)
    assert len(benchmark(make_items, size)) == size


def test_put_an_admission_together(benchmark: Any, size: int, make_items: MakeItems) -> None:
    """Group items and write the arguments of the script."""
    admission = Admission(cast("Any", _Server()), Breaker(_FAILURES_MAX, 1.0))
    items, slot, attempts = make_items(size), Slot("1.0"), AttemptNumbers(1)
    per_item(benchmark, size)
    assert benchmark(lambda: until_sent(admission.admit(RULING, slot, Attempt(attempts), items)))


def test_put_a_journal_call_together(
    benchmark: Any, size: int, make_items: MakeItems, loop: asyncio.AbstractEventLoop
) -> None:
    """Turn items into the journal's columns."""
    journal = Journal(cast("Any", _Server()), 1_000)
    items = make_items(size)

    async def write() -> bool:
        return until_sent(journal.write(RULING, 1, items, deadline=0.0))

    per_item(benchmark, size)
    assert benchmark(lambda: loop.run_until_complete(write()))


def test_queue_and_take_a_batch(
    benchmark: Any, size: int, make_items: MakeItems, loop: asyncio.AbstractEventLoop
) -> None:
    """Queue, take and answer a batch, with the start and end of a batcher."""
    taken: list[int] = []

    async def carry(_slot: Slot, items: Sequence[Item]) -> list[Item]:
        taken.append(len(items))
        for item in items:
            item.future.set_result(cast("Any", None))
        return []

    async def go(items: list[Item]) -> None:
        batcher = Batcher(carry, cast("Any", None), cast("Any", None), ["1.0"], 1_000, 16_384)
        batcher.start()
        batcher.begin_all(items)
        await items[-1].future
        await batcher.stop()

    per_item(benchmark, size)
    benchmark.pedantic(
        lambda items: loop.run_until_complete(go(items)),
        setup=lambda: ((make_items(size),), {}),
        rounds=30,
    )
    assert taken == [size] * len(taken)
