"""Faults at labelled points: exactly when a named call was sent, or executed and not answered."""

import asyncio
import signal
from collections.abc import Callable

import msgspec

from tests.chaos.proxy import PASS, Fate, Phase, Trap, Verdict
from tests.chaos.schedule import Fault, Kind
from tests.chaos.server_faults import ACCOUNT_KEYS, CARRIED_OUT, ServerFaults
from tests.chaos.stage import Stage

TRAP_WAIT_S = 4.0
STALE_MIN_S = 0.6
HOLD_BEYOND_S = 1.0
NOT_SPRUNG = "its trap did not spring"


class PointFaults:
    """Each sets a trap on a process's way to a server; returns a note, empty when it sprang."""

    def __init__(
        self, stage: Stage, servers: ServerFaults, reap_age_s: float, deadline_s: float
    ) -> None:
        """Know the age past which the service gives a reservation back, and how long a request
        may wait for its answer.
        """
        self._stage = stage
        self._servers = servers
        self._reap_age_s = reap_age_s
        self._deadline_s = deadline_s

    async def _sprung(self, fault: Fault, act: Callable[[], Verdict], server: str = "") -> bool:
        """Set a trap and wait until it has sprung; False when it did not in time."""
        way = self._stage.ways[fault.process].to(server or fault.server)
        labels = frozenset(fault.label.split("|"))
        trap = Trap(labels, Phase(fault.phase or Phase.SENT), act)
        way.arm(trap)
        try:
            async with asyncio.timeout(TRAP_WAIT_S):
                await trap.sprung.wait()
        except TimeoutError:
            return False
        finally:
            way.disarm(trap)
        return True

    async def strike_at_point(self, fault: Fault) -> str:
        """Kill or pause somebody exactly when a call is at a point."""
        victim = fault.process if fault.victim == "process" else fault.victim
        is_kill = fault.kind is Kind.POINT_KILL
        verdict = Verdict(Fate.CUT) if fault.manner == "lose" else PASS

        def act() -> Verdict:
            self._stage.strike(victim, signal.SIGKILL if is_kill else signal.SIGSTOP)
            return verdict

        if not await self._sprung(fault, act):
            return NOT_SPRUNG
        await asyncio.sleep(fault.lasts_s)
        await self._stage.mend(victim)
        return CARRIED_OUT

    async def lose_at_point(self, fault: Fault) -> str:
        """Lose a request or a reply, with or without an end of the connection."""
        verdict = Verdict(Fate.CUT if fault.manner == "cut" else Fate.DROP)
        return CARRIED_OUT if await self._sprung(fault, lambda: verdict) else NOT_SPRUNG

    async def hold_at_point(self, fault: Fault) -> str:
        """Hold a request back and deliver it later, when its sender has gone on or died."""
        hold_s = STALE_MIN_S + fault.lasts_s
        is_kill = fault.manner == "killed"

        def act() -> Verdict:
            if is_kill:
                self._stage.strike(fault.process, signal.SIGKILL)
            return Verdict(Fate.HOLD, hold_s, cuts_sender=fault.manner == "cut")

        if not await self._sprung(fault, act):
            return NOT_SPRUNG
        await asyncio.sleep(hold_s / 2)
        if is_kill:
            await self._stage.mend(fault.process)
        await asyncio.sleep(hold_s / 2)
        return CARRIED_OUT

    async def make_stale(self, fault: Fault) -> str:
        """Pause an API at a point, make Redis lose its data, let the others go on, resume it."""
        stage, lasts_s = self._stage, STALE_MIN_S + fault.lasts_s
        server = "postgres" if "batch" in fault.label else "redis"
        holds = fault.share > 0.5 and fault.phase == Phase.SENT

        def act() -> Verdict:
            stage.strike(fault.process, signal.SIGSTOP)
            return Verdict(Fate.HOLD, lasts_s + fault.share) if holds else PASS

        if not await self._sprung(fault, act, server):
            return NOT_SPRUNG
        try:
            await self._lose_data(fault)
            await asyncio.sleep(lasts_s)
        finally:
            await stage.mend(fault.process)
        return CARRIED_OUT

    async def _lose_data(self, fault: Fault) -> None:
        if fault.manner == "flush":
            await self._servers.command("FLUSHALL")
        elif fault.manner == "delete":
            await self._servers.delete(ACCOUNT_KEYS, 0.0)
        elif fault.manner == "kill":
            await self._servers.strike("redis", signal.SIGKILL, 0.0)
        else:
            brief = msgspec.structs.replace(fault, lasts_s=0.1)
            await self._servers.bring_back_old(brief)

    async def journal_late(self, fault: Fault) -> str:
        """Deliver a journal call when its reservations are old enough to be given back, or when
        its clients have been told that the outcome is unknown.
        """
        bounds = (self._reap_age_s, self._deadline_s)
        hold_s = (max(bounds) if fault.share > 0.5 else bounds[0]) + HOLD_BEYOND_S + fault.share
        signals = {"killed": signal.SIGKILL, "paused": signal.SIGSTOP}

        def act() -> Verdict:
            if fault.manner in signals:
                self._stage.strike(fault.process, signals[fault.manner])
            return Verdict(Fate.HOLD, hold_s)

        if not await self._sprung(fault, act, "postgres"):
            return NOT_SPRUNG
        if fault.manner == "killed":
            await asyncio.sleep(fault.lasts_s)
            await self._stage.mend(fault.process)
        await asyncio.sleep(hold_s)
        if fault.manner == "paused":
            await asyncio.sleep(fault.lasts_s / 2)
            await self._stage.mend(fault.process)
        return CARRIED_OUT

    async def cut_off(self, fault: Fault) -> str:
        """Cut an API off from PostgreSQL in the middle of a journal call, for longer than its
        clients may wait: they must be told that the outcome is unknown.
        """
        way = self._stage.ways[fault.process].postgres

        def act() -> Verdict:
            if fault.manner == "blocked":
                way.block()
            else:
                way.refuses = True
                way.cut()
            return Verdict(Fate.CUT if fault.phase == Phase.EXECUTED else Fate.PASS)

        if not await self._sprung(fault, act, "postgres"):
            return NOT_SPRUNG
        await asyncio.sleep(self._deadline_s + HOLD_BEYOND_S + fault.share)
        way.unblock()
        way.refuses = False
        return CARRIED_OUT
