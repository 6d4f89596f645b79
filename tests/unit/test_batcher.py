"""When what waits goes: at once alone, with others while a batch is in flight, never after long;
and how much of it: as many items as a batch and the queue may have, whatever they belong to.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from app import errors
from app.kit.money import parse_amount
from app.ledger import batcher as batcher_module
from app.ledger.admission import Slot
from app.ledger.batcher import Batcher
from app.ledger.codes import Direction, Extent
from app.ledger.group import Group
from app.ledger.item import Item
from app.ledger.model import Account, TransactionRequest
from app.ledger.part import Part
from tests.conftest import eventually
from tests.failure.transfers import transfer

FEW = batcher_module._BESIDE_ITEMS - 1


class Carrier:
    """Keeps every batch in flight until it is let go."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.may_end = asyncio.Event()

    async def carry(self, _slot: Slot, items: list[Item]) -> list[Item]:
        self.sizes.append(len(items))
        await self.may_end.wait()
        for item in items:
            item.accept(cast("Any", None), replayed=False)
        return []

    async def carry_part(self, _slot: Slot, part: Part) -> bool:
        self.sizes.append(len(part.items))
        await self.may_end.wait()
        for item in part.items:
            item.accept(cast("Any", None), replayed=False)
        return True


def part() -> Part:
    future = asyncio.get_running_loop().create_future()
    return Part(dict(enumerate(items(2))), future, extent=Extent.ALL)


def items(count: int) -> list[Item]:
    loop = asyncio.get_running_loop()
    account = Account(1, "A", "USD", 2)
    request = TransactionRequest(
        account_id="A", amount=parse_amount("1"), direction=Direction.DEBIT
    )
    deadline = loop.time() + 60
    return [Item(request, account, deadline, loop.create_future(), "") for _ in range(count)]


@pytest.fixture
def carrier() -> Carrier:
    return Carrier()


