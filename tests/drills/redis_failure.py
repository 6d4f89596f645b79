"""The specification's timeline: a transaction through Redis, one without it, and the way back.

T+0 transaction 1 is decided through Redis; T+2 Redis is gone and transaction 2 is decided under
PostgreSQL's locks; T+3 both are settled and Redis comes back; T+30 everything is compared. Redis is
gone either because the way to it is cut (it lives on and remembers) or because it is killed (it
comes back empty). A load runs all the while.
"""

import asyncio
import time
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol

from tests.cluster import Cluster, at_port
from tests.drills.client import Connection
from tests.drills.gate import Gate
from tests.drills.history import History, Intention
from tests.drills.integrity import Check, all_passed, check_integrity
from tests.drills.load import HOT, Load, decide, open_accounts
from tests.drills.observed import Observed, Row, first_accepted_at, observe_quiet, verify
from tests.drills.report import Phase, PhaseFigures, SuccessRate, phase_figures, success_rate
from tests.drills.service import (
    Options,
    bring_to_rest,
    private_cluster,
    redis_rules,
    start_service,
    wait_for,
    wait_for_redis,
    wait_until_settled,
)

FAILURE_S, BACK_S, CHECK_S, WARM_UP_S = 2.0, 3.0, 30.0, 1.0
_DECISION_TIMEOUT_S = 10.0
_RETURN_TIMEOUT_S = 30.0
_RECOVERY_TIMEOUT_S = 60.0
_SETTLED_TIMEOUT_S = 30.0
_QUIET_TIMEOUT_S = 30.0
_FIRST_MINOR, _SECOND_MINOR = -100_000, -50_000
_SETTLEMENT_INTERVAL_MS_MIN = 100
_NO_PROOF = Check("the service proves its books under load", False, "not asked")
_NO_RATE = SuccessRate(0, 0)


class Outage(Protocol):
    """A way to take Redis from the service and to give it back."""

    name: str
    what: str
    port: int

    async def open(self, cluster: Cluster) -> None:
        """Make the way from the service to Redis, which works at first."""

    async def begin(self) -> None:
        """Take Redis away."""

    async def end(self) -> None:
        """Bring Redis back."""

    async def close(self) -> None:
        """Leave nothing behind; the drill is over."""


class CutOff:
    """The network fails: connections break and are refused, Redis lives on with all it knows."""

    name = "simulated: the way to Redis is cut"
    what = "connections to Redis are cut and refused; the server lives on"
    port = 0

    async def open(self, cluster: Cluster) -> None:
        self._gate = Gate(cluster.redis.port)
        self.port = self._gate.port
        await self._gate.open()

    async def begin(self) -> None:
        await self._gate.cut()

    async def end(self) -> None:
        await self._gate.open()

    async def close(self) -> None:
        await self._gate.close()


