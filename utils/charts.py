"""Small line charts as SVG, for pages that a phone shows too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from utils.text import shorten

COLOURS = ("#2563eb", "#ea580c", "#16a34a", "#c026d3", "#0891b2", "#854d0e", "#dc2626", "#4f46e5")
WIDTH, HEIGHT = 360, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 8, 10, 24

STYLE = """
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: 1rem 1.5rem }
.charts figure { margin: 0 } .charts figcaption { font-size: 13px } .charts h3 { margin: 0 0 .2rem; font-size: 15px }
.chart { width: 100%; height: auto; display: block } .chart text { font-size: 11px; fill: #6b7280 }
.chart line { stroke: #e5e7eb } .chart polyline { fill: none; stroke-width: 1.8 }
.key { display: inline-block; margin-right: .8em; white-space: nowrap }
.key i { display: inline-block; width: 1em; height: 3px; vertical-align: middle; margin-right: .3em }
"""


def line_chart(title: str, xs: Sequence[float], series: Mapping[str, Sequence[float]], *, x_name: str = "epoch") -> str:
    """A chart with its title and legend; empty where no series has a number.

    Args:
        series: name to a value for each of `xs`; NaN is a gap that the line goes across.
    """
    lines = {
        name: [(x, y) for x, y in zip(xs, values, strict=False) if math.isfinite(x) and math.isfinite(y)]
        for name, values in series.items()
    }
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return ""
    low_x, high_x = (end(x for points in lines.values() for x, _ in points) for end in (min, max))
    ticks = ticks_up_to(max(max(y for points in lines.values() for _, y in points), 0.0))
    low_y = min(0.0, min(y for points in lines.values() for _, y in points))
    across, down = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
    span_x, span_y = (high_x - low_x) or 1.0, (ticks[-1] - low_y) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        return _LEFT + (x - low_x) / span_x * across, _TOP + (1 - (y - low_y) / span_y) * down

    parts = []
    for tick in ticks:
        _, y = place(low_x, tick)
        parts.append(f"<line x1='{_LEFT}' x2='{WIDTH - _RIGHT}' y1='{y:.1f}' y2='{y:.1f}'/>")
        parts.append(f"<text x='{_LEFT - 5}' y='{y + 4:.1f}' text-anchor='end'>{tick:.4g}</text>")
    for x, anchor in ((low_x, "start"), (high_x, "end")):
        parts.append(f"<text x='{place(x, 0)[0]:.1f}' y='{HEIGHT - 6}' text-anchor='{anchor}'>{x:.4g}</text>")
    middle = _LEFT + across / 2
    parts.append(f"<text x='{middle:.0f}' y='{HEIGHT - 6}' text-anchor='middle'>{escape(x_name)}</text>")
    keys = []
    for number, (name, points) in enumerate(lines.items()):
        colour, places = COLOURS[number % len(COLOURS)], [place(*point) for point in points]
        if len(places) == 1:
            parts.append(f"<circle cx='{places[0][0]:.1f}' cy='{places[0][1]:.1f}' r='3' fill='{colour}'/>")
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f"<polyline points='{path}' stroke='{colour}'/>")
        keys.append(f"<span class='key'><i style='background:{colour}'></i>{escape(shorten(name, 30))}</span>")
    legend = f"<figcaption>{''.join(keys)}</figcaption>" if len(lines) > 1 else ""
    drawing = f"<svg class='chart' viewBox='0 0 {WIDTH} {HEIGHT}' role='img'>{''.join(parts)}</svg>"
    return f"<figure><h3>{escape(title)}</h3>{drawing}{legend}</figure>"


def ticks_up_to(top: float) -> list[float]:
    """Round numbers from 0 to `top` or a little more, four to seven of them.

    >>> ticks_up_to(0.77)
    [0.0, 0.2, 0.4, 0.6, 0.8]
    >>> ticks_up_to(0)
    [0.0, 1.0]
    """
    if top <= 0:
        return [0.0, 1.0]
    power = 10.0 ** math.floor(math.log10(top))
    step = next(power * part for part in (0.1, 0.2, 0.25, 0.5, 1.0, 2.0) if top <= 5 * power * part * (1 + 1e-9))
    return [round(step * number, 12) for number in range(math.ceil(top / step - 1e-9) + 1)]
