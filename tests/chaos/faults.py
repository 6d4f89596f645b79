"""Carries out the faults of a plan, each at its time, and undoes them within bounds.

Faults overlap. One that finds its target in another's hands for too long, or whose trap never
springs, says so in its note and does nothing.
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from tests.chaos.proxy import PASS, Fate, Phase, Proxy, Trap, Verdict, proxied
from tests.chaos.schedule import Fault, Kind
from tests.chaos.stage import SERVER_ERRORS, Busy, Stage
from tests.chaos.wire import Unread

TRAP_WAIT_S = 4.0
STALE_MIN_S = 0.6
HOLD_BEYOND_S = 1.0
DELAY_SHARE_S = 0.12
HOT_SHARE = 0.4
ACCOUNT_KEYS = "subbalance:*:account:*"
_OK = ""
_NOT_SPRUNG = "its trap did not spring"
_TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
)


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
        self._reap_age_s = reap_age_s
        self._deadline_s = deadline_s
        self.incidents: list[Incident] = []
        self._ways: dict[Kind, Callable[[Fault], Awaitable[str]]] = {
            Kind.REDIS_KILL: self._kill_server,
            Kind.POSTGRES_KILL: self._kill_server,
            Kind.REDIS_PAUSE: self._pause_server,
            Kind.POSTGRES_PAUSE: self._pause_server,
            Kind.REDIS_FLUSH: lambda _: self._command("FLUSHALL"),
            Kind.REDIS_SCRIPT_FLUSH: lambda _: self._command("SCRIPT", "FLUSH"),
            Kind.REDIS_DELETE_ACCOUNT: lambda fault: self._delete(ACCOUNT_KEYS, fault.share),
            Kind.REDIS_DELETE_FLIGHT: lambda fault: self._delete(
                "subbalance:*:flight", fault.share
            ),
            Kind.REDIS_DELETE_TOKEN: lambda _: self._delete("subbalance:*:epoch:*", 1.0),
            Kind.REDIS_SNAPSHOT: self._bring_back_old,
            Kind.REDIS_PROMOTE: self._promote,
            Kind.REDIS_MEMORY: self._fill_memory,
            Kind.POSTGRES_BACKEND: self._end_backends,
            Kind.API_KILL: self._kill_process,
            Kind.API_PAUSE: self._pause_process,
            Kind.API_STOP: self._stop_process,
            Kind.WORKER_KILL: self._kill_process,
            Kind.WORKER_PAUSE: self._pause_process,
            Kind.LINK_DELAY: self._delay,
            Kind.LINK_CUT: self._cut,
            Kind.LINK_REFUSE: self._refuse,
            Kind.LINK_BLOCK: self._block,
            Kind.POINT_KILL: self._strike_at_point,
            Kind.POINT_PAUSE: self._strike_at_point,
            Kind.POINT_LOSE: self._lose_at_point,
            Kind.POINT_HOLD: self._hold_at_point,
            Kind.STALE_API: self._make_stale,
            Kind.LATE_JOURNAL: self._journal_late,
            Kind.CUT_OFF: self._cut_off,
            Kind.POWER_CUT: self._cut_power,
            Kind.OPERATE: self._operate,
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

    # Servers.

    async def _kill_server(self, fault: Fault) -> str:
        return await self._strike(_server_of(fault), signal.SIGKILL, fault.lasts_s)

    async def _pause_server(self, fault: Fault) -> str:
        return await self._strike(_server_of(fault), signal.SIGSTOP, fault.lasts_s)

    async def _strike(self, victim: str, signal_number: signal.Signals, lasts_s: float) -> str:
        async with self._stage.alone(victim):
            self._stage.strike(victim, signal_number)
            await asyncio.sleep(lasts_s)
            await self._stage.mend(victim)
        return _OK

    async def _command(self, *words: str) -> str:
        await self._stage.redis(*words)
        return _OK

    async def _delete(self, pattern: str, share: float) -> str:
        """Delete one key: of accounts often the hot one, of epochs the newest."""
        found = await self._stage.redis("KEYS", pattern)
        keys = sorted(found) if isinstance(found, list) else []
        hot = [key for key in keys if key.endswith("-hot0")]
        if hot and share < HOT_SHARE:
            keys = hot
        if not keys:
            return "there was no such key"
        key = keys[min(int(share * len(keys)), len(keys) - 1)]
        return await self._command("DEL", key)

    async def _bring_back_old(self, fault: Fault) -> str:
        """Write a snapshot, go on for a time, then restart Redis from it."""
        stage = self._stage
        async with stage.alone("redis"):
            server = stage.fleet.ruling
            await asyncio.to_thread(server.snapshot)
            await asyncio.sleep(fault.lasts_s)
            stage.strike("redis", signal.SIGKILL)
            await asyncio.sleep(fault.lasts_s * fault.share)
            await stage.cluster.apart(server.kill)
            await stage.cluster.apart(server.start_old)
        return _OK

    async def _fill_memory(self, fault: Fault) -> str:
        async with self._stage.alone("redis"):
            await self._stage.redis("CONFIG", "SET", "maxmemory", "1")
            await asyncio.sleep(fault.lasts_s)
            await self._stage.redis("CONFIG", "SET", "maxmemory", "0")
        return _OK

    async def _promote(self, fault: Fault) -> str:
        """Let a replica lag, promote it, send the service there; the old master may come back."""
        stage = self._stage
        async with stage.alone("redis"):
            master, replica = stage.fleet.ruling, stage.fleet.spare
            async with proxied(master.port, Unread) as replication:
                await stage.cluster.apart(replica.kill)
                await stage.cluster.apart(replica.start_as_replica, replication.port)
                if not await asyncio.to_thread(replica.wait_synced):
                    return "the replica did not sync"
                replication.block()
                await asyncio.sleep(fault.lasts_s)
                if fault.manner == "killed":
                    stage.strike("redis", signal.SIGKILL)
                await asyncio.to_thread(replica.command, "REPLICAOF", "NO", "ONE")
            stage.fleet.swap()
            await self._send_one_by_one(replica.port, fault)
            if fault.manner == "returned":
                await asyncio.sleep(fault.lasts_s)
                stage.fleet.swap()
                await self._send_one_by_one(master.port, fault)
            if fault.manner == "demoted":
                await self._fail_back(fault)
            await stage.cluster.apart(stage.fleet.spare.kill)
        return _OK

    async def _send_one_by_one(self, port: int, fault: Fault) -> None:
        """Send each process to another Redis, for a while not all to the same."""
        for ways in self._stage.ways.values():
            ways.redis.retarget(port)
            await asyncio.sleep(fault.share * 0.3)

    async def _fail_back(self, fault: Fault) -> None:
        """Make the old master follow the new one, and promote it again."""
        old, new = self._stage.fleet.spare, self._stage.fleet.ruling
        await asyncio.to_thread(old.command, "REPLICAOF", "127.0.0.1", str(new.port))
        await asyncio.sleep(fault.lasts_s)
        if await asyncio.to_thread(old.wait_synced):
            await asyncio.to_thread(old.command, "REPLICAOF", "NO", "ONE")
            self._stage.fleet.swap()
            await self._send_one_by_one(old.port, fault)

    async def _end_backends(self, _fault: Fault) -> str:
        """End every session of PostgreSQL, whatever it is in the middle of."""
        await self._stage.query(_TERMINATE)
        return _OK

    # Processes of the service.

    async def _kill_process(self, fault: Fault) -> str:
        return await self._strike(fault.process, signal.SIGKILL, fault.lasts_s)

    async def _pause_process(self, fault: Fault) -> str:
        return await self._strike(fault.process, signal.SIGSTOP, fault.lasts_s)

    async def _stop_process(self, fault: Fault) -> str:
        """End a process in order, as a rolling restart does."""
        async with self._stage.alone(fault.process):
            self._stage.strike(fault.process, signal.SIGTERM)
            await asyncio.sleep(fault.lasts_s)
            process = self._stage.processes[fault.process]
            await asyncio.to_thread(process.stop)
            await self._stage.mend(fault.process)
        return _OK

    async def _cut_power(self, fault: Fault) -> str:
        """Kill everything at once; the servers or the service come back first."""
        stage, servers = self._stage, ["postgres", "redis"]
        async with stage.alone("redis"), stage.alone("postgres"):
            for victim in [*stage.processes, *servers]:
                stage.strike(victim, signal.SIGKILL)
            order = [servers, list(stage.processes)]
            if fault.manner == "service first":
                order.reverse()
            for group in order:
                await asyncio.sleep(fault.lasts_s / 2)
                for victim in group:
                    await stage.mend(victim)
        return _OK

    async def _operate(self, fault: Fault) -> str:
        """Do what an operator may do to the ledger, and take it back."""
        async with self._stage.alone("operator"):
            if not await self._stage.operate(fault.manner):
                return "it was refused"
            await asyncio.sleep(fault.lasts_s)
            await self._stage.operate("resume" if fault.manner == "read-only" else "automatic")
        return _OK

    # Ways between them.

    def _way(self, fault: Fault) -> Proxy:
        return self._stage.ways[fault.process].to(fault.server)

    async def _delay(self, fault: Fault) -> str:
        self._way(fault).delay_s = fault.share * DELAY_SHARE_S
        await asyncio.sleep(fault.lasts_s)
        self._way(fault).delay_s = 0.0
        return _OK

    async def _cut(self, fault: Fault) -> str:
        self._way(fault).cut()
        return _OK

    async def _refuse(self, fault: Fault) -> str:
        way = self._way(fault)
        way.refuses = True
        way.cut()
        await asyncio.sleep(fault.lasts_s)
        way.refuses = False
        return _OK

    async def _block(self, fault: Fault) -> str:
        self._way(fault).block()
        await asyncio.sleep(fault.lasts_s)
        self._way(fault).unblock()
        return _OK

    # Labelled points.

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

    async def _strike_at_point(self, fault: Fault) -> str:
        """Kill or pause somebody exactly when a call is at a point."""
        victim = fault.process if fault.victim == "process" else fault.victim
        is_kill = fault.kind is Kind.POINT_KILL
        verdict = Verdict(Fate.CUT) if fault.manner == "lose" else PASS

        def act() -> Verdict:
            self._stage.strike(victim, signal.SIGKILL if is_kill else signal.SIGSTOP)
            return verdict

        if not await self._sprung(fault, act):
            return _NOT_SPRUNG
        await asyncio.sleep(fault.lasts_s)
        await self._stage.mend(victim)
        return _OK

    async def _lose_at_point(self, fault: Fault) -> str:
        """Lose a request or a reply, with or without an end of the connection."""
        verdict = Verdict(Fate.CUT if fault.manner == "cut" else Fate.DROP)
        return _OK if await self._sprung(fault, lambda: verdict) else _NOT_SPRUNG

    async def _hold_at_point(self, fault: Fault) -> str:
        """Hold a request back and deliver it later, when its sender has gone on or died."""
        hold_s = STALE_MIN_S + fault.lasts_s
        is_kill = fault.manner == "killed"

        def act() -> Verdict:
            if is_kill:
                self._stage.strike(fault.process, signal.SIGKILL)
            return Verdict(Fate.HOLD, hold_s, cuts_sender=fault.manner == "cut")

        if not await self._sprung(fault, act):
            return _NOT_SPRUNG
        await asyncio.sleep(hold_s / 2)
        if is_kill:
            await self._stage.mend(fault.process)
        await asyncio.sleep(hold_s / 2)
        return _OK

    async def _make_stale(self, fault: Fault) -> str:
        """Pause an API at a point, make Redis lose its data, let the others go on, resume it."""
        stage, lasts_s = self._stage, STALE_MIN_S + fault.lasts_s
        server = "postgres" if "batch" in fault.label else "redis"
        holds = fault.share > 0.5 and fault.phase == Phase.SENT

        def act() -> Verdict:
            stage.strike(fault.process, signal.SIGSTOP)
            return Verdict(Fate.HOLD, lasts_s + fault.share) if holds else PASS

        if not await self._sprung(fault, act, server):
            return _NOT_SPRUNG
        try:
            await self._lose_data(fault)
            await asyncio.sleep(lasts_s)
        finally:
            await stage.mend(fault.process)
        return _OK

    async def _lose_data(self, fault: Fault) -> None:
        if fault.manner == "flush":
            await self._command("FLUSHALL")
        elif fault.manner == "delete":
            await self._delete(ACCOUNT_KEYS, 0.0)
        elif fault.manner == "kill":
            await self._strike("redis", signal.SIGKILL, 0.0)
        else:
            brief = msgspec.structs.replace(fault, lasts_s=0.1)
            await self._bring_back_old(brief)

    async def _journal_late(self, fault: Fault) -> str:
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
            return _NOT_SPRUNG
        if fault.manner == "killed":
            await asyncio.sleep(fault.lasts_s)
            await self._stage.mend(fault.process)
        await asyncio.sleep(hold_s)
        if fault.manner == "paused":
            await asyncio.sleep(fault.lasts_s / 2)
            await self._stage.mend(fault.process)
        return _OK

    async def _cut_off(self, fault: Fault) -> str:
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
            return _NOT_SPRUNG
        await asyncio.sleep(self._deadline_s + HOLD_BEYOND_S + fault.share)
        way.unblock()
        way.refuses = False
        return _OK


def _server_of(fault: Fault) -> str:
    return fault.kind.partition("-")[0]