@pytest.fixture
async def batcher(carrier: Carrier) -> AsyncIterator[Batcher]:
    async def nothing_left(_slot: Slot) -> None:
        pass

    slots = ["1.0", "1.1", "1.2"]
    made = Batcher(carrier.carry, carrier.carry_part, nothing_left, slots, 1_000, 4_096)
    made.start()
    await asyncio.sleep(0)
    yield made
    carrier.may_end.set()
    await made.stop()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No batch in flight counts as slow, and nobody looks after what waits."""
    monkeypatch.setattr(batcher_module, "_BESIDE_S", 60)
    monkeypatch.setattr(batcher_module, "_SWEEP_S", 60)


@pytest.mark.usefixtures("patient")
async def test_a_few_wait_for_the_batch_in_flight(batcher: Batcher, carrier: Carrier) -> None:
    batcher.begin(items(1)[0])
    await eventually(lambda: carrier.sizes == [1])
    waiting = [batcher.begin(item) for item in items(FEW)]
    await asyncio.sleep(0.05)
    assert carrier.sizes == [1]
    carrier.may_end.set()
    await asyncio.gather(*waiting)
    assert carrier.sizes == [1, FEW]


@pytest.mark.usefixtures("patient")
async def test_many_go_beside_the_batch_in_flight(batcher: Batcher, carrier: Carrier) -> None:
    batcher.begin(items(1)[0])
    await eventually(lambda: carrier.sizes == [1])
    for item in items(FEW + 1):
        batcher.begin(item)
    await eventually(lambda: carrier.sizes == [1, FEW + 1])


@pytest.mark.usefixtures("patient")
async def test_a_part_waits_for_no_batch_and_none_for_it(
    batcher: Batcher, carrier: Carrier
) -> None:
    """It goes alone, whatever else is there."""
    batcher.begin(items(1)[0])
    await eventually(lambda: carrier.sizes == [1])
    batcher.begin_all([part()])
    await eventually(lambda: carrier.sizes == [1, 2])


@pytest.mark.usefixtures("patient")
async def test_a_few_do_not_wait_for_a_part(batcher: Batcher, carrier: Carrier) -> None:
    batcher.begin_all([part()])
    await eventually(lambda: carrier.sizes == [2])
    batcher.begin(items(1)[0])
    await eventually(lambda: carrier.sizes == [2, 1])


async def test_a_few_do_not_wait_for_a_batch_that_is_slow(
    batcher: Batcher, carrier: Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batcher_module, "_SWEEP_S", 60)
    batcher.begin(items(1)[0])
    await eventually(lambda: carrier.sizes == [1])
    await asyncio.sleep(2 * batcher_module._BESIDE_S)
    batcher.begin(items(1)[0])
    await eventually(lambda: carrier.sizes == [1, 1])


async def test_what_came_just_after_a_batch_that_turns_out_slow_goes_soon(
    batcher: Batcher, carrier: Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batcher_module, "_BESIDE_S", 60)
    batcher.begin(items(1)[0])
    await eventually(lambda: carrier.sizes == [1])
    batcher.begin(items(1)[0])
    await eventually(lambda: carrier.sizes == [1, 1])


BATCH_ITEMS, QUEUE_ITEMS = 8, 20


class UnitCarrier:
    """Keeps every batch of groups in flight until it is let go."""

    def __init__(self) -> None:
        self.weights: list[list[int]] = []
        self.may_end = asyncio.Event()

    async def carry(self, _slot: Slot, groups: list[Group]) -> list[Group]:
        self.weights.append([group.weight for group in groups])
        await self.may_end.wait()
        for group in groups:
            group.future.set_result(None)
        return []


def group(transfers: int) -> Group:
    """A group of so many transfers, which are twice as many items."""
    accounts = {name: Account(number, name, "USD", 2) for number, name in enumerate("AB")}
    deadline = asyncio.get_running_loop().time() + 60
    return Group([transfer("A", "B", "1")] * transfers, None, accounts, deadline, "")


@pytest.fixture
def units() -> UnitCarrier:
    return UnitCarrier()


@pytest.fixture
async def groups(units: UnitCarrier) -> AsyncIterator[Batcher[Group]]:
    """A queue with one slot, so that what comes behind a batch waits for it."""

    async def nothing_left(_slot: Slot) -> None:
        pass

    made: Batcher[Group] = Batcher(
        units.carry, None, nothing_left, ["1.0"], BATCH_ITEMS, QUEUE_ITEMS
    )
    made.start()
    await asyncio.sleep(0)
    yield made
    units.may_end.set()
    await made.stop()


@pytest.mark.parametrize(
    ("transfers", "batches"),
    [
        ([1, 1, 1, 1], [[2, 2, 2, 2]]),
        ([2, 2, 1], [[4, 4], [2]]),
        ([3, 2, 1], [[6], [4, 2]]),
        ([1, 5, 1], [[2], [10], [2]]),
        ([5, 5], [[10], [10]]),
    ],
    ids=str,
)
async def test_a_batch_has_so_many_items_and_a_group_that_is_larger_goes_alone(
    groups: Batcher[Group], units: UnitCarrier, transfers: list[int], batches: list[list[int]]
) -> None:
    """In the order they came: a small group does not overtake one for which there is no room."""
    first = groups.begin(group(1))
    await eventually(lambda: units.weights == [[2]])
    waiting = [groups.begin(group(count)) for count in transfers]
    assert groups.waiting_count == 2 * sum(transfers)
    units.may_end.set()
    await asyncio.gather(first, *waiting)
    assert units.weights[1:] == batches
    assert groups.waiting_count == 0


async def test_the_queue_is_full_by_items_and_not_by_groups(
    groups: Batcher[Group], units: UnitCarrier
) -> None:
    groups.begin(group(1))
    await eventually(lambda: units.weights == [[2]])
    groups.begin(group(9))
    with pytest.raises(errors.Overloaded):
        groups.begin(group(2))
    groups.begin(group(1))
    with pytest.raises(errors.Overloaded):
        groups.begin(group(1))


async def test_a_group_for_which_there_will_never_be_room_is_refused_for_good(
    groups: Batcher[Group], units: UnitCarrier
) -> None:
    """One that fills the whole queue is taken; there is no use in sending a larger one again."""
    with pytest.raises(errors.BodyTooLarge):
        groups.begin(group(QUEUE_ITEMS // 2 + 1))
    assert groups.waiting_count == 0
    groups.begin(group(QUEUE_ITEMS // 2))
    await eventually(lambda: units.weights == [[QUEUE_ITEMS]])
