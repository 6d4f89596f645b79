"""The processes that send: started once, used for one run after the other, ended with this one.

They ignore Ctrl-C, which a terminal sends to all: they end what they do when they are told to.
"""

import asyncio
import multiprocessing
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from ctypes import c_int64
from multiprocessing.connection import Connection as Pipe
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import RawArray
from types import TracebackType
from typing import Any, NamedTuple, Self

import uvloop

from bench.load.record import Record
from bench.load.sender import Job, Sender, SenderError

_FIELDS = ("due", "sent", "accepted", "refused", "errors", "backlog", "in_flight")
_STOP = len(_FIELDS)
_START_AHEAD_S = 0.1
_POLL_S = 0.05
_PREPARE_TIMEOUT_S = 60.0
_GRACE_S = 30.0


class GeneratorError(Exception):
    """The sending processes did not do as they were told."""


class Counters(NamedTuple):
    """How far a run is."""

    due: int
    sent: int
    accepted: int
    refused: int
    errors: int
    backlog: int
    in_flight: int


Show = Callable[[float, Counters], None]


class Generator:
    """Some sending processes; a context manager, so that none is left behind."""

    def __init__(self, processes: int) -> None:
        """Nothing is started yet."""
        self.processes = processes
        self._context = multiprocessing.get_context("spawn")
        self._children: list[BaseProcess] = []
        self._pipes: list[Pipe[Any, Any]] = []
        self._counters: list[Any] = []

    def __enter__(self) -> Self:
        for _ in range(self.processes):
            here, there = self._context.Pipe()
            counters = RawArray(c_int64, len(_FIELDS) + 1)
            child = self._context.Process(target=_serve, args=(there, counters), daemon=True)
            child.start()
            there.close()
            self._children.append(child)
            self._pipes.append(here)
            self._counters.append(counters)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for pipe in self._pipes:
            pipe.close()
        for child in self._children:
            child.terminate()
            child.join()

    async def run(self, jobs: list[Job], show: Show) -> list[Record]:
        """Have each process do its job, all from the same instant on.

        When this is cancelled the processes are told to stop and their answers are read first.
        """
        for pipe, counters, job in zip(self._pipes, self._counters, jobs, strict=True):
            counters[:] = [0] * (len(_FIELDS) + 1)
            pipe.send(job)
        for ready in await self._receive(_PREPARE_TIMEOUT_S, lambda: None):
            if ready is not None:
                raise GeneratorError(str(ready))
        start_ns = time.monotonic_ns() + round(_START_AHEAD_S * 1e9)
        for pipe in self._pipes:
            pipe.send(start_ns)

        def tell() -> None:
            show((time.monotonic_ns() - start_ns) / 1e9, self._count())

        timeout_s = jobs[0].schedule.duration_s + jobs[0].timeout_s + _GRACE_S
        try:
            records: list[Record] = await self._receive(timeout_s, tell)
        except asyncio.CancelledError:
            for counters in self._counters:
                counters[_STOP] = 1
            await self._receive(_GRACE_S, lambda: None)
            raise
        return records

    def _count(self) -> Counters:
        return Counters(*(sum(c[place] for c in self._counters) for place in range(len(_FIELDS))))

    async def _receive(self, timeout_s: float, meanwhile: Callable[[], None]) -> list[Any]:
        """One message of each process; `GeneratorError` when one ends or takes too long."""
        deadline = time.monotonic() + timeout_s
        received: dict[int, Any] = {}
        while len(received) < len(self._pipes):
            for place, (pipe, child) in enumerate(zip(self._pipes, self._children, strict=True)):
                if place in received:
                    continue
                if pipe.poll():
                    received[place] = _read(pipe)
                elif not child.is_alive():
                    raise GeneratorError("a sending process ended")
            if time.monotonic() > deadline:
                raise GeneratorError(f"a sending process does not answer within {timeout_s} s")
            meanwhile()
            await asyncio.sleep(_POLL_S)
        return [received[place] for place in range(len(self._pipes))]


def _read(pipe: "Pipe[Any, Any]") -> Any:
    try:
        return pipe.recv()
    except (EOFError, OSError) as exc:
        raise GeneratorError("a sending process ended") from exc


def _serve(pipe: "Pipe[Any, Any]", counters: Any) -> None:
    """Do one job after the other until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(EOFError, OSError):
        while True:
            job = pipe.recv()
            uvloop.run(_do(job, pipe, counters))


async def _do(job: Job, pipe: "Pipe[Any, Any]", counters: Any) -> None:
    """Connect, wait for the start, send, and hand back what became of it."""

    def watch(sender: Sender) -> bool:
        recorder, loop = sender.recorder, sender.open_loop
        backlog, in_flight = len(loop.backlog), sender.in_flight
        counters[: len(_FIELDS)] = (
            loop.sent_count + backlog + len(loop.not_sent),
            loop.sent_count,
            recorder.accepted,
            recorder.refused,
            recorder.errors,
            backlog,
            in_flight,
        )
        return not counters[_STOP]

    sender = Sender(job)
    try:
        await sender.connect()
    except SenderError as error:
        pipe.send(str(error))
        return
    pipe.send(None)
    start_ns = pipe.recv()
    pipe.send(await sender.run(start_ns, watch))
