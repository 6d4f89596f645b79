"""What people are shown of a load, and with what the command ends."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.load.__main__ import main
from bench.load.figures import Cost, Figures, Percentiles, Second
from bench.load.generator import Counters
from bench.load.knee import Attempt, Knee
from bench.load.measure import AccountLine, Plan, StepResult
from bench.load.outcome import Change
from bench.load.processor import Shares, look, shares_between
from bench.load.progress import Progress
from bench.load.report import LoadResult, report_lines, summary_lines, write_load_report
from tests.drills.integrity import Check

RIGHT, WRONG = Check("balances", True, "12 accounts"), Check("balances", False, "a cent")


def step(
    accepted: int, *, due: int = 1_000, rate: float = 100, check: Check = RIGHT, late_us: int = 100,
    ramp_s: float = 0,
) -> StepResult:  # fmt: skip
    latency = Percentiles(accepted, 1_500, 2_500, 3_210, 9_990)
    figures = Figures(
        target_per_second=rate,
        duration_s=10,
        ramp_s=ramp_s,
        requests=due,
        transactions=due,
        sent=due,
        accepted=accepted,
        refused=due - accepted,
        errors=0,
        replays=0,
        achieved_per_second=accepted / 10,
        whole_per_second=accepted / 11,
        latency=latency._replace(p99_us=77_000),
        steady_latency=latency,
        words={"accepted": accepted},
        cost=Cost(31.5, 0.25, 50, late_us, late_us, 1, 0),
    )
    line = AccountLine("ACC001", 10_000, Change(500, 200, 3), 10_300)
    return StepResult(
        figures, [check], [line], [Second(0, 1, 1, 0, 0, 1, 1, 1)], [(1_500, accepted)]
    )


def result(*steps: StepResult, is_private: bool = True, **more: object) -> LoadResult:
    return LoadResult(
        title="A test", file_name="a_report", plan=Plan(("ACC001",)), place="a service",
        is_private=is_private,
        steps=steps, facts={"fsync": "on"}, **more,  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("accepted", "grade", "passed"),
    [
        (1_000, "Excellent", True),
        (900, "Excellent", True),
        (899, "Good", True),
        (700, "Good", True),
        (699, "Poor", False),
        (0, "Poor", False),
    ],
)
def test_grades_are_the_specifications(accepted: int, grade: str, passed: bool) -> None:
    found = result(step(accepted))
    assert found.rate.grade == grade
    assert found.passed is passed
    assert grade in summary_lines(found)[0]


def test_a_wrong_balance_fails_an_excellent_run() -> None:
    found = result(step(1_000), step(1_000, check=WRONG))
    assert not found.passed
    assert "* Balance integrity: Failed" in summary_lines(found)
    assert not result(step(1_000), extra_checks=[WRONG], extra_title="Manual test").passed
    assert not result().passed


def test_a_report_has_a_row_for_each_rate() -> None:
    lines = report_lines(result(step(1_000, rate=30), step(950, rate=1_000)))
    rows = [line for line in lines if line.startswith(("| 30 ", "| 1,000 "))]
    assert rows[0] == (
        "| 30 | 100.0 | 1,000 | 1,000 | 0 | 0 | 100.0 % | Excellent"
        " | 1.50 | 2.50 | 3.21 | 9.99 | Passed |"
    )
    assert "| 1,000 | 95.0 | 1,000 | 950 | 50 | 0 | 95.0 % |" in rows[1]
    assert "| ACC001 | 3 | 100.00 | 5.00 | 2.00 | 103.00 | 103.00 |" in lines
    assert "| fsync | on |" in lines
    assert (
        "| 30 | 1 | 31.5 | 0.25 | 0.05 | 0.10 | 0.10 | 0 | unknown | unknown | unknown |" in lines
    )


def test_a_ramp_is_told_apart_from_the_steady_part() -> None:
    text = "\n".join(report_lines(result(step(1_000, ramp_s=3))))
    assert "With its ramp of 3 s, 100 TPS gave 90.9 TPS over the whole run, p99 77.00 ms" in text
    assert "With its ramp" not in "\n".join(report_lines(result(step(1_000))))


def test_a_late_generator_is_a_warning() -> None:
    assert "Warning" in "\n".join(summary_lines(result(step(1_000, late_us=6_000))))
    assert "Warning" not in "\n".join(summary_lines(result(step(1_000, late_us=4_000))))


def test_other_programs_at_work_are_a_warning_where_they_can_be_told_apart() -> None:
    busy, quiet = (
        step(1_000)._replace(processor=Shares(1.9, our_cores, 0.05)) for our_cores in (1.4, 1.8)
    )
    text = "\n".join(report_lines(result(busy)))
    assert "other programs on this machine used 0.50 cores" in text
    assert "| 1.90 | 0.50 | 0.05 |" in text
    assert "Warning" not in "\n".join(summary_lines(result(quiet)))
    assert "Warning" not in "\n".join(summary_lines(result(busy, is_private=False)))


def test_the_processor_time_of_this_program_and_its_children_is_counted() -> None:
    before = look()
    child = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    subprocess.run([sys.executable, "-c", child], check=True)
    after = look()
    if before is None or after is None:
        pytest.skip("the system does not tell")
    assert 0.28 <= after.ours_s - before.ours_s <= 1
    shares = shares_between(before, after)
    assert shares is not None
    assert shares.our_cores <= shares.busy_cores + 0.2
    assert shares_between(None, before) is None


def test_a_search_is_graded_by_the_rate_it_found() -> None:
    knee = Knee((Attempt(100, ()), Attempt(200, ("p99 300 ms",))), 100, 200)
    steps = (step(1_000, rate=100), step(100, rate=200))
    found = result(*steps, knee=knee)
    assert found.passed
    lines = report_lines(found)
    assert "100 TPS is good, 200 TPS is not" in "\n".join(lines)
    assert "| 200 | bad | p99 300 ms |" in lines
    assert not result(*steps, knee=knee._replace(last_good=None)).passed


def test_raw_samples_stand_beside_the_report(tmp_path: Path) -> None:
    path = write_load_report(tmp_path, result(step(1_000)), raw=True)
    assert path.name.startswith("a_report_2")
    raw = json.loads(path.with_suffix(".json").read_text())
    assert raw["steps"][0]["latency_us"] == [[1_500, 1_000]]
    assert raw["steps"][0]["figures"]["cost"]["processes"] == 1
    assert (
        not write_load_report(tmp_path / "x", result(step(1)), raw=False)
        .with_suffix(".json")
        .exists()
    )


def test_without_a_terminal_progress_is_a_line_a_second() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    progress.begin("100 TPS", 2)
    for tenth in range(1, 21):
        progress.show(tenth / 10, Counters(0, tenth, tenth, 0, 0, 0, 0))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert "accepted 11" in lines[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["scenario", "--duplicates", "0.9"],
        ["scenario", "--rates", "0"],
        ["scenario", "--batch", "8001"],
        ["scenario", "--seconds", "3", "--ramp", "4"],
        ["nothing"],
        [],
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_starts(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
