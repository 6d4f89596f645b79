"""Markdown for people: tables, verdicts, the specification's grades, and the file's name."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from tests.drills.history import History
from tests.drills.integrity import Check
from tests.drills.observed import Observed

_EXCELLENT_PERMILLE, _GOOD_PERMILLE = 900, 700
_INSUFFICIENT = "insufficient_available"


class Phase(NamedTuple):
    """A part of the drill, in seconds of the monotonic clock."""

    name: str
    begun_at: float
    ended_at: float


class PhaseFigures(NamedTuple):
    """What the load met in one phase, by when a request was sent."""

    name: str
    sendings: int
    accepted: dict[str, int]
    refused: dict[str, int]
    repeated: int
    median_ms: int
    worst_ms: int


class SuccessRate(NamedTuple):
    """How many of the sendings were decided: accepted, or rightly refused for lack of funds."""

    decided: int
    sendings: int

    @property
    def permille(self) -> int:
        """Decided ones of a thousand, rounded down."""
        return self.decided * 1_000 // self.sendings if self.sendings else 0

    @property
    def text(self) -> str:
        """As a percentage with one decimal."""
        return f"{self.permille // 10}.{self.permille % 10} %"

    @property
    def grade(self) -> str:
        """The specification's word for it."""
        if self.permille >= _EXCELLENT_PERMILLE:
            return "Excellent"
        return "Good" if self.permille >= _GOOD_PERMILLE else "Poor"


def success_rate(history: History) -> SuccessRate:
    """Rate every sending, so that a request that had to be sent again counts as a failure too."""
    decided = total = 0
    for _, sending in history.sendings():
        total += 1
        decided += sending.is_accepted or sending.code == _INSUFFICIENT
    return SuccessRate(decided, total)


def phase_figures(
    history: History, observed: Observed, phases: Sequence[Phase]
) -> list[PhaseFigures]:
    """Count the load phase by phase; who decided is read from the journal."""
    modes = {row.key: row.mode for row in observed.rows}
    return [_figures(history, modes, phase) for phase in phases]


def _figures(history: History, modes: dict[str | None, str], phase: Phase) -> PhaseFigures:
    accepted, refused, repeated = Counter[str](), Counter[str](), 0
    latencies_ms = []
    for intention, sending in history.sendings():
        if not phase.begun_at <= sending.sent_at < phase.ended_at:
            continue
        latencies_ms.append(round(sending.latency_s * 1_000))
        repeated += sending is not intention.sendings[0]
        if sending.is_accepted:
            accepted[modes.get(intention.key, "not in the journal")] += 1
        else:
            refused[sending.code] += 1
    latencies_ms.sort()
    count = len(latencies_ms)
    median, worst = (latencies_ms[count // 2], latencies_ms[-1]) if count else (0, 0)
    return PhaseFigures(phase.name, count, dict(accepted), dict(refused), repeated, median, worst)


def phase_table(figures: Iterable[PhaseFigures]) -> list[str]:
    """The load by phase."""
    rows = [
        (
            phase.name,
            phase.sendings,
            _counts(phase.accepted),
            _counts(phase.refused),
            phase.repeated,
            phase.median_ms,
            phase.worst_ms,
        )
        for phase in figures
    ]
    titles = ("phase", "requests", "accepted by", "refused or lost", "repeated")
    return table((*titles, "median ms", "worst ms"), rows)


def check_table(checks: Iterable[Check]) -> list[str]:
    """Checks with the facts they were judged by."""
    rows = [(verdict(check.passed), check.name, check.detail) for check in checks]
    return table(("result", "check", "facts"), rows)


def table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A Markdown table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return [f"| {' | '.join(_cell(part) for part in line)} |" for line in lines]


def verdict(passed: bool) -> str:
    """The specification's words."""
    return "Passed" if passed else "Failed"


def write_report(folder: Path, name: str, lines: Iterable[str]) -> Path:
    """Write a report under its name and the present instant; returns where."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}_{datetime.now(UTC):%Y%m%d_%H%M%S}.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"


def _cell(part: object) -> str:
    return str(part).replace("|", "\\|").replace("\n", " ")
