"""Curves on two logarithmic axes, as SVG that needs nothing but itself."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Final

Point = tuple[float, float]

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _RIGHT, _TOP = 760, 380, 80, 48, 190, 16
_COLORS: Final = ("#0969da", "#8c6d46", "#1a7f37", "#8250df", "#bc4c00", "#6e7681")


def curves(series: Mapping[str, Sequence[Point]], *, x: str, y: str) -> str:
    """Return a plot with one curve for each series, named at its end.

    Args:
        series: points by name; all numbers are above 0.
        x, y: what the axes are.
    """
    points = [point for line in series.values() for point in line]
    low_x, high_x = _decades([point[0] for point in points])
    low_y, high_y = _decades([point[1] for point in points])

    def at(point: Point) -> Point:
        along = (math.log10(point[0]) - low_x) / (high_x - low_x)
        up = (math.log10(point[1]) - low_y) / (high_y - low_y)
        return _LEFT + along * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _BOTTOM - _TOP)

    parts = []
    for power in range(low_x, high_x + 1):
        left, bottom = at((10.0**power, 10.0**low_y))
        parts.append(f'<line x1="{left:.1f}" x2="{left:.1f}" y1="{_TOP}" y2="{bottom:.1f}"/>')
        parts.append(f'<text x="{left:.1f}" y="{bottom + 18:.1f}" text-anchor="middle">{_number(power)}</text>')
    for power in range(low_y, high_y + 1):
        left, level = at((10.0**low_x, 10.0**power))
        parts.append(f'<line x1="{left:.1f}" x2="{_WIDTH - _RIGHT}" y1="{level:.1f}" y2="{level:.1f}"/>')
        parts.append(f'<text x="{left - 8:.1f}" y="{level + 4:.1f}" text-anchor="end">{_number(power)}</text>')
    ends: list[float] = []
    for number, (name, line) in enumerate(series.items()):
        color = _COLORS[number % len(_COLORS)]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in map(at, line))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{color}"/>' for px, py in map(at, line)]
        right, level = at(line[-1])
        while any(abs(level - other) < 15 for other in ends):
            level -= 15 if level > _HEIGHT / 2 else -15
        ends.append(level)
        parts.append(f'<text x="{right + 8:.1f}" y="{level + 4:.1f}" style="fill:{color}">{html.escape(name)}</text>')
    parts.append(f'<text x="{(_WIDTH - _RIGHT + _LEFT) / 2}" y="{_HEIGHT - 8}" text-anchor="middle">{x}</text>')
    parts.append(f'<text x="14" y="{_HEIGHT / 2}" transform="rotate(-90 14 {_HEIGHT / 2})">{y}</text>')
    style = "text{font:13px system-ui,sans-serif;fill:#6e7681}line{stroke:#6e7681;stroke-width:.5;opacity:.5}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img">'
    return f"{head}<style>{style}</style>{''.join(parts)}</svg>\n"


def _decades(values: Sequence[float]) -> tuple[int, int]:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _number(power: int) -> str:
    return f"{10.0**power:,.0f}" if power >= 0 else f"{10.0**power:g}"
