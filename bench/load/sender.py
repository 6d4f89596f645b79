"""One process' share of a load: keep-alive connections, and the clock that feeds them."""

import asyncio
import gc
import time
from collections.abc import Callable
from typing import NamedTuple, cast
from urllib.parse import urlsplit

from bench.load.clock_timer import ClockTimer
from bench.load.mix import HOST, Mix, Requests
from bench.load.open_loop import NEVER_NS, OpenLoop
from bench.load.record import LOST, NOT_SENT, Record, Recorder
from bench.load.response import ProtocolError, ResponseParser
from bench.load.schedule import Schedule, share_count

# A request due within this is sent with the one before it: fewer wakes at high rates.
_GRAIN_NS = 500_000
_WATCH_S = 0.1
_RECONNECT_S = 0.05
_CONNECT_TIMEOUT_S = 5.0
_PORT = 80
_CLOSE_POLLS_MAX = 100
_now_ns = time.monotonic_ns


class SenderError(Exception):
    """The load could not be begun."""


class Job(NamedTuple):
    """What one process has to do."""

    urls: tuple[str, ...]
    connections: int
    schedule: Schedule
    mix: Mix
    first: int = 0
    stride: int = 1
    backlog_max: int = 20_000
    timeout_s: float = 20.0


class HttpLane(asyncio.Protocol):
    """A lane: one request after the other on one keep-alive connection."""

    __slots__ = ("_due_ns", "_index", "_parser", "_sender", "_transport", "sent_ns")

    def __init__(self, sender: "Sender") -> None:
        self._sender = sender
        self._parser = ResponseParser()
        self._transport: asyncio.WriteTransport
        self._index = -1
        self._due_ns = self.sent_ns = 0

    @property
    def is_busy(self) -> bool:
        """Tell whether a request is under way."""
        return self._index >= 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.WriteTransport", transport)

    def send(self, index: int, due_ns: int) -> None:
        """Send a request; its latency counts from the instant it was due."""
        self._index, self._due_ns, self.sent_ns = index, due_ns, _now_ns()
        self._transport.write(self._sender.message(index))

    def data_received(self, data: bytes) -> None:
        """Keep an answer once it is whole, and send what waits or has come due meanwhile."""
        try:
            response = self._parser.feed(data)
        except ProtocolError:
            self._transport.abort()
            return
        if response is None:
            return
        sender, index = self._sender, self._index
        if index < 0:
            self._transport.abort()
            return
        self._index = -1
        now_ns = _now_ns()
        sender.recorder.answered(index, self._due_ns, now_ns, response)
        if response.closes:
            self._transport.close()
            return
        loop = sender.open_loop
        loop.release(self)
        if loop.due_ns <= now_ns:
            loop.advance(now_ns)

    def connection_lost(self, _exc: Exception | None) -> None:
        """What was under way is lost."""
        index, self._index = self._index, -1
        self._sender.lost(self, index)

    def abort(self) -> None:
        """Close without waiting for anything."""
        self._transport.abort()


