"""What one experiment found: a curve of points, each with figures measured in several rounds.

It is written as raw samples (JSON), a table (Markdown) and a plot (SVG).
"""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.growth.plot import FLAT, draw, is_flat, relative

RESULTS = Path(__file__).resolve().parents[1] / "results"


class Point(NamedTuple):
    """One round at one step of a curve."""

    curve: str
    step: str
    round: int
    figures: Mapping[str, float]


class Report(NamedTuple):
    """The points of an experiment, in the order of their steps, and what a reader must know."""

    name: str
    title: str
    settings: Mapping[str, str]
    points: Sequence[Point]
    plotted: Sequence[str]

    def write(self, folder: Path = RESULTS) -> str:
        """Write all three files; returns the page."""
        folder.mkdir(parents=True, exist_ok=True)
        text = self.page()
        raw = {"settings": self.settings, "samples": [point._asdict() for point in self.points]}
        base = folder / f"growth-{self.name}"
        base.with_suffix(".json").write_text(json.dumps(raw, indent=1) + "\n")
        base.with_suffix(".md").write_text(text)
        base.with_suffix(".svg").write_text(self.plot())
        return text

    def page(self) -> str:
        """The settings, a table for each curve, and what is flat."""
        lines = [f"# {self.title}", ""]
        lines += [f"* {name}: {value}" for name, value in self.settings.items()]
        for curve in unique(point.curve for point in self.points):
            lines += ["", f"## {curve}", "", *self._table(curve)]
        return "\n".join(lines) + "\n"

    def plot(self) -> str:
        """Every plotted figure of every curve, where it was measured at every step."""
        steps = unique(point.step for point in self.points)
        curves = {}
        for curve in unique(point.curve for point in self.points):
            for name, values in self.medians(curve).items():
                if name in self.plotted and len(values) == len(steps):
                    curves[f"{curve}: {name}"] = values
        return draw(self.title, steps, curves)

    def medians(self, curve: str) -> dict[str, list[float]]:
        """For each figure its median over the rounds, step by step."""
        chosen = [point for point in self.points if point.curve == curve]
        steps = unique(point.step for point in chosen)
        names = unique(name for point in chosen for name in point.figures)
        return {
            name: [
                statistics.median(values)
                for step in steps
                if (values := [p.figures[name] for p in chosen if _has(p, step, name)])
            ]
            for name in names
        }

    def _table(self, curve: str) -> list[str]:
        chosen = [point for point in self.points if point.curve == curve]
        steps = unique(point.step for point in chosen)
        lines = [
            f"| | {' | '.join(steps)} | last / first | flat within {FLAT:.0%} |",
            "|---" * (len(steps) + 3) + "|",
        ]
        for name, values in self.medians(curve).items():
            cells = " | ".join(figure(value) for value in values)
            if len(values) < 2 or values[0] == 0:
                lines.append(f"| {name} | {cells} | | |")
                continue
            verdict = "yes" if is_flat(values) else "**no**"
            lines.append(f"| {name} | {cells} | {relative(values)[-1]:.2f} | {verdict} |")
        return lines


def earlier_points(folder: Path, name: str) -> list[Point]:
    """What a run measured that is gone on with; nothing when there was none."""
    path = folder / f"growth-{name}.json"
    if not path.exists():
        return []
    return [Point(**each) for each in json.loads(path.read_text())["samples"]]


def steps_left(steps: Sequence[int], largest: int, earlier: Sequence[Point]) -> list[int]:
    """The steps up to the largest that come after the last one that was measured."""
    measured = {point.step for point in earlier}
    last = max((step for step in steps if count(step) in measured), default=-1)
    return [step for step in steps if last < step <= largest]


def figure(value: float) -> str:
    """A figure with as many digits as it means."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def count(number: int) -> str:
    """A count as a short label."""
    units: tuple[tuple[int, str], ...] = ((1_000_000, "M"), (1_000, "k"))
    for size, unit in units:
        if number >= size and number % size == 0:
            return f"{number // size}{unit}"
    return str(number)


def unique(values: Iterable[str]) -> list[str]:
    """Values in the order they come, each once."""
    return list(dict.fromkeys(values))


def _has(point: Point, step: str, name: str) -> bool:
    return point.step == step and name in point.figures
