"""The breaker opens after failures in a row, and a trial that tells nothing does not close it."""

import asyncio

import pytest

from app.infra.resilience import Breaker, BreakerOpen


def fail(breaker: Breaker) -> None:
    with pytest.raises((OSError, BreakerOpen)), breaker.guard():
        raise OSError


def test_it_opens_after_failures_in_a_row_and_asks_no_more() -> None:
    breaker = Breaker(3, 60)
    fail(breaker)
    fail(breaker)
    with breaker.guard():
        pass
    fail(breaker)
    fail(breaker)
    assert not breaker.is_open
    fail(breaker)
    assert (breaker.is_open, breaker.state) == (True, "open")
    with pytest.raises(BreakerOpen), breaker.guard():
        raise AssertionError("it was asked")


def test_the_failure_that_opens_it_is_the_one_that_is_raised() -> None:
    breaker = Breaker(1, 60)
    with pytest.raises(OSError, match="why"), breaker.guard():
        raise OSError("why")


def test_after_its_time_one_good_call_closes_it_and_a_bad_one_does_not() -> None:
    breaker = Breaker(1, 0)
    fail(breaker)
    fail(breaker)
    assert breaker.is_open
    with breaker.guard():
        pass
    assert not breaker.is_open


async def test_a_cancelled_trial_call_does_not_close_it() -> None:
    breaker = Breaker(1, 0)
    fail(breaker)

    async def trial() -> None:
        with breaker.guard():
            await asyncio.Event().wait()

    task = asyncio.create_task(trial())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert breaker.is_open


def test_disabled_it_lets_every_call_through_and_one_failure_counts() -> None:
    breaker = Breaker(3, 60, enabled=False)
    fail(breaker)
    assert breaker.is_open
    with breaker.guard():
        pass
    assert not breaker.is_open


def test_it_can_be_closed_by_who_knows_better() -> None:
    breaker = Breaker(1, 60)
    fail(breaker)
    breaker.close()
    with breaker.guard():
        pass
