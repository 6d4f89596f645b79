"""A short run of the chaos kit, and what it relies on: its plan and its labelled points."""

import tempfile
from pathlib import Path

import pytest

from tests.chaos.run import Options, run_private
from tests.chaos.schedule import Cast, Kind, plan

CAST = Cast(("api1", "api2"), ("worker1", "worker2"))
SHORT = Options(seconds=7.0, gap_s=0.3, clients=16, rate=200.0, cold_accounts=40, timing="short")
# Between them they plan every kind of fault.
SEEDS = (3088, 8074)
CALLS = {"admit", "confirm", "load", "open", "refresh", "journal_batch", "settle_chunk"}


def test_a_seed_is_a_plan() -> None:
    first, second = (plan(5, 30.0, CAST) for _ in range(2))
    assert first == second
    assert len(first) > 10
    assert plan(6, 30.0, CAST) != first
    assert {fault.kind for fault in plan(5, 30.0, CAST, [Kind.API_KILL])} == {Kind.API_KILL}
    assert plan(5, 30.0, CAST, []) == []


def test_the_short_runs_plan_every_kind_of_fault() -> None:
    planned = [plan(seed, SHORT.seconds, CAST, SHORT.kinds, SHORT.gap_s) for seed in SEEDS]
    assert {fault.kind for faults in planned for fault in faults} == set(Kind)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", SEEDS)
def test_under_faults_nothing_is_lost_doubled_or_overdrawn(seed: int) -> None:
    with tempfile.TemporaryDirectory(prefix="sb-chaos-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        report = run_private(seed, SHORT, folder)
    print(report.text())
    assert report.is_clean, report.text()
    assert report.rows
    assert sum(report.faults.values())
    unseen = CALLS - report.calls.keys()
    assert not unseen, f"the kit no longer recognises {unseen}"
