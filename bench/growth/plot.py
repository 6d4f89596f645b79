"""Draws curves as SVG: every figure relative to its first point, with the band called flat.

It knows no measurement; it needs no library.
"""

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

FLAT = 0.2
_WIDTH, _HEIGHT = 760, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 230, 40, 50
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2")
Curves = Mapping[str, Sequence[float]]


def relative(values: Sequence[float]) -> list[float]:
    """Every value as a multiple of the first one."""
    return [value / values[0] if values[0] else 0.0 for value in values]


def is_flat(values: Sequence[float]) -> bool:
    """Tell whether all values stay within the band around the first one."""
    return all(1 - FLAT <= ratio <= 1 + FLAT for ratio in relative(values))


def draw(title: str, labels: Sequence[str], curves: Curves) -> str:
    """Draw curves over equally spaced, labelled steps; each has one value for every step."""
    ratios = {name: relative(values) for name, values in curves.items()}
    highest = max((max(each) for each in ratios.values()), default=1.0)
    top = max(1.5, highest * 1.05)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        _text(_LEFT, 20, title, size=14),
        _band(top),
        *_grid(top, labels),
    ]
    for number, (name, values) in enumerate(ratios.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        parts += _curve(values, colour, top, len(labels))
        parts.append(_text(_WIDTH - _RIGHT + 15, _TOP + 16 * number + 8, name, colour=colour))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _x(step: int, steps: int) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (step / max(1, steps - 1))


def _y(value: float, top: float) -> float:
    return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * value / top


def _text(x: float, y: float, text: str, *, colour: str = "#333", size: int = 12) -> str:
    style = f'fill="{colour}" font-size="{size}" font-family="sans-serif"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'


def _band(top: float) -> str:
    above, below = _y(1 + FLAT, top), _y(1 - FLAT, top)
    return (
        f'<rect x="{_LEFT}" y="{above:.1f}" width="{_WIDTH - _LEFT - _RIGHT}"'
        f' height="{below - above:.1f}" fill="#e8f4e8"/>'
    )


def _grid(top: float, labels: Sequence[str]) -> list[str]:
    step = next(size for size in (0.5, 1, 2, 5, 10, 50, 100, 1_000, 10**9) if top / size <= 8)
    right = _WIDTH - _RIGHT
    lines = []
    for number in range(int(top / step) + 1):
        y = _y(number * step, top)
        lines.append(f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="#ccc" fill="none"/>')
        lines.append(_text(12, y + 4, f"{number * step:g}x"))
    for number, label in enumerate(labels):
        lines.append(_text(_x(number, len(labels)) - 3 * len(label), _HEIGHT - 28, label))
    return lines


def _curve(values: Sequence[float], colour: str, top: float, steps: int) -> list[str]:
    points = [(_x(number, steps), _y(value, top)) for number, value in enumerate(values)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
    return [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>', *dots]
