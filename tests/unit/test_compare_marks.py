"""The table of a comparison and the marks: every figure is computed from samples."""

import pytest

from bench.compare.marks import Alone, Mark, lines, marks
from bench.compare.samples import EMPTY, NAIVE, POSTGRES_MODE, ROW_LOCKS, SERVICE, Cell, Median
from bench.compare.table import MISSING
from bench.compare.table import lines as table_lines


def median(rate: float, p50_ms: float = 1.0) -> Median:
    return Median(rate, rate, rate, p50_ms, 2 * p50_ms, 3 * p50_ms)


MEASURED = {
    Cell(ROW_LOCKS, 1, 8): median(4_000),
    Cell(ROW_LOCKS, 1, 64): median(1_000),
    Cell(ROW_LOCKS, 10_000, 32): median(10_000),
    Cell(ROW_LOCKS, 10_000, 64): median(8_000),
    Cell(NAIVE, 1, 1): median(1_000, 2.0),
    Cell(NAIVE, 1, 64): median(2_000),
    Cell(EMPTY, 1, 64): median(20_000),
    Cell(SERVICE, 1, 1): median(1_000, 1.5),
    Cell(SERVICE, 1, 64): median(16_000),
    Cell(POSTGRES_MODE, 1, 64): median(10_000),
    Cell(SERVICE, 10_000, 64): median(14_000),
    Cell(SERVICE, 1, 4, 1_000): median(90_000),
    Cell(SERVICE, 1, 16, 1_000): median(131_000),
    Cell(SERVICE, 1, 4, 1_000, "item"): median(49_999),
    Cell(SERVICE, 1, 4, 1_000, "item", "msgpack"): median(70_000),
}


def verdicts(alone: Alone | None = None) -> dict[str, tuple[float | None, str]]:
    return {each.demand: (each.obtained, each.verdict) for each in marks(MEASURED, {}, alone)}


def found(part: str, alone: Alone | None = None) -> tuple[float | None, str]:
    (verdict,) = [each for demand, each in verdicts(alone).items() if part in demand]
    return verdict


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("64 connections: times row locks at 64", (16.0, "met")),
        ("64 connections: times naive", (8.0, "met")),
        ("one hot account, 64 connections: share", (0.8, "met")),
        ("one hot account, 256 connections: share", (None, "not measured")),
        ("10,000 accounts, 64 connections", (1.4, "NOT met")),
        ("a key per request", (131_000, "met, stretch too")),
        ("a key per item", (49_999, "NOT met")),
        ("p50 to that of naive", (0.75, "met")),
        ("same code unbatched", (None, "not measured")),
    ],
)
def test_a_mark_is_the_ratio_that_was_measured(
    part: str, expected: tuple[float | None, str]
) -> None:
    assert found(part) == expected


@pytest.mark.parametrize(
    ("alone", "verdict"),
    [
        (Alone(0.98, 0.9, 1.02, 16), "met"),
        (Alone(1.02, 0.97, 1.05, 16), "met within the noise"),
        (Alone(1.05, 1.01, 1.1, 16), "NOT met"),
    ],
)
def test_one_connection_is_judged_with_its_noise(alone: Alone, verdict: str) -> None:
    assert found("same code unbatched", alone) == (alone.p50_ratio, verdict)


def test_a_mark_just_missed_is_not_met() -> None:
    assert Mark("rate", "", 79_999.9, 80_000).verdict == "NOT met"
    assert Mark("rate", "", 80_000, 80_000).verdict == "met"


def test_ceilings_stand_beside_the_marks_of_their_kind_of_key() -> None:
    limits = {"Redis, a key per request": 1.0, "PostgreSQL, a key per item": 2.0}
    notes = {each.demand: each.note for each in marks(MEASURED, limits, None) if each.note}
    assert sorted(notes.values()) == [
        "PostgreSQL, a key per item: 2/s",
        "Redis, a key per request: 1/s",
    ]


def test_a_line_has_its_ratio_to_each_rival() -> None:
    (line,) = [
        line for line in table_lines(MEASURED, {}) if f"| 1 | single | 64 | {SERVICE} |" in line
    ]
    assert line.split("|")[-6:-1] == [" 16.00 ", " 4.00 ", " 8.00 ", " 0.80 ", " 1.60 "]


def test_a_ratio_to_what_was_not_measured_is_missing() -> None:
    alone = Cell(SERVICE, 5, 100)
    (line,) = [
        line for line in table_lines({**MEASURED, alone: median(10.0)}, {}) if "| 5 |" in line
    ]
    assert line.split("|")[-6:-1] == [f" {MISSING} "] * 5


def test_a_column_that_says_nothing_is_left_out() -> None:
    head, _, line = table_lines({Cell(SERVICE, 5, 64): median(10.0)}, {})
    assert head.count("|") == line.count("|") == 8
    assert "naive" not in head


def test_a_rival_that_is_missing_says_how_to_get_it() -> None:
    table = table_lines(MEASURED, {ROW_LOCKS: "install it"})
    assert f"| {ROW_LOCKS} | not measured: install it |" in table[-1]


def test_marks_are_written_with_what_is_wanted() -> None:
    table = lines([Mark("rate", "90,000/s", 90_000, 80_000, 130_000)])
    assert table[-1] == "| rate | 90,000/s | at least 80,000, stretch 130,000 | met |  |"
