"""Who decides, Redis or PostgreSQL: what an instance takes it to be, and how a test changes it."""

from typing import Any

import pytest

from app.bootstrap import Services, WorkerServices
from app.ledger.codes import Mode
from app.ledger.model import Acceptance
from tests.conftest import eventually
from tests.failure.conftest import pipeline_of
from tests.integration.test_controls import CONTROL

MODES = pytest.mark.parametrize("mode", [Mode.REDIS, Mode.POSTGRES])


def mode_of(services: Services) -> Mode:
    return pipeline_of(services)._mode.current.mode


def accepted_in(results: list[Any]) -> set[str]:
    """The modes in which requests were accepted, all of them."""
    assert all(isinstance(result, Acceptance) for result in results), results
    return {result.transaction.mode.value for result in results}


async def recover(worker: WorkerServices, services: Services) -> None:
    """Probe until Redis decides again and the instance has learnt it."""

    async def is_back() -> bool:
        await worker.recovery.step()
        return mode_of(services) is Mode.REDIS

    await eventually(is_back)


async def fall_back(services: Services) -> None:
    """Let an instance take the decision away from Redis, as one does whose breaker opens."""
    keeper = pipeline_of(services)._mode
    keeper._breaker._breaker.open()
    assert await keeper.fall_back(keeper.epoch)


async def rule_by(services: Services, database: Any, mode: Mode) -> None:
    """Let somebody decide, and the instance know."""
    keeper = pipeline_of(services)._mode
    if mode is Mode.POSTGRES and keeper.current.mode is Mode.REDIS:
        await database.execute(CONTROL, "force_postgres")
    elif mode is Mode.REDIS and keeper.current.mode is Mode.POSTGRES:
        await database.execute(CONTROL, "automatic")
        assert await keeper.open_redis(keeper.epoch, "for the test")
    await keeper.learn()
    assert keeper.current.mode is mode


async def lean_to(services: Services, database: Any, mode: Mode) -> None:
    """Let somebody decide, unless somebody else is changing that at the same time."""
    keeper = pipeline_of(services)._mode
    await database.execute(CONTROL, "force_postgres" if mode is Mode.POSTGRES else "automatic")
    await keeper.learn()
    if mode is Mode.REDIS and keeper.current.mode is Mode.POSTGRES:
        await keeper.open_redis(keeper.epoch, "for the test")
    await keeper.learn()
