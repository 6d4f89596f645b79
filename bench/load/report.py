"""A load test's report: Markdown for people, and the raw samples beside it as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.kit.money import decimal_text
from bench.load.figures import Figures
from bench.load.knee import Bounds, Knee
from bench.load.measure import Plan, StepResult
from bench.load.processor import OTHERS_MAX_CORES
from tests.drills.integrity import Check, all_passed
from tests.drills.load import EXPONENT
from tests.drills.report import SuccessRate, check_table, table, verdict, write_report

_POOR = "Poor"
_ACCOUNTS_SHOWN_MAX = 10
_LATENCY_NOTE = (
    "Latencies are of all answered requests, in ms from the instant each was meant to be sent; "
    "what waited for a free connection waited in its latency. Percentiles are exact."
)


@dataclass(frozen=True, kw_only=True)
class LoadResult:
    """Everything one command measured."""

    title: str
    file_name: str
    plan: Plan
    place: str
    is_private: bool
    steps: Sequence[StepResult]
    facts: Mapping[str, str]
    ceiling: Figures | None = None
    extra_checks: Sequence[Check] = ()
    extra_title: str = ""
    knee: Knee | None = None
    bounds: Bounds = field(default_factory=Bounds)

    @property
    def is_intact(self) -> bool:
        """Tell whether every check of every step passed."""
        return all_passed(check for step in self.steps for check in step.checks)

    @property
    def rate(self) -> SuccessRate:
        """Accepted transactions of all that were due; of a search, of the last good rate."""
        steps = self.steps
        if self.knee is not None:
            good = self.knee.last_good
            steps = [step for step in steps if step.figures.target_per_second == good][-1:]
        accepted = sum(step.figures.accepted for step in steps)
        return SuccessRate(accepted, sum(step.figures.transactions for step in steps))

    @property
    def passed(self) -> bool:
        """Tell whether the command ends with 0: balances exact, and not graded Poor."""
        extra = all(check.passed for check in self.extra_checks)
        return self.is_intact and extra and self.rate.grade != _POOR


def summary_lines(result: LoadResult) -> list[str]:
    """The verdicts, as the specification words them."""
    rate = result.rate
    lines = [
        f"* Success rate: {rate.text} of {rate.sendings:,} transactions: {rate.grade}",
        f"* Balance integrity: {verdict(result.is_intact)}",
    ]
    if result.extra_title:
        passed = all(check.passed for check in result.extra_checks)
        lines.append(f"* {result.extra_title}: {verdict(passed)}")
    if result.knee is not None:
        lines.append(f"* Knee: {_knee_text(result.knee)} ({result.bounds.text})")
    lines += [
        f"* Warning: at {step.figures.target_per_second:,.0f} TPS other programs on this machine"
        f" used {step.processor.other_cores:.2f} cores: these figures are not the service's alone"
        for step in result.steps
        if result.is_private and step.processor and step.processor.other_cores > OTHERS_MAX_CORES
    ]
    late = [step.figures for step in result.steps if step.figures.cost.was_the_limit]
    lines += [
        f"* Warning: at {figures.target_per_second:,.0f} TPS the generator itself was late (p99"
        f" {_ms(figures.cost.lateness_p99_us)} ms): these figures are not the service's alone"
        for figures in late
    ]
    return lines


def step_table(steps: Sequence[StepResult]) -> list[str]:
    """One row for each rate."""
    titles = (
        "target TPS", "achieved TPS", "requests sent", "accepted", "refused", "errors", "success",
        "grade", "p50 ms", "p95 ms", "p99 ms", "max ms", "integrity",
    )  # fmt: skip
    return table(titles, [_step_row(step) for step in steps])


def _step_row(step: StepResult) -> tuple[object, ...]:
    figures = step.figures
    rate = SuccessRate(figures.accepted, figures.transactions)
    latency = figures.steady_latency
    return (
        f"{figures.target_per_second:,.0f}",
        f"{figures.achieved_per_second:,.1f}",
        f"{figures.sent:,}",
        f"{figures.accepted:,}",
        f"{figures.refused:,}",
        f"{figures.errors:,}",
        rate.text,
        rate.grade,
        *(_ms(value) for value in (latency.p50_us, latency.p95_us, latency.p99_us, latency.max_us)),
        verdict(step.is_intact),
    )


def report_lines(result: LoadResult) -> list[str]:
    """The whole report, line by line."""
    lines = [f"# {result.title}", "", f"On {result.place}.", "", *summary_lines(result), ""]
    if result.extra_title:
        lines += [f"## {result.extra_title}", "", *check_table(result.extra_checks), ""]
    if result.steps:
        lines += ["## Rates", "", *step_table(result.steps), "", _LATENCY_NOTE, *_ramp_note(result)]
    if result.knee is not None:
        lines += ["", "## Search for the knee", "", *_knee_table(result.knee)]
    for step in result.steps:
        lines += ["", *_step_lines(step)]
    lines += ["", "## Generator", "", *_generator_lines(result)]
    lines += ["", "## Load, settings and machine", "", *table(("what", "value"), _facts(result))]
    return lines


def write_load_report(folder: Path, result: LoadResult, *, raw: bool) -> Path:
    """Write the report, with `raw` also every sample beside it; returns the report's path."""
    path = write_report(folder, result.file_name, report_lines(result))
    if raw:
        path.with_suffix(".json").write_text(json.dumps(raw_samples(result)) + "\n")
    return path


