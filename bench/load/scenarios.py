"""The specification's tests and freely chosen loads, each from a service to a result."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from bench.load.accounts import MULTI, SINGLE, account_names, provide
from bench.load.generator import Generator
from bench.load.knee import Bounds, Search, find_knee
from bench.load.ledger import Ledger
from bench.load.manual import hold_manual_test
from bench.load.measure import Bench, Plan, StepResult
from bench.load.progress import Progress
from bench.load.report import LoadResult
from bench.load.service import Place, Service, open_service
from bench.load.surroundings import describe, knows
from tests.drills.integrity import Check

TPS_RATES = (10, 30, 50, 100)
MULTI_RATES = (10, 20, 30, 50, 100, 200, 300)
_SPECIFIED_S, _SIMPLE_S, _SHORT_S = 10.0, 5.0, 2.0
_KNOWS_TRIES = 5


class Test(NamedTuple):
    """One of the specification's tests; `each` waits for settlement after each rate."""

    title: str
    file_name: str
    accounts: tuple[str, ...]
    rates: tuple[int, ...]
    duration_s: float
    each: bool = True
    manual: bool = False


TESTS = {
    "test-simple": Test(
        "Simple test of a single account",
        "tps_simple_report",
        (SINGLE,),
        TPS_RATES[:1],
        _SIMPLE_S,
        manual=True,
    ),
    "test-tps": Test(
        "Comprehensive TPS test of a single account",
        "tps_comprehensive_report",
        (SINGLE,),
        TPS_RATES,
        _SPECIFIED_S,
    ),
    "test-short": Test(
        "Short TPS test of a single account",
        "tps_short_report",
        (SINGLE,),
        TPS_RATES,
        _SHORT_S,
        each=False,
    ),
    "test-multi": Test(
        "TPS test of five accounts in equal shares",
        "multi_account_simple_report",
        MULTI,
        MULTI_RATES,
        _SPECIFIED_S,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every measuring command may be told."""

    place: Place = field(default_factory=Place)
    output: Path = Path("reports")
    processes: int = 1
    ceiling: bool = True


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A freely chosen load; with `search` the rate is looked for instead of given."""

    rates: tuple[float, ...]
    duration_s: float
    ramp_s: float
    account_count: int
    plan: Plan
    search: Search | None = None
    confirm_s: float = 0.0
    bounds: Bounds = field(default_factory=Bounds)


async def hold_test(test: Test, settings: Settings, progress: Progress) -> LoadResult:
    """Hold one of the specification's tests."""
    async with _service(settings, progress) as (opened, ledger):
        plan = Plan(test.accounts)
        due = sum(test.rates) * round(test.duration_s)
        least_minor = plan.debits_most_minor(due)
        await provide(ledger, test.accounts, private=opened.is_private, least_minor=least_minor)
        service = await _with_known_servers(opened, ledger, test.accounts)
        manual: Sequence[Check] = ()
        if test.manual:
            manual = await hold_manual_test(ledger, progress.say)
        with Generator(settings.processes) as generator:
            bench = Bench(service, ledger, generator, plan, progress)
            ceiling = await bench.ceiling() if settings.ceiling else None
            steps = []
            for rate in test.rates:
                last = rate == test.rates[-1]
                thorough = test.each or last
                step = await bench.measure(rate, test.duration_s, thorough=thorough)
                steps.append(_told(step, progress))
        return LoadResult(
            title=test.title,
            file_name=test.file_name,
            plan=plan,
            place=service.text,
            is_private=service.is_private,
            steps=steps,
            facts=await describe(service),
            ceiling=ceiling,
            extra_checks=manual,
            extra_title="Manual test" if test.manual else "",
        )


async def hold_scenario(scenario: Scenario, settings: Settings, progress: Progress) -> LoadResult:
    """Hold a freely chosen load, or look for the knee of one."""
    async with _service(settings, progress) as (opened, ledger):
        plan = scenario.plan._replace(accounts=account_names(scenario.account_count, opened))
        progress.say(f"{len(plan.accounts):,} accounts ...")
        due = round(max(scenario.rates, default=0) * scenario.duration_s * len(scenario.rates))
        await provide(
            ledger,
            plan.accounts,
            private=opened.is_private,
            least_minor=plan.debits_most_minor(due),
        )
        service = await _with_known_servers(opened, ledger, plan.accounts)
        with Generator(settings.processes) as generator:
            bench = Bench(service, ledger, generator, plan, progress)
            ceiling = await bench.ceiling() if settings.ceiling else None
            result = LoadResult(
                title="Load scenario",
                file_name="load_scenario_report",
                plan=plan,
                place=service.text,
                is_private=service.is_private,
                steps=[],
                facts=await describe(service),
                ceiling=ceiling,
                bounds=scenario.bounds,
            )
            if scenario.search is not None:
                return await _search(scenario, scenario.search, bench, result, progress)
            steps = []
            for place, rate in enumerate(scenario.rates):
                last = place == len(scenario.rates) - 1
                step = await bench.measure(
                    rate, scenario.duration_s, scenario.ramp_s, thorough=last
                )
                steps.append(_told(step, progress))
            return replace(result, steps=steps)


async def _search(
    scenario: Scenario, search: Search, bench: Bench, result: LoadResult, progress: Progress
) -> LoadResult:
    """Look for the knee; each rate is checked at once, and everything after the last."""
    steps: list[StepResult] = []

    async def run(per_second: float, duration_s: float, *, thorough: bool) -> list[str]:
        ramp_s = scenario.ramp_s
        step = await bench.measure(per_second, duration_s, ramp_s, thorough=thorough)
        steps.append(_told(step, progress))
        return scenario.bounds.passed_by(step.figures)

    async def measure(per_second: float) -> list[str]:
        return await run(per_second, scenario.duration_s, thorough=False)

    async def confirm(per_second: float) -> list[str]:
        return await run(per_second, scenario.confirm_s, thorough=True)

    knee = await find_knee(measure, confirm, search)
    return replace(
        result, title="Search for the knee", file_name="load_knee_report", steps=steps, knee=knee
    )


@asynccontextmanager
async def _service(settings: Settings, progress: Progress) -> AsyncIterator[tuple[Service, Ledger]]:
    """Open the service and say which it is."""
    begun = time.monotonic()
    async with open_service(settings.place, progress.say) as service:
        progress.say(f"on {service.text}, ready after {time.monotonic() - begun:.1f} s")
        ledger = Ledger(service.urls[0])
        try:
            yield service, ledger
        finally:
            await ledger.close()


async def _with_known_servers(
    service: Service, ledger: Ledger, account_ids: Sequence[str]
) -> Service:
    """Forget the servers' addresses when they are another service's."""
    if service.is_private or not service.database_url:
        return service
    for _ in range(_KNOWS_TRIES):
        # A settlement may come between the two readings.
        if await knows(service, await ledger.balances(account_ids)):
            return service
    return replace(service, database_url="", redis_url="")


def _told(step: StepResult, progress: Progress) -> StepResult:
    """Say in a line how a rate went."""
    figures, latency = step.figures, step.figures.steady_latency
    wrong = [check for check in step.checks if not check.passed]
    progress.say(
        f"{figures.target_per_second:>10,.0f} TPS: {figures.achieved_per_second:,.1f} achieved,"
        f" {figures.success_share:.1%} accepted, {figures.refused:,} refused,"
        f" {figures.errors:,} errors, p50 {latency.p50_us / 1_000:.1f} p95"
        f" {latency.p95_us / 1_000:.1f} p99 {latency.p99_us / 1_000:.1f} max"
        f" {latency.max_us / 1_000:.1f} ms, integrity {'Failed' if wrong else 'Passed'}"
    )
    for check in wrong:
        progress.say(f"    {check.name}: {check.detail}")
    return step
