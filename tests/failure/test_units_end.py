"""What was decided about transfers and holds leaves nothing for the collector, which would stand
still over it.
"""

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import pytest

from app import errors
from app.bootstrap import Services
from app.ledger.codes import Mode
from app.ledger.group import Group
from app.ledger.unit import Leg
from tests.conftest import OpenAccount
from tests.failure.modes import MODES, rule_by
from tests.failure.test_hold_faults import capture, place
from tests.failure.transfers import balances, send, transfer

GROUP = (("A", "B", "1"), ("B", "A", "2"))


def items_left() -> list[Leg]:
    return [each for each in gc.get_objects() if isinstance(each, Leg)]


@pytest.fixture
def uncollected() -> Iterator[None]:
    """No collector for the length of a test."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@MODES
async def test_items_end_with_their_answer(
    services: Services, open_account: OpenAccount, database: Any, mode: Mode, uncollected: None
) -> None:
    await open_account("A", "100.00")
    await open_account("B", "100.00")
    await rule_by(services, database, mode)
    for number in range(3):
        for _ in range(2):  # the second time it is a repetition
            await send(services, *GROUP, key=f"k{number}")
        await capture(services, (await place(services, "1")).hold_id)
    await asyncio.gather(*(send(services, *GROUP) for _ in range(20)))
    assert await balances(services, "A", "B") == [12_000, 8_000]
    assert not items_left()


async def test_items_end_where_nobody_decided_about_them(
    services: Services, open_account: OpenAccount, uncollected: None
) -> None:
    """Refused at the door, past their deadline, foreseen, or repetitions that waited."""
    await open_account("A", "100.00")
    await open_account("B", "100.00")
    groups = services.ledger._groups
    groups._stopping = True
    for _ in range(3):
        with pytest.raises(errors.Stopping):
            await send(services, *GROUP)
    groups._stopping = False
    await services.ledger.foresee_transfers([transfer(*each) for each in GROUP], None)
    await asyncio.gather(*(send(services, *GROUP, key="twin") for _ in range(20)))
    services.ledger._deadline_s = -1.0
    with pytest.raises(errors.DeadlinePassed):
        await send(services, *GROUP)
    assert not items_left()


async def test_an_item_that_outlived_its_unit_says_so(
    services: Services, open_account: OpenAccount
) -> None:
    await open_account("A", "100.00")
    await open_account("B", "100.00")
    found = await services.ledger._accounts.find(["A", "B"])
    item = Group([transfer("A", "B", "1")], None, found, 0.0, "").legs[0]
    with pytest.raises(errors.InvariantViolation):
        item.together  # noqa: B018
