"""Carries out the faults of a plan, each at its time, and undoes them within bounds.

Faults overlap. One that finds its target in another's hands for too long, or whose trap never
springs, says so in its note and does nothing.
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from tests.chaos.point_faults import PointFaults
from tests.chaos.proxy import Proxy
from tests.chaos.schedule import Fault, Kind
from tests.chaos.server_faults import ACCOUNT_KEYS, CARRIED_OUT, ServerFaults
from tests.chaos.stage import SERVER_ERRORS, Busy, Stage

DELAY_SHARE_S = 0.12


class Incident(msgspec.Struct):
    """What became of one planned fault."""

    fault: Fault
    began_s: float = 0.0
    healed_s: float = 0.0
    note: str = ""

    @property
    def happened(self) -> bool:
        """Tell whether it was carried out."""
        return not self.note


class Faults:
    """Acts on a stage."""

    def __init__(self, stage: Stage, reap_age_s: float, deadline_s: float) -> None:
        """Know the age past which the service gives a reservation back, and how long a request
        may wait for its answer.
        """
        self._stage = stage
        self._servers = servers = ServerFaults(stage)
        points = PointFaults(stage, servers, reap_age_s, deadline_s)
        self.incidents: list[Incident] = []
        self._ways: dict[Kind, Callable[[Fault], Awaitable[str]]] = {
            Kind.REDIS_KILL: servers.kill,
            Kind.POSTGRES_KILL: servers.kill,
            Kind.REDIS_PAUSE: servers.pause,
            Kind.POSTGRES_PAUSE: servers.pause,
            Kind.REDIS_FLUSH: lambda _: servers.command("FLUSHALL"),
            Kind.REDIS_SCRIPT_FLUSH: lambda _: servers.command("SCRIPT", "FLUSH"),
            Kind.REDIS_DELETE_ACCOUNT: lambda fault: servers.delete(ACCOUNT_KEYS, fault.share),
            Kind.REDIS_DELETE_FLIGHT: lambda fault: servers.delete(
                "subbalance:*:flight", fault.share
            ),
            Kind.REDIS_DELETE_TOKEN: lambda _: servers.delete("subbalance:*:epoch:*", 1.0),
            Kind.REDIS_SNAPSHOT: servers.bring_back_old,
            Kind.REDIS_PROMOTE: servers.promote,
            Kind.REDIS_MEMORY: servers.fill_memory,
            Kind.POSTGRES_BACKEND: servers.end_backends,
            Kind.API_KILL: self._kill_process,
            Kind.API_PAUSE: self._pause_process,
            Kind.API_STOP: self._stop_process,
            Kind.WORKER_KILL: self._kill_process,
            Kind.WORKER_PAUSE: self._pause_process,
            Kind.LINK_DELAY: self._delay,
            Kind.LINK_CUT: self._cut,
            Kind.LINK_REFUSE: self._refuse,
            Kind.LINK_BLOCK: self._block,
            Kind.POINT_KILL: points.strike_at_point,
            Kind.POINT_PAUSE: points.strike_at_point,
            Kind.POINT_LOSE: points.lose_at_point,
            Kind.POINT_HOLD: points.hold_at_point,
            Kind.STALE_API: points.make_stale,
            Kind.LATE_JOURNAL: points.journal_late,
            Kind.CUT_OFF: points.cut_off,
            Kind.POWER_CUT: servers.cut_power,
            Kind.OPERATE: servers.operate,
        }

    async def run(self, faults: Sequence[Fault]) -> None:
        """Carry out a plan; returns when the last fault is undone."""
        await asyncio.gather(*(self._at_its_time(fault) for fault in faults))

    async def _at_its_time(self, fault: Fault) -> None:
        await asyncio.sleep(max(0.0, fault.at_s - self._stage.now_s))
        incident = Incident(fault, began_s=self._stage.now_s)
        self.incidents.append(incident)
        try:
            incident.note = await self._ways[fault.kind](fault)
        except Busy as busy:
            incident.note = f"skipped: {busy} was busy"
        except SERVER_ERRORS as exc:
            incident.note = f"failed: {type(exc).__name__}: {exc}"[:200]
        incident.healed_s = self._stage.now_s

    async def _kill_process(self, fault: Fault) -> str:
        return await self._servers.strike(fault.process, signal.SIGKILL, fault.lasts_s)

    async def _pause_process(self, fault: Fault) -> str:
        return await self._servers.strike(fault.process, signal.SIGSTOP, fault.lasts_s)

    async def _stop_process(self, fault: Fault) -> str:
        """End a process in order, as a rolling restart does."""
        async with self._stage.alone(fault.process):
            self._stage.strike(fault.process, signal.SIGTERM)
            await asyncio.sleep(fault.lasts_s)
            process = self._stage.processes[fault.process]
            await asyncio.to_thread(process.stop)
            await self._stage.mend(fault.process)
        return CARRIED_OUT

    def _way(self, fault: Fault) -> Proxy:
        return self._stage.ways[fault.process].to(fault.server)

    async def _delay(self, fault: Fault) -> str:
        self._way(fault).delay_s = fault.share * DELAY_SHARE_S
        await asyncio.sleep(fault.lasts_s)
        self._way(fault).delay_s = 0.0
        return CARRIED_OUT

    async def _cut(self, fault: Fault) -> str:
        self._way(fault).cut()
        return CARRIED_OUT

    async def _refuse(self, fault: Fault) -> str:
        way = self._way(fault)
        way.refuses = True
        way.cut()
        await asyncio.sleep(fault.lasts_s)
        way.refuses = False
        return CARRIED_OUT

    async def _block(self, fault: Fault) -> str:
        self._way(fault).block()
        await asyncio.sleep(fault.lasts_s)
        self._way(fault).unblock()
        return CARRIED_OUT
