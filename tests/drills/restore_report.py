"""The report of a restore drill."""

from collections.abc import Sequence
from pathlib import Path

from app.kit.money import decimal_text
from tests.drills.load import EXPONENT, settings_text
from tests.drills.report import check_table, table, verdict, write_report
from tests.drills.restore import Restored, RestoreResult

REPORT_NAME = "restore_drill_report"
_HONESTY = (
    "A backup without archived WAL ends where it was taken: what was accepted later is not in it, "
    "and a client that sends such a request again is served as if for the first time."
)


def write_restore_report(folder: Path, result: RestoreResult) -> Path:
    """Write the drill's report; returns where."""
    return write_report(folder, REPORT_NAME, restore_lines(result))


def restore_lines(result: RestoreResult) -> list[str]:
    """The whole report, line by line."""
    lines = [
        "# Restore drill",
        "",
        f"Settings: {settings_text(result.environment)}.",
        "",
        *summary_lines(result),
        "",
        _HONESTY,
        "",
        "## Before",
        "",
        *_steps(result.steps),
        "",
        *check_table(result.before),
    ]
    for restored in result.restored:
        lines += ["", f"## The {restored.backup} with {restored.redis}", "", *_restored(restored)]
    return lines


def summary_lines(result: RestoreResult) -> list[str]:
    """One line for each restored database, then the verdict."""
    lines = [
        f"* {restored.backup} with {restored.redis}: {verdict(restored.passed)}, "
        f"{restored.missing} of {result.acknowledged} acknowledged movements are not in it, "
        f"{_seconds(sum(seconds for _, seconds in restored.steps[:2]))} until it decided again"
        for restored in result.restored
    ]
    return [*lines, f"* Restore drill: {verdict(result.passed)}"]


def _restored(restored: Restored) -> list[str]:
    missing = decimal_text(restored.missing_minor, EXPONENT)
    story = (
        f"{restored.movements} movements restored; {restored.missing} acknowledged ones worth "
        f"{missing} came after the backup; {restored.replayed} old keys replayed, "
        f"{restored.resent} of the missing sent again, {restored.accepted} new ones accepted."
    )
    return [
        story,
        "",
        *_steps(restored.steps),
        "",
        *check_table(restored.checks),
    ]


def _steps(steps: Sequence[tuple[str, float]]) -> list[str]:
    return table(("step", "took"), [(name, _seconds(seconds)) for name, seconds in steps])


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s"
