"""What a measurement of recovery times writes: the raw rounds as JSON and a table for people."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from tests.drills.load import settings_text
from tests.drills.recovery_times import Series
from tests.drills.report import check_table, table, verdict

TO_POSTGRES_AIM_MS, TO_REDIS_AIM_MS = 1_000, 5_000
_MEASURES = (
    ("to_postgres_ms", "Redis killed -> first request accepted in mode postgres", "< 1 s"),
    ("to_redis_ms", "Redis answers again -> first request admitted by Redis", "< 5 s"),
)


def write_recovery(folder: Path, series: Sequence[Series], load_text: str) -> Path:
    """Write `recovery.json` and `recovery.md`; returns the latter's path."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {"load": load_text, "cores": os.cpu_count(), "series": [s.record() for s in series]}
    (folder / "recovery.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    path = folder / "recovery.md"
    path.write_text("\n".join(recovery_lines(series, load_text)) + "\n", encoding="utf-8")
    return path


def recovery_lines(series: Sequence[Series], load_text: str) -> list[str]:
    """The whole text, line by line."""
    lines = ["# How long Redis's death and return are felt", "", f"Load: {load_text}.", ""]
    for one in series:
        lines += [f"## {one.name.capitalize()}", "", f"Settings: {_settings(one)}.", ""]
        lines += [*summary_table(one), ""]
        titles = ("round", "Redis down ms", "epochs", "to postgres ms", "to redis ms")
        lines += [*table(titles, [tuple(round_) for round_ in one.rounds]), ""]
        lines += [*check_table(one.checks), ""]
    return lines[:-1]


def summary_table(series: Series) -> list[str]:
    """Median and worst of both measures."""
    rows = []
    for name, text, aim in _MEASURES:
        figures = series.figures(name)
        rows.append((text, len(series.rounds), figures["median_ms"], figures["worst_ms"], aim))
    return table(("measure", "rounds", "median ms", "worst ms", "aim"), rows)


def meets_aims(series: Series) -> bool:
    """Tell whether the worst round is within both aims."""
    worst = [series.figures(name)["worst_ms"] for name, _, _ in _MEASURES]
    aims = (TO_POSTGRES_AIM_MS, TO_REDIS_AIM_MS)
    return all(w is not None and w < aim for w, aim in zip(worst, aims, strict=True))


def verdict_line(series: Series) -> str:
    """One line for the terminal."""
    return f"{series.name}: {verdict(series.passed)}, {len(series.rounds)} rounds"


def _settings(series: Series) -> str:
    return f"{settings_text(series.environment)}; all others are the defaults"
