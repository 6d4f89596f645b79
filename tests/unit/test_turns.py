"""Turns are bounded, and so is the wait for one."""

import asyncio

import pytest

from app import errors
from app.kit.turns import Turns


async def test_who_waits_too_long_is_told_so_and_takes_no_turn() -> None:
    turns = Turns(2, 0.02, "Too many are waiting.")
    async with turns.turn():
        async with turns.turn():
            with pytest.raises(errors.Overloaded, match="Too many are waiting"):
                async with turns.turn():
                    pytest.fail("a third turn was taken")
        async with turns.turn():
            pass


async def test_a_turn_that_ends_badly_is_given_back() -> None:
    turns = Turns(1, 10, "")
    with pytest.raises(KeyError):
        async with turns.turn():
            raise KeyError
    waiting = asyncio.timeout(5)
    async with waiting, turns.turn():
        pass
