"""A report says what was measured and what of it is not flat."""

import json
from pathlib import Path

import pytest

from bench.growth.curve import Point, Report, count, earlier_points, steps_left


def report(*rates: tuple[str, float, float]) -> Report:
    points = [
        Point("load", step, number, {"tx/s": rate, "cost": cost})
        for number in range(3)
        for step, rate, cost in rates
    ]
    return Report("some", "Some", {"load": "wrk"}, points, ("tx/s",))


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (5, "5"), (10_000, "10k"), (1_000_000, "1M"), (1_500, "1500")]
)
def test_counts_are_short(number: int, text: str) -> None:
    assert count(number) == text


def test_a_step_is_the_median_of_its_rounds() -> None:
    points = [
        Point("load", "1", number, {"tx/s": rate}) for number, rate in enumerate((9.0, 1.0, 5.0))
    ]
    assert Report("some", "Some", {}, points, ()).medians("load") == {"tx/s": [5.0]}


def test_the_page_names_what_is_not_flat() -> None:
    page = report(("1", 1_000, 10), ("1M", 990, 31)).page()
    assert "| tx/s | 1,000 | 990 | 0.99 | yes |" in page
    assert "| cost | 10 | 31 | 3.10 | **no** |" in page


def test_all_three_files_are_written_and_can_be_gone_on_with(tmp_path: Path) -> None:
    first = report(("1", 1_000, 10))
    first.write(tmp_path)
    raw = json.loads((tmp_path / "growth-some.json").read_text())
    assert len(raw["samples"]) == 3
    assert (tmp_path / "growth-some.svg").read_text().startswith("<svg")
    earlier = earlier_points(tmp_path, "some")
    assert earlier == first.points
    both = first._replace(points=[*earlier, *report(("1M", 500, 20)).points])
    assert "| tx/s | 1,000 | 500 | 0.50 | **no** |" in both.page()
    assert earlier_points(tmp_path, "other") == []


def test_a_run_goes_on_after_the_last_step_that_was_measured() -> None:
    steps = (0, 1_000_000, 10_000_000, 100_000_000)
    measured = [Point("load", step, 0, {}) for step in ("0", "10M")]
    assert steps_left(steps, 10**9, measured) == [100_000_000]
    assert steps_left(steps, 10_000_000, measured) == []
    assert steps_left(steps, 1_000_000, []) == [0, 1_000_000]


def test_a_figure_that_is_missing_at_a_step_is_not_plotted() -> None:
    points = [Point("load", "1", 0, {"tx/s": 1.0}), Point("load", "2", 0, {"cost": 1.0})]
    assert "<circle" not in Report("some", "Some", {}, points, ("tx/s", "cost")).plot()