class Killed:
    """The server dies as in a crash (SIGKILL) and is started again, empty."""

    name = "real: Redis is killed and started again"
    what = "Redis is killed (SIGKILL) and started again, empty"
    port = 0

    async def open(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.port = cluster.redis.port

    async def begin(self) -> None:
        await self._cluster.apart(self._cluster.redis.kill)

    async def end(self) -> None:
        await self._cluster.apart(self._cluster.redis.start)

    async def close(self) -> None:
        """The cluster ends its servers itself."""


@dataclass(slots=True)
class NamedTransaction:
    """What one of the two transactions of the timeline went through."""

    name: str
    expected_mode: str
    intention: Intention
    row: Row | None = None
    settled_at: float | None = None

    @property
    def passed(self) -> bool:
        """Tell whether it was accepted PENDING by whom it should be, and settled under its id."""
        accepted = self.intention.acceptances
        return (
            self.row is not None
            and bool(accepted)
            and self.row.mode == self.expected_mode
            and {sending.accepted_as for sending in accepted} == {"PENDING"}
            and {sending.transaction_id for sending in accepted} == {self.row.transaction_id}
            and self.row.status == "SETTLED"
        )


@dataclass(slots=True)
class FailureResult:
    """Everything that was measured; instants are seconds of the monotonic clock."""

    outage: str
    environment: dict[str, str]
    history: History
    begun_at: float = 0.0
    failed_at: float = 0.0
    back_at: float = 0.0
    checked_at: float = 0.0
    ended_at: float = 0.0
    first_postgres_at: float | None = None
    first_redis_at: float | None = None
    transactions: list[NamedTransaction] = field(default_factory=list)
    under_load: Check = _NO_PROOF
    integrity: list[Check] = field(default_factory=list)
    phases: list[PhaseFigures] = field(default_factory=list)
    rate: SuccessRate = _NO_RATE

    @property
    def is_intact(self) -> bool:
        """The balance integrity check."""
        return all_passed(self.integrity)

    @property
    def failure_checks(self) -> list[Check]:
        """What the specification wants of a Redis failure."""
        first_mode, second_mode = (
            transaction.row.mode if transaction.row else "not journaled"
            for transaction in self.transactions
        )
        first, second = self.transactions
        return [
            Check("transaction 1 went through Redis and settled", first.passed, first_mode),
            Check("transaction 2 went through PostgreSQL and settled", second.passed, second_mode),
            Check(
                "the load was accepted while Redis was gone",
                self.first_postgres_at is not None,
                f"first after {self.seconds_text(self.first_postgres_at, self.failed_at)}",
            ),
            Check(
                "Redis decides again in a later epoch",
                self.first_redis_at is not None,
                f"first after {self.seconds_text(self.first_redis_at, self.back_at)}",
            ),
            self.under_load,
            Check("nothing lost, nothing doubled", self.is_intact, "see the integrity check"),
        ]

    @property
    def passed(self) -> bool:
        """The verdict on the whole drill."""
        return all_passed(self.failure_checks)

    def seconds_text(self, moment: float | None, since: float) -> str:
        """A span in seconds with milliseconds."""
        return "never" if moment is None else f"{moment - since:.3f} s"


async def hold_redis_failure(outage: Outage, options: Options, scale: float) -> FailureResult:
    """Hold the drill; `scale` shortens the timeline, whose waits for facts stay as they are."""
    interval_ms = max(_SETTLEMENT_INTERVAL_MS_MIN, round(1_000 * scale))
    environment = {"SETTLEMENT_INTERVAL": f"{interval_ms}ms"}
    with private_cluster(options, environment) as cluster:
        result = FailureResult(outage.name, {**environment, **options.environment}, History())
        await outage.open(cluster)
        redis_url = at_port(cluster.redis.url, outage.port)
        urls = await start_service(cluster, options.instances, REDIS_URL=redis_url)
        await open_accounts(urls[0], result.history)
        load = Load(
            urls,
            result.history,
            connections=options.connections,
            per_second=options.per_second,
            seed=options.seed,
        )
        async with load:
            load.start()
            await asyncio.sleep(WARM_UP_S * scale)
            await _timeline(result, outage, urls, scale)
            await bring_to_rest(load, urls)
        result.ended_at = time.monotonic()
        observed = await observe_quiet(
            cluster.postgres.url, cluster.redis.url, urls, _QUIET_TIMEOUT_S
        )
        await outage.close()
        _judge(result, observed)
        return result


async def _timeline(result: FailureResult, outage: Outage, urls: list[str], scale: float) -> None:
    """Go through the specification's instants; Redis is not back before transaction 2 is decided,
    a bounded time, for a shortened timeline may be shorter than the switch.
    """
    result.begun_at = begun_at = time.monotonic()
    first = _start(result, urls[0], "transaction 1", "redis", _FIRST_MINOR)
    await asyncio.wait([first.decision], timeout=_DECISION_TIMEOUT_S)
    await _until(begun_at + FAILURE_S * scale)
    result.failed_at = time.monotonic()
    await outage.begin()
    second = _start(result, urls[-1], "transaction 2", "postgres", _SECOND_MINOR)
    await asyncio.wait([second.decision], timeout=_DECISION_TIMEOUT_S)
    await _until(begun_at + BACK_S * scale)
    returning = asyncio.create_task(wait_for_redis(outage.port, _RETURN_TIMEOUT_S))
    await outage.end()
    result.back_at = await returning
    await asyncio.gather(first.settlement, second.settlement)
    for url in urls:
        if not await wait_for(partial(redis_rules, url), _RECOVERY_TIMEOUT_S):
            break
    await _until(begun_at + CHECK_S * scale)
    result.checked_at = time.monotonic()
    status = (await verify(urls[0])).get("status")
    result.under_load = Check(result.under_load.name, status == "verified", str(status))


class _Started(NamedTuple):
    """One of the two transactions on its way: until it is decided, and until it is settled."""

    decision: asyncio.Task[Intention]
    settlement: asyncio.Task[None]


def _start(
    result: FailureResult, url: str, name: str, expected_mode: str, change_minor: int
) -> _Started:
    """Send one of the two transactions under its own key and watch it until it is settled."""
    key = f"{name.replace(' ', '-')}-{time.time_ns()}"
    intention = result.history.intend(key, HOT.account_id, change_minor)
    transaction = NamedTransaction(name, expected_mode, intention)
    result.transactions.append(transaction)
    connection = Connection(url)
    decision = asyncio.create_task(decide(connection, intention))

    async def watch() -> None:
        await decision
        await connection.close()
        transaction.settled_at = await wait_until_settled(url, intention, _SETTLED_TIMEOUT_S)

    return _Started(decision, asyncio.create_task(watch()))


async def _until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.monotonic()))


def _judge(result: FailureResult, observed: Observed) -> None:
    """Read who decided what from the journal, and judge."""
    history = result.history
    for transaction in result.transactions:
        transaction.row = observed.row_of(transaction.intention.key)
    result.first_postgres_at = first_accepted_at(history, observed, "postgres", result.failed_at, 0)
    result.first_redis_at = first_accepted_at(
        history, observed, "redis", result.back_at, epoch_at(history, observed, result)
    )
    recovered_at = result.first_redis_at or result.ended_at
    begun_at = min((sending.sent_at for _, sending in history.sendings()), default=0.0)
    phases = [
        Phase("Redis decides", begun_at, result.failed_at),
        Phase("Redis is gone", result.failed_at, result.back_at),
        Phase("Redis is back, PostgreSQL decides", result.back_at, recovered_at),
        Phase("Redis decides again", recovered_at, result.ended_at),
    ]
    result.phases = phase_figures(history, observed, phases)
    result.rate = success_rate(history)
    result.integrity = check_integrity(history, observed)


def epoch_at(history: History, observed: Observed, result: FailureResult) -> int:
    """The last epoch in which something had been accepted when Redis failed."""
    epochs = {row.key: row.epoch for row in observed.rows}
    return max(
        (
            epochs.get(intention.key, 0)
            for intention in history.intentions
            if (intention.accepted_at or result.ended_at) < result.failed_at
        ),
        default=0,
    )