class Sender:
    """Sends a job's requests on their instants and keeps what became of them."""

    def __init__(self, job: Job) -> None:
        """Nothing is connected yet."""
        self._job = job
        self._requests = Requests(job.mix, urlsplit(job.urls[0]).netloc)
        self._count = share_count(job.schedule.request_count, job.first, job.stride)
        self.recorder = Recorder(self._requests, job.first, job.stride, self._count)
        self.open_loop = OpenLoop(iter(()), 0)
        self._lanes: set[HttpLane] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._ending = False
        self._reconnects = 0

    def message(self, index: int) -> bytes:
        """The bytes of a request, by its place in this share."""
        return self._requests.message(self._job.first + index * self._job.stride)

    async def connect(self) -> None:
        """Open the connections; `SenderError` when the service is not there."""
        for number in range(self._job.connections):
            try:
                async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                    self._lanes.add(await self._open(number))
            except (OSError, TimeoutError) as exc:
                await self._close()
                raise SenderError(f"{self._job.urls[0]} cannot be reached: {exc}") from exc

    async def run(
        self, start_ns: int, watch: Callable[["Sender"], bool], stop_within_s: float = 5.0
    ) -> Record:
        """Send everything and wait for the answers, a bounded time.

        `watch` is called now and then; when it returns False nothing more comes due.
        """
        job, loop = self._job, asyncio.get_running_loop()
        instants = job.schedule.share(job.first, job.stride, start_ns)
        self.open_loop = OpenLoop(instants, job.backlog_max)
        self.open_loop.free.extend(self._lanes)
        timer = ClockTimer(loop, lambda: self._tick(timer))
        gc.collect()
        gc.disable()
        cpu_ns = time.process_time_ns()
        try:
            timer.set(self.open_loop.due_ns)
            due = await self._wait(watch, start_ns, stop_within_s)
            elapsed_ns, cpu_ns = _now_ns() - start_ns, time.process_time_ns() - cpu_ns
        finally:
            gc.enable()
            timer.close()
            await self._close()
        for index in self.open_loop.not_sent:
            self.recorder.failed(index, NOT_SENT)
        lateness_us = self.open_loop.lateness_us
        return self.recorder.finish(due, lateness_us, cpu_ns, elapsed_ns, self._reconnects)

    def lost(self, lane: HttpLane, index: int) -> None:
        """A connection ended; what was under way on it has no answer."""
        self._lanes.discard(lane)
        if lane in self.open_loop.free:
            self.open_loop.free.remove(lane)
        if index >= 0:
            self.recorder.failed(index, LOST)
        if not self._ending:
            self._reconnects += 1
            task = asyncio.get_running_loop().create_task(self._reopen())
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    @property
    def in_flight(self) -> int:
        """How many requests are under way."""
        return sum(lane.is_busy for lane in self._lanes)

    def _tick(self, timer: ClockTimer) -> None:
        """Send what is due and sleep until the next is, or a grain longer."""
        now_ns = _now_ns()
        open_loop = self.open_loop
        open_loop.advance(now_ns)
        if open_loop.due_ns != NEVER_NS:
            timer.set(max(open_loop.due_ns, now_ns + _GRAIN_NS))

    async def _wait(
        self, watch: Callable[["Sender"], bool], start_ns: int, stop_within_s: float
    ) -> int:
        """Watch until all is answered; returns how many requests came due.

        After the last came due the answers have the time-out to arrive, or less after a stop.
        """
        job = self._job
        end_ns = start_ns + round((job.schedule.duration_s + job.timeout_s) * 1e9)
        due = self._count
        while _now_ns() < end_ns:
            await asyncio.sleep(_WATCH_S)
            self._drop_overdue()
            if self.open_loop.is_over and not self.open_loop.backlog and not self.in_flight:
                break
            if not watch(self) and not self.open_loop.is_over:
                due = self.open_loop.stop()
                end_ns = min(end_ns, _now_ns() + round(stop_within_s * 1e9))
        watch(self)
        self.open_loop.give_up()
        return due

    def _drop_overdue(self) -> None:
        """End connections whose request got no answer in time; it counts as lost."""
        oldest_ns = _now_ns() - round(self._job.timeout_s * 1e9)
        for lane in [lane for lane in self._lanes if lane.is_busy and lane.sent_ns < oldest_ns]:
            lane.abort()

    async def _open(self, number: int) -> HttpLane:
        address = urlsplit(self._job.urls[number % len(self._job.urls)])
        loop = asyncio.get_running_loop()
        _, lane = await loop.create_connection(
            lambda: HttpLane(self), address.hostname or HOST, address.port or _PORT
        )
        return lane

    async def _reopen(self) -> None:
        """Open a connection again, for as long as the load lasts."""
        while not self._ending:
            try:
                async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                    lane = await self._open(self._reconnects)
            except (OSError, TimeoutError):
                await asyncio.sleep(_RECONNECT_S)
                continue
            self._lanes.add(lane)
            self.open_loop.release(lane)
            return

    async def _close(self) -> None:
        self._ending = True
        for task in list(self._connecting):
            task.cancel()
        for lane in list(self._lanes):
            lane.abort()
        for _ in range(_CLOSE_POLLS_MAX):
            if not self._lanes:
                return
            await asyncio.sleep(_RECONNECT_S)


def jobs_for(job: Job, processes: int) -> list[Job]:
    """Share a load among processes: each takes every so many-th request, on its connections."""
    return [
        job._replace(
            connections=max(1, share_count(job.connections, number, processes)),
            first=number,
            stride=processes,
        )
        for number in range(processes)
    ]
