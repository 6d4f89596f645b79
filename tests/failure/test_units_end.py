"""What was decided about transfers and holds leaves nothing for the collector, which would stand
still over it.
"""

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import pytest

from app.bootstrap import Services
from app.ledger.codes import Mode
from app.ledger.unit import Leg
from tests.conftest import OpenAccount
from tests.failure.modes import MODES, rule_by
from tests.failure.test_hold_faults import capture, place
from tests.failure.transfers import balances, send

GROUP = (("A", "B", "1"), ("B", "A", "2"))


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
    assert not [each for each in gc.get_objects() if isinstance(each, Leg)]


async def test_a_unit_without_its_items_cannot_be_carried_again(
    services: Services, open_account: OpenAccount
) -> None:
    """As an empty one it would be accepted with nothing done."""
    await open_account("A", "100.00")
    await open_account("B")
    carrier: Any = services.ledger._groups._carry
    begun: list[Any] = []

    async def watched(slot: Any, units: list[Any]) -> list[Any]:
        begun.extend(units)
        return await carrier(slot, units)  # type: ignore[no-any-return]

    services.ledger._groups._carry = watched
    await send(services, ("A", "B", "1"))
    with pytest.raises(AttributeError):
        await carrier(services.ledger._groups._slots[0], begun)
    assert await balances(services, "A", "B") == [9_900, 100]