def raw_samples(result: LoadResult) -> dict[str, Any]:
    """Everything measured; latencies as pairs of microseconds and how many had them."""
    return {
        "title": result.title,
        "place": result.place,
        "plan": {**result.plan._asdict(), "accounts": len(result.plan.accounts)},
        "facts": dict(result.facts),
        "ceiling": _figures(result.ceiling) if result.ceiling else None,
        "knee": result.knee._asdict() if result.knee else None,
        "steps": [
            {
                "figures": _figures(step.figures),
                "checks": [check._asdict() for check in step.checks],
                "seconds": [second._asdict() for second in step.seconds],
                "latency_us": step.latencies,
                "processor": step.processor._asdict() if step.processor else None,
            }
            for step in result.steps
        ],
    }


def _figures(figures: Figures) -> dict[str, Any]:
    parts = ("latency", "steady_latency", "cost")
    return figures._asdict() | {name: getattr(figures, name)._asdict() for name in parts}


def _step_lines(step: StepResult) -> list[str]:
    figures = step.figures
    words = ", ".join(f"{word} {count:,}" for word, count in sorted(figures.words.items()))
    lines = [
        f"## {figures.target_per_second:,.0f} TPS for {figures.duration_s:g} s",
        "",
        f"Requests: {words}. Transactions that were repetitions: {figures.replays:,}."
        + _worst_second(step),
        "",
        *check_table(step.checks),
    ]
    if len(step.accounts) <= _ACCOUNTS_SHOWN_MAX:
        lines += ["", *_account_table(step)]
    return lines


def _worst_second(step: StepResult) -> str:
    """The second in which it took longest, which the percentiles of a long run hide."""
    worst = max(step.seconds, key=lambda second: second.p99_us, default=None)
    if worst is None:
        return ""
    return (
        f" Slowest second, of {len(step.seconds)}: number {worst.second}, p99 {_ms(worst.p99_us)}"
        f" ms, max {_ms(worst.max_us)} ms."
    )


def _account_table(step: StepResult) -> list[str]:
    titles = ("account", "transactions", "opening", "credits", "debits", "expected", "API balance")
    return table(
        titles,
        [
            (
                line.account_id,
                f"{line.change.transactions:,}",
                _money(line.opening_minor),
                _money(line.change.credits_minor),
                _money(line.change.debits_minor),
                _money(line.opening_minor + line.change.change_minor),
                "none" if line.found_minor is None else _money(line.found_minor),
            )
            for line in step.accounts
        ],
    )


