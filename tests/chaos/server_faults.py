"""Faults of the servers, and of everything at once."""

import asyncio
import signal

from tests.chaos.proxy import proxied
from tests.chaos.schedule import Fault
from tests.chaos.stage import Stage
from tests.chaos.wire import Unread

HOT_SHARE = 0.4
ACCOUNT_KEYS = "subbalance:*:account:*"
CARRIED_OUT = ""
UNDO_TRIES_MAX = 30
UNDO_PAUSE_S = 0.5
_TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
)


class ServerFaults:
    """Each returns a note: why it was not carried out, or nothing."""

    def __init__(self, stage: Stage) -> None:
        """Act on a stage."""
        self._stage = stage

    async def kill(self, fault: Fault) -> str:
        """Kill the server the fault's kind names, and start it again."""
        return await self.strike(_server_of(fault), signal.SIGKILL, fault.lasts_s)

    async def pause(self, fault: Fault) -> str:
        """Stop the server the fault's kind names where it stands, and let it go on."""
        return await self.strike(_server_of(fault), signal.SIGSTOP, fault.lasts_s)

    async def strike(self, victim: str, signal_number: signal.Signals, lasts_s: float) -> str:
        """Signal a server or a process, and mend it after a while."""
        async with self._stage.alone(victim):
            self._stage.strike(victim, signal_number)
            await asyncio.sleep(lasts_s)
            await self._stage.mend(victim)
        return CARRIED_OUT

    async def command(self, *words: str) -> str:
        """Send Redis a command."""
        await self._stage.redis(*words)
        return CARRIED_OUT

    async def delete(self, pattern: str, share: float) -> str:
        """Delete one key: of accounts often the hot one, of epochs the newest."""
        found = await self._stage.redis("KEYS", pattern)
        keys = sorted(found, key=lambda key: (len(key), key)) if isinstance(found, list) else []
        hot = [key for key in keys if key.endswith("-hot0")]
        if hot and share < HOT_SHARE:
            keys = hot
        if not keys:
            return "there was no such key"
        key = keys[min(int(share * len(keys)), len(keys) - 1)]
        return await self.command("DEL", key)

    async def bring_back_old(self, fault: Fault) -> str:
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
        return CARRIED_OUT

    async def fill_memory(self, fault: Fault) -> str:
        """Leave Redis no memory for a while."""
        async with self._stage.alone("redis"):
            await self._stage.redis("CONFIG", "SET", "maxmemory", "1")
            await asyncio.sleep(fault.lasts_s)
            await self._stage.redis("CONFIG", "SET", "maxmemory", "0")
        return CARRIED_OUT

    async def promote(self, fault: Fault) -> str:
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
        return CARRIED_OUT

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

    async def end_backends(self, _: Fault) -> str:
        """End every session of PostgreSQL, whatever it is in the middle of."""
        await self._stage.query(_TERMINATE)
        return CARRIED_OUT

    async def cut_power(self, fault: Fault) -> str:
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
        return CARRIED_OUT

    async def operate(self, fault: Fault) -> str:
        """Do what an operator may do to the ledger, and take it back."""
        async with self._stage.alone("operator"):
            if not await self._stage.operate(fault.manner):
                return "it was refused"
            await asyncio.sleep(fault.lasts_s)
            undone = "resume" if fault.manner == "read-only" else "automatic"
            for _ in range(UNDO_TRIES_MAX):
                if await self._stage.operate(undone):
                    return CARRIED_OUT
                # PostgreSQL may be down just now; nothing would be decided until the end.
                await asyncio.sleep(UNDO_PAUSE_S)
        return f"{undone} was refused {UNDO_TRIES_MAX} times"


def _server_of(fault: Fault) -> str:
    return fault.kind.partition("-")[0]
