"""What it costs to count and time: two API processes of one ledger, with metrics and without.

They are driven in turns, in short samples, and each pair of neighbours gives a ratio: what the
machine does meanwhile befalls both. Beside throughput it compares the CPU time of the process per
request, which other programs disturb less.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

from app.ledger.codes import Mode
from bench.compare.contestants import Ledger, Say, Service, measured, open_accounts, warm_up
from bench.compare.plan import in_turns
from bench.compare.samples import Cell, Sample
from bench.compare.stage import Stage

ON, OFF = "with metrics", "without metrics"
CONNECTIONS = 256
PAIRS_A_ROUND = 8
_SETTING = {ON: "true", OFF: "false"}
_USER, _SYSTEM = 11, 12


class Turn(NamedTuple):
    """A sample, and the CPU time of the process for each request of it."""

    sample: Sample
    cpu_us: float


def measure_observation(stage: Stage, rounds: int, seconds: float, say: Say) -> list[Turn]:
    """Drive both in turns; every sample's books are checked."""
    open_accounts(stage, 1)
    environment = {
        "DATABASE_URL": stage.database_url(stage.schema_database),
        "REDIS_URL": stage.own_redis(),
    }
    ledger = Ledger(stage, "observation", Mode.REDIS, environment)
    cells = [Cell(name, 1, CONNECTIONS) for name in (ON, OFF)]
    services = {
        name: Service(ledger, f"observation-{value}", {"SUBBALANCE_METRICS": value})
        for name, value in _SETTING.items()
    }
    for cell in cells:
        warm_up(services[cell.competitor], cell)
    return [
        _turn(services[cell.competitor], cell, number, seconds, say)
        for number in range(1, PAIRS_A_ROUND * rounds + 1)
        for cell in in_turns(cells, number)
    ]


def lines(turns: Sequence[Turn]) -> list[str]:
    """Write the medians, and the ratios of pairs with their quartiles."""
    by_name = {
        name: [turn for turn in turns if turn.sample.cell.competitor == name] for name in (ON, OFF)
    }
    table = ["| | tx/s, median | p99 ms, median | CPU µs a request, median |", "|---|---|---|---|"]
    for name, own in by_name.items():
        rate = median(turn.sample.per_second for turn in own)
        late = median(turn.sample.figures.p99_us for turn in own) / 1_000
        table.append(
            f"| {name} | {rate:,.0f} | {late:.1f} | {median(turn.cpu_us for turn in own):.2f} |"
        )
    pairs = list(zip(by_name[ON], by_name[OFF], strict=True))
    rates = [on.sample.per_second / off.sample.per_second for on, off in pairs]
    costs = [on.cpu_us / off.cpu_us for on, off in pairs]
    table += ["", f"Ratios, {ON} to {OFF}, over {len(pairs)} pairs:", ""]
    table += ["| | lower quartile | median | upper quartile |", "|---|---|---|---|"]
    for what, ratios in (("throughput", rates), ("CPU a request", costs)):
        low, middle, high = quantiles(ratios, n=4)
        table.append(f"| {what} | {low:.3f} | {middle:.3f} | {high:.3f} |")
    return table


def _turn(service: Service, cell: Cell, number: int, seconds: float, say: Say) -> Turn:
    before = cpu_s(service.api.pid)
    sample = measured(service, cell, number, seconds, say)
    spent = cpu_s(service.api.pid) - before
    return Turn(sample, 1e6 * spent / sample.figures.accepted)


def cpu_s(pid: int) -> float:
    """The CPU time that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[_USER]) + int(fields[_SYSTEM])) / os.sysconf("SC_CLK_TCK")