def _ramp_note(result: LoadResult) -> list[str]:
    """What the whole run gives where a ramp is part of it; the table is of the steady part."""
    return [
        f"With its ramp of {figures.ramp_s:g} s, {figures.target_per_second:,.0f} TPS gave"
        f" {figures.whole_per_second:,.1f} TPS over the whole run, p99"
        f" {_ms(figures.latency.p99_us)} ms; the table shows the steady part."
        for figures in (step.figures for step in result.steps)
        if figures.ramp_s
    ]


def _generator_lines(result: LoadResult) -> list[str]:
    titles = (
        "target TPS", "processes", "CPU µs/request", "cores used",
        "late p50 ms", "late p99 ms", "late max ms", "reconnects",
        "machine busy, cores", "other programs, cores", "withheld, cores",
    )  # fmt: skip
    rows = [
        (
            f"{figures.target_per_second:,.0f}",
            figures.cost.processes,
            f"{figures.cost.cpu_us_per_request:.1f}",
            f"{figures.cost.cores:.2f}",
            _ms(figures.cost.lateness_p50_us),
            _ms(figures.cost.lateness_p99_us),
            _ms(figures.cost.lateness_max_us),
            figures.cost.reconnects,
            *_processor_cells(step, result.is_private),
        )
        for step, figures in ((step, step.figures) for step in result.steps)
    ]
    lines = table(titles, rows) if rows else []
    if result.ceiling is not None:
        rate, cost = result.ceiling.achieved_per_second, result.ceiling.cost
        text = f"{rate:,.0f} requests/s, {cost.cpu_us_per_request:.1f} µs of CPU each"
        lines += ["", f"Ceiling against a server that answers at once, on this machine: {text}."]
    return lines


def _processor_cells(step: StepResult, is_private: bool) -> tuple[str, str, str]:
    """Who else was at work; a running service cannot be told apart from others."""
    shares = step.processor
    if shares is None:
        return ("unknown", "unknown", "unknown")
    others = f"{shares.other_cores:.2f}"
    return (
        f"{shares.busy_cores:.2f}",
        others if is_private else f"{others}, the service among them",
        f"{shares.stolen_cores:.2f}",
    )


def _knee_text(knee: Knee) -> str:
    if knee.last_good is None:
        return "no rate was good"
    if knee.first_bad is None:
        return f"above {knee.last_good:,.0f} TPS, the highest tried"
    return f"{knee.last_good:,.0f} TPS is good, {knee.first_bad:,.0f} TPS is not"


def _knee_table(knee: Knee) -> list[str]:
    return table(
        ("tried TPS", "result", "went past"),
        [
            (
                f"{attempt.per_second:,.0f}",
                "good" if attempt.is_good else "bad",
                ", ".join(attempt.passed_bounds),
            )
            for attempt in knee.attempts
        ],
    )


def _facts(result: LoadResult) -> list[tuple[str, str]]:
    plan = result.plan
    names = f"{len(plan.accounts):,}"
    if len(plan.accounts) <= _ACCOUNTS_SHOWN_MAX:
        names = ", ".join(plan.accounts)
    keys = "random" if plan.random_keys else "in order of sending"
    load = [
        ("accounts", names),
        ("shares", f"credits {plan.credit_share:.0%}, hot account {_hot(plan)}"),
        ("idempotency keys", f"on every request, {keys}; {plan.duplicates:.1%} sent again"),
        ("transactions per request", str(plan.batch or 1)),
        ("connections", f"{plan.connections}, waiting at most {plan.backlog_max:,}"),
    ]
    return load + list(result.facts.items())


def _hot(plan: Plan) -> str:
    if len(plan.accounts) == 1:
        return "100%"
    return f"{plan.hot_share:.0%}" if plan.hot_share else "none, equal shares"


def _money(amount_minor: int) -> str:
    return decimal_text(amount_minor, EXPONENT)


def _ms(value_us: int) -> str:
    return f"{value_us / 1_000:,.2f}"
