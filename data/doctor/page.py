"""The report of the doctor as one HTML file without scripts or external resources; pictures are in it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image, ImageDraw

from data.doctor.report import SEVERITIES, Finding, KindSum, Report, SplitFacts
from data.images import read_image
from utils.html import cell, header, page, table
from utils.log import tracked
from utils.text import printable

MOST_FINDINGS = 5000
"""Rows of a kind that a browser still scrolls through; --json has all."""

THUMBNAILS, MOST_THUMBNAILS, SIDE = 8, 300, 180
"""Pictures of a kind, of a page, and their side in pixels."""

_STYLE = """
th, td { text-align: left }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
td.where { font-family: ui-monospace, monospace; font-size: 13px; overflow-wrap: anywhere }
.bar { background: #4477aa; height: .8rem; min-width: 1px }
.error { color: #b00020; font-weight: 600 } .warning { color: #9a6700; font-weight: 600 } .clean { color: #1a7f37 }
figure { display: inline-block; margin: .3rem; width: 180px; vertical-align: top; font-size: 12px }
figure div { overflow-wrap: anywhere }
details { margin: .2rem 0 1rem } summary { cursor: pointer }
"""


def to_html(report: Report) -> str:
    """The page: the sums of each kind with its worst cases, every finding, and what the splits hold."""
    totals = {name: sum(finding.severity == name for finding in report.findings) for name in SEVERITIES}
    counts = ", ".join(f"{number} {name}s" for name, number in totals.items())
    colour = {"errors": "error", "warnings": "warning", "clean": "clean"}[report.status]
    kinds = report.grouped()
    left = MOST_THUMBNAILS
    parts = [f"<h1>{escape(report.source)}</h1><p class='{colour}'>{counts}</p>", "<h2>Findings</h2>"]
    parts.append(_summary(kinds) if kinds else "<p class='clean'>Nothing is wrong.</p>")
    for each in tracked(kinds, len(kinds), "Drawing the page"):
        figures = _thumbnails(each.findings, min(THUMBNAILS, left))
        left -= len(figures)
        parts.append(_kind(each, figures))
    parts += [_split(split, facts, report.image_size) for split, facts in report.splits.items()]
    return page(f"Data set {report.source}", parts, style=_STYLE)


def _summary(kinds: Sequence[KindSum]) -> str:
    rows = [
        [
            cell(each.severity, each.severity),
            cell(each.split),
            cell(len(each.findings), "number"),
            cell(each.title),
            cell(each.action),
            cell(each.remedy),
        ]
        for each in kinds
    ]
    head = [header(""), header("split"), header("count", "number"), *map(header, ("what", "a run", "remedy"))]
    return table(head, rows)


def _kind(kind: KindSum, figures: Sequence[str]) -> str:
    """The worst cases of a kind as pictures, and all of them in a list that opens."""
    rows = [[cell(finding.where, "where"), cell(finding.what)] for finding in kind.findings[:MOST_FINDINGS]]
    count = len(kind.findings)
    more = f"<p>The first {MOST_FINDINGS} of {count}; --json lists all.</p>" if count > MOST_FINDINGS else ""
    listed = table([header("where"), header("what")], rows)
    title = f"<span class='{kind.severity}'>{kind.severity}</span> {escape(kind.split)}: {count} x {escape(kind.title)}"
    opened = " open" if count <= THUMBNAILS else ""
    return f"<h3>{title}</h3>{''.join(figures)}<details{opened}><summary>all {count}</summary>{listed}{more}</details>"


def _split(split: str, facts: SplitFacts, image_size: tuple[int, int]) -> str:
    height, width = image_size
    ordered = sorted(facts.classes.items(), key=lambda item: -item[1]["objects"])
    most = max([counts["objects"] for _, counts in ordered] + [1])
    rows = [
        [
            cell(name),
            cell(counts["objects"], "number"),
            cell(counts["images"], "number"),
            _bar(counts["objects"] / most),
        ]
        for name, counts in ordered
    ]
    parts = "tiles" if facts.tiles else "pictures"
    tallest = max([*facts.sides.values(), 1])
    sides = [[cell(name), cell(number, "number"), _bar(number / tallest)] for name, number in facts.sides.items()]
    return (
        f"<h2>{escape(split)}</h2><p>{escape(str(facts))}</p>\n"
        + table([header("class"), header("objects", "number"), header("images", "number"), header("")], rows)
        + f"<p>Longer side of the objects in pixels, in {parts} fitted into {height} x {width}:</p>"
        + table([header("pixels"), header("objects", "number"), header("")], sides)
    )


def _bar(share: float) -> str:
    return f"<td style='width: 50%'><div class='bar' style='width: {share:.1%}'></div></td>"


def _thumbnails(findings: Sequence[Finding], limit: int) -> list[str]:
    """The first findings that have a picture, as figures."""
    figures: list[str] = []
    for finding in findings:
        if len(figures) >= limit:
            break
        if finding.image is not None and (data := thumbnail(Path(finding.image), finding.box)) is not None:
            source = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
            name = escape(printable(Path(finding.image).name))
            figures.append(f"<figure><img alt='{name}' src='{source}'><div>{name}</div></figure>")
    return figures


def thumbnail(path: Path, box: tuple[float, float, float, float] | None) -> bytes | None:
    """The picture, or its part around a box with the box drawn, as a small JPEG; None if it cannot be read."""
    try:
        image = Image.fromarray(read_image(path))
    except ValueError:
        return None
    if box is not None:
        margin = max(box[2] - box[0], box[3] - box[1], 24)
        left, top = max(box[0] - margin, 0), max(box[1] - margin, 0)
        right, bottom = min(box[2] + margin, image.width), min(box[3] + margin, image.height)
        if right - left >= 1 and bottom - top >= 1:
            image = image.crop((int(left), int(top), int(right + 0.999), int(bottom + 0.999)))
            scale = SIDE / max(image.size)
            image = image.resize((max(round(image.width * scale), 1), max(round(image.height * scale), 1)))
            corners = [(value - start) * scale for value, start in zip(box, (int(left), int(top)) * 2, strict=True)]
            x1, y1, x2, y2 = corners
            ImageDraw.Draw(image).rectangle(
                (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), outline="red", width=2
            )
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=75)
    return buffer.getvalue()
