"""One load on one service, from its first request to the proof of its balances."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from bench.load.figures import Figures, Second, figures_of, latency_counts, seconds_of
from bench.load.generator import Generator, Show
from bench.load.integrity import (
    Rows,
    check_balances,
    check_entry_count,
    check_keys,
    check_known,
    check_parts,
    check_repeats,
    check_row_counts,
    check_verified,
    money_minor,
)
from bench.load.ledger import Ledger
from bench.load.mix import AMOUNT_MINOR_MAX, Mix, Requests
from bench.load.outcome import Change, Promised, changes_of, promised_by, resolve
from bench.load.processor import Shares, look, shares_between
from bench.load.progress import Progress
from bench.load.record import Record
from bench.load.schedule import Schedule
from bench.load.sender import Job, jobs_for
from bench.load.service import Service
from bench.load.surroundings import rows_of
from bench.load.trivial_server import trivial_server
from tests.drills.integrity import Check, all_passed
from tests.drills.observed import Balance

_OK = 200
_SETTLED_TIMEOUT_S = 180.0
_PROOFS_MAX = 5
_KEYS_ACCEPTED_MAX, _KEYS_REFUSED_MAX = 100, 20
# A repetition follows its original after this long, so that some meet it still under way.
_REPEAT_AFTER_S = 0.02
_CEILING_PER_SECOND, _CEILING_S = 120_000.0, 1.0


class Plan(NamedTuple):
    """What kind of load it is, at whatever rate."""

    accounts: tuple[str, ...]
    credit_share: float = 0.5
    hot_share: float = 0.0
    duplicates: float = 0.0
    batch: int = 0
    random_keys: bool = False
    connections: int = 64
    backlog_max: int = 20_000
    timeout_s: float = 20.0

    def debits_most_minor(self, transactions: int) -> int:
        """More than any account can be debited by so many transactions."""
        return transactions * AMOUNT_MINOR_MAX


class AccountLine(NamedTuple):
    """One account over one run."""

    account_id: str
    opening_minor: int
    change: Change
    found_minor: int | None


class StepResult(NamedTuple):
    """One rate, measured and checked."""

    figures: Figures
    checks: list[Check]
    accounts: list[AccountLine]
    seconds: list[Second]
    latencies: list[tuple[int, int]]
    processor: Shares | None = None

    @property
    def is_intact(self) -> bool:
        """Tell whether every check passed."""
        return all_passed(self.checks)


class Before(NamedTuple):
    """What the service held before a run."""

    balances: dict[str, Balance]
    rows: dict[str, Rows] | None
    proof: Mapping[str, Any]


class Bench:
    """Runs loads of one plan on one service, one rate after the other."""

    def __init__(
        self,
        service: Service,
        ledger: Ledger,
        generator: Generator,
        plan: Plan,
        progress: Progress,
    ) -> None:
        self._service, self._ledger, self._generator = service, ledger, generator
        self.plan, self._progress = plan, progress
        self._runs = 0

    async def measure(
        self, per_second: float, duration_s: float, ramp_s: float = 0.0, *, thorough: bool = True
    ) -> StepResult:
        """Load the service at a rate of transactions; `thorough` waits for settlement and proof."""
        plan = self.plan
        self._runs += 1
        mix = self._mix(per_second)
        schedule = Schedule(per_second / mix.items, duration_s, ramp_s)
        before = await self._look(thorough=thorough)
        used = look()
        self._progress.begin(f"{per_second:,.0f} TPS", duration_s)
        records = await self._send(self._service.urls, schedule, mix, self._progress.show)
        shares = shares_between(used, look())
        figures = figures_of(records, schedule, mix.items)
        requests = Requests(mix)
        told = promised_by(records, requests, schedule.request_count)
        promised = await resolve(told, requests, self._ledger)
        changes = changes_of(promised, requests)
        checks = [check_repeats(promised), check_known(promised, len(told.unknown))]
        found = await self._ledger.balances(plan.accounts)
        checks += _check_found(before, changes, found, settled=False)
        if thorough:
            found = await self._ledger.settled_balances(plan.accounts, _SETTLED_TIMEOUT_S)
            checks += _check_found(before, changes, found, settled=True)
            checks += await self._check_rows(before, changes, promised, requests)
        return StepResult(
            figures,
            checks,
            [
                _line(name, before.balances[name], change, found.get(name))
                for name, change in changes.items()
            ],
            seconds_of(records, schedule),
            latency_counts(records),
            shares,
        )

    async def ceiling(self) -> Figures:
        """What the generator can do against a server that answers at once."""
        schedule = Schedule(_CEILING_PER_SECOND, _CEILING_S)
        with trivial_server() as url:
            mix = self._mix(_CEILING_PER_SECOND)._replace(batch=0, duplicates=0.0)
            records = await self._send((url,), schedule, mix, lambda _at_s, _counters: None)
        return figures_of(records, schedule, 1)

    async def _send(
        self, urls: tuple[str, ...], schedule: Schedule, mix: Mix, show: Show
    ) -> list[Record]:
        """Have the generator send a load; returns what became of it."""
        plan = self.plan
        job = Job(
            urls,
            plan.connections,
            schedule,
            mix,
            backlog_max=plan.backlog_max,
            timeout_s=plan.timeout_s,
        )
        return await self._generator.run(jobs_for(job, self._generator.processes), show)

    def _mix(self, per_second: float) -> Mix:
        plan, processes = self.plan, self._generator.processes
        items = plan.batch or 1
        apart = max(1, round(per_second / items * _REPEAT_AFTER_S / processes))
        return Mix(
            run=f"load-{time.time_ns():x}-{self._runs}",
            accounts=plan.accounts,
            credit_share=plan.credit_share,
            hot_share=plan.hot_share,
            duplicates=plan.duplicates,
            repeat_after=apart * processes,
            batch=plan.batch,
            random_keys=plan.random_keys,
        )

    async def _look(self, *, thorough: bool) -> Before:
        balances = await self._ledger.balances(self.plan.accounts)
        if not thorough:
            return Before(balances, None, {})
        rows = await rows_of(self._service, self.plan.accounts)
        return Before(balances, rows, await self._proof())

    async def _check_rows(
        self,
        before: Before,
        changes: Mapping[str, Change],
        promised: Promised,
        requests: Requests,
    ) -> list[Check]:
        """Count the rows in each way there is, look keys up, and have the service prove it all."""
        checks = []
        rows = await rows_of(self._service, self.plan.accounts)
        if before.rows is not None and rows is not None:
            checks.append(check_row_counts(before.rows, rows, changes))
        proof = await self._proof()
        alone = self._service.is_private
        checks.append(check_entry_count(before.proof, proof, changes, alone=alone))
        if not self.plan.batch:
            checks.append(await self._check_keys(promised, requests))
        checks.append(check_verified(proof))
        return checks

    async def _check_keys(self, promised: Promised, requests: Requests) -> Check:
        async def is_there(number: int) -> bool:
            answer = await self._ledger.find(requests.key(number).decode())
            asked = requests.body(number)
            return answer.status == _OK and {name: answer.body.get(name) for name in asked} == asked

        accepted = spread(promised.accepted_numbers, _KEYS_ACCEPTED_MAX)
        refused = spread(promised.refused, _KEYS_REFUSED_MAX)
        return check_keys(
            promised,
            dict(zip(accepted, await self._ledger.for_each(accepted, is_there), strict=True)),
            dict(zip(refused, await self._ledger.for_each(refused, is_there), strict=True)),
        )

    async def _proof(self) -> Mapping[str, Any]:
        """A proof of everything, or the last one when the history is too long for one."""
        for _ in range(_PROOFS_MAX):
            proof = await self._ledger.verify()
            if proof.get("complete", True) or proof.get("mismatches"):
                break
        return proof


def spread(numbers: Sequence[int], count_max: int) -> list[int]:
    """At most so many of a sequence, evenly spread over it, the first and the last among them."""
    if len(numbers) <= count_max:
        return list(numbers)
    last = len(numbers) - 1
    return [numbers[place * last // (count_max - 1)] for place in range(count_max)]


def _check_found(
    before: Before,
    changes: Mapping[str, Change],
    found: Mapping[str, Balance],
    *,
    settled: bool,
) -> list[Check]:
    return [
        check_balances(before.balances, changes, found),
        check_parts(before.balances, found, settled=settled),
    ]


def _line(account_id: str, opening: Balance, change: Change, found: Balance | None) -> AccountLine:
    found_minor = None if found is None else money_minor(found)
    return AccountLine(account_id, money_minor(opening), change, found_minor)
