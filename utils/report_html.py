"""The report of `utils.report` as one HTML file without scripts or external resources."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from utils.gallery_html import VIEWS
from utils.html import cell, header, page, table
from utils.metrics.bootstrap import Comparison
from utils.metrics.figures import DASH
from utils.report_pictures import STYLE as PAIRS
from utils.report_pictures import pictures_section
from utils.run_records import Group, Spread

_STYLE = """
table { font-variant-numeric: tabular-nums }
th, td { text-align: right }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere }
td.best { font-weight: 700 }
svg { max-width: 100%; height: auto }
.verdict { font-weight: 600 }
"""


def to_html(groups: Sequence[Group], comparisons: Sequence[Comparison | str]) -> str:
    """The page."""
    parts = [
        "<h1>Runs</h1>",
        _figures(groups),
        _verdicts(groups, comparisons),
        pictures_section(groups),
        _classes(groups),
        _curves(groups),
        _settings(groups),
    ]
    return page("CSPDet runs", parts, style=_STYLE + VIEWS + PAIRS)


def _figures(groups: Sequence[Group]) -> str:
    rows = [
        (key, [group.figure(key) if key in group.figure_names else None for group in groups])
        for key in groups[0].figure_names
    ]
    return "<h2>Figures</h2>\n" + table(_head(groups), _cells(rows))


def _head(groups: Sequence[Group]) -> list[str]:
    return [header(""), *(header(group.label) for group in groups)]


def _cells(rows: Sequence[tuple[str, Sequence[Spread | None]]]) -> Iterator[list[str]]:
    """Cells of a table with the best of each row marked; empty where a group has no such row."""
    for key, spreads in rows:
        means = [None if spread is None else spread.mean for spread in spreads]
        known = [mean for mean in means if mean is not None]
        best = max(known) if len(known) > 1 and key != "images" else None
        marks = ["best" if mean is not None and mean == best else "" for mean in means]
        yield [cell(key), *(cell(_text(spread), mark) for spread, mark in zip(spreads, marks, strict=True))]


def _text(spread: Spread | None) -> str:
    if spread is None:
        return ""
    if spread.mean is None:
        return DASH
    return f"{spread.mean:.4g}" + ("" if spread.deviation is None else f" ± {spread.deviation:.2g}")


def _verdicts(groups: Sequence[Group], comparisons: Sequence[Comparison | str]) -> str:
    if not comparisons:
        return ""
    lines = [
        f"<p class='verdict'>A = {escape(groups[0].name)}, B = {escape(group.name)}: {escape(str(comparison))}</p>"
        for group, comparison in zip(groups[1:], comparisons, strict=True)
    ]
    note = (
        "<p>A paired bootstrap: the images are drawn anew with repetition, and both sides are counted on the same draw "
        "with pycocotools' AP. It tells the chance of the images, not that of the training; for that, train with "
        "several seeds.</p>"
    )
    return "<h2>Is B better than A?</h2>\n" + "\n".join(lines) + note


def _classes(groups: Sequence[Group]) -> str:
    per_class = [run.figures.get("per_class") or {} for group in groups for run in group.runs]
    names = list(dict.fromkeys(name for classes in per_class for name in classes))
    if not names:
        return ""
    key = next(next(iter(classes[names[0]])) for classes in per_class if names[0] in classes)
    rows = [(name, [group.class_figure(name, key) for group in groups]) for name in names]
    return f"<h2>{escape(key)} of each class</h2>\n" + table(_head(groups), _cells(rows))


def _curves(groups: Sequence[Group]) -> str:
    """One small chart for each column of results.csv that a run has."""
    columns = list(dict.fromkeys(key for group in groups for run in group.runs for key in run.curves if key != "epoch"))
    charts = [_chart(groups, column) for column in columns]
    return "<h2>Curves</h2>\n" + "\n".join(charts) if charts else ""


def _chart(groups: Sequence[Group], column: str) -> str:
    from utils.figures import Figure, FigureCanvasSVG

    figure = Figure(figsize=(5.6, 3.1), layout="constrained")
    FigureCanvasSVG(figure)
    ax = figure.add_subplot()
    for number, group in enumerate(groups):
        for index, run in enumerate(group.runs):
            epochs, values = run.curves.get("epoch", []), run.curves.get(column, [])
            points = [(x, y) for x, y in zip(epochs, values, strict=False) if not math.isnan(y)]
            if points:
                ax.plot(*zip(*points, strict=True), color=f"C{number}", label=group.label if index == 0 else None)
    ax.set_title(column)
    ax.set_xlabel("epoch")
    ax.grid(alpha=0.3)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    if len(groups) > 1:
        ax.legend(fontsize=8)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def _settings(groups: Sequence[Group]) -> str:
    """The keys of config.yaml in which the runs differ."""
    flat = [_flatten(group.runs[0].config) for group in groups]
    keys = dict.fromkeys(key for config in flat for key in config)
    rows = [
        [cell(key), *(cell(config.get(key, "")) for config in flat)]
        for key in keys
        if len({str(config.get(key, "")) for config in flat}) > 1
    ]
    return "<h2>Settings that differ</h2>\n" + table(_head(groups), rows) if rows else ""


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            result |= _flatten(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = value
    return result
