"""Interrupts an instance at a chosen step of its batches: it is held, sleeps, dies, or is void."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from app.bootstrap import Services, WorkerServices
from tests.conftest import eventually
from tests.failure.conftest import Behind, pipeline_of
from tests.failure.proxy import CONFIRM

LOST_KEY = "lost"
LOST_REPLIES = pytest.mark.parametrize(
    ("step", "times"),
    [(step, times) for step in ("admit", "journal", "confirm") for times in (1, 2)],
)


@asynccontextmanager
async def losing_replies(behind: Behind, step: str, times: int) -> AsyncIterator[None]:
    """Lose the replies to a step of what is sent meanwhile under the key `LOST_KEY`, each after it
    was executed; so many of them were lost in the end.
    """
    key = LOST_KEY.encode()
    marker = {"admit": b"0:key:" + key, "journal": b"key:" + key, "confirm": CONFIRM}[step]
    proxy = behind.postgres if step == "journal" else behind.redis
    proxy.lose_reply_to(marker, times)
    yield
    await eventually(lambda: proxy.lost_count == times)


@asynccontextmanager
async def held_before_its_journal(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[[], None]]:
    """Hold an instance between admit and journal; yields what lets it go on."""
    journal = pipeline_of(services)._journal
    write, going = journal.write, asyncio.Event()

    async def wait_and_write(*arguments: Any, **more: Any) -> Any:
        await going.wait()
        return await write(*arguments, **more)

    monkeypatch.setattr(journal, "write", wait_and_write)
    try:
        yield going.set
    finally:
        going.set()


def sleeps_before_it_tells(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], None]:
    """Let an instance sleep between journal and confirm; returns what wakes it."""
    admission, going = pipeline_of(services)._admission, asyncio.Event()
    confirm = admission.confirm

    async def wait_and_confirm(*arguments: Any) -> None:
        await going.wait()
        await confirm(*arguments)

    monkeypatch.setattr(admission, "confirm", wait_and_confirm)
    return going.set


def after_its_decision(
    services: Services, monkeypatch: pytest.MonkeyPatch, happens: Callable[[], Awaitable[None]]
) -> None:
    """Let something happen when Redis has decided an instance's next batch, before it goes on."""
    admission = pipeline_of(services)._admission
    admit = admission.admit

    async def admit_and_wait(*arguments: Any, **more: Any) -> Any:
        admittance = await admit(*arguments, **more)
        monkeypatch.setattr(admission, "admit", admit)
        await happens()
        return admittance

    monkeypatch.setattr(admission, "admit", admit_and_wait)


def void_before_its_journal(
    services: Services, worker: WorkerServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let an instance's next attempt meet its tombstone when it comes to the journal."""
    journal = pipeline_of(services)._journal
    write = journal.write

    async def void_first(ruling: Any, attempt_id: int, *arguments: Any, **more: Any) -> Any:
        monkeypatch.setattr(journal, "write", write)
        assert await worker.reaper._store.void_attempt(attempt_id)
        return await write(ruling, attempt_id, *arguments, **more)

    monkeypatch.setattr(journal, "write", void_first)


class Died(Exception):
    """Stands for a process that ends at this point."""


@contextmanager
def dying_at_its_journal(
    services: Services, monkeypatch: pytest.MonkeyPatch, *, journaled: bool
) -> Iterator[None]:
    """Let an instance end before or after its journal call, and tell Redis nothing any more."""
    pipeline = pipeline_of(services)
    write = pipeline._journal.write

    async def die_at_the_journal(*arguments: Any, **more: Any) -> Any:
        if journaled:
            await write(*arguments, **more)
        raise Died

    async def untold(*_arguments: Any) -> None:
        return

    with monkeypatch.context() as patched:
        patched.setattr(pipeline._journal, "write", die_at_the_journal)
        patched.setattr(pipeline._admission, "confirm", untold)
        patched.setattr(pipeline._admission, "release", untold)
        yield
