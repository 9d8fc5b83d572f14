"""The report of the doctor as one HTML file without scripts or external resources; pictures are in it."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image, ImageDraw

from data.doctor.findings import SEVERITIES, Box, Finding
from data.doctor.report import KindSum, Report, SplitFacts, rare_hint
from data.images import read_image
from utils.html import cell, header, page, table
from utils.log import tracked
from utils.text import printable, shorten

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
td.where { width: 40% } td.what, h1 { overflow-wrap: anywhere }
figure { display: inline-block; margin: .3rem; width: 180px; vertical-align: top; font-size: 12px; line-height: 1.35 }
figure.pair { width: 364px } figure.pair img { margin-right: 4px; max-width: 178px }
figure div { overflow-wrap: anywhere } .told { color: #666 }
details { margin: .2rem 0 1rem } summary { cursor: pointer }
@media (max-width: 40rem) {
  body { margin: 1rem auto } h1 { font-size: 1.3rem } h3 { font-size: 1rem }
  figure { width: 45%; margin: 2% } figure.pair { width: 96% } figure img { max-width: 100% }
  figure.pair img { max-width: 48% }
  .list tr { display: block; border-bottom: 1px solid #ddd; padding: .3rem 0 } .list tr:first-child { display: none }
  .list td { display: inline; border: 0; padding: 0 .3rem 0 0 }
  .list td.number::after { content: " x" } .list td.action::before { content: "\\2013  " }
  .list td.remedy, .list td.where, .list td.what { display: block; width: auto } .list td.remedy { color: #666 }
}
"""

_BOXES = "<p class='told'>Red: the model's box. Blue: the label's.</p>"
_PLACES = re.compile(r"( at)? \[[^\]]*\]")
"""The numbers of a box, which the picture shows."""


def to_html(report: Report) -> str:
    """The page: the sums of each kind with its worst cases, every finding, and what the splits hold."""
    counts = ", ".join(f"{report.findings.severities[name]} {name}s" for name in SEVERITIES)
    colour = {"errors": "error", "warnings": "warning", "clean": "clean"}[report.status]
    kinds = report.grouped()
    left = MOST_THUMBNAILS
    parts = [f"<h1>{escape(report.source)}</h1><p class='{colour}'>{counts}</p>", "<h2>Findings</h2>"]
    parts.append(_summary(kinds) if kinds else "<p class='clean'>Nothing is wrong.</p>")
    for each in tracked(kinds, len(kinds), "Drawing the page"):
        figures = _thumbnails(each.findings, min(THUMBNAILS, left), report.root)
        left -= len(figures)
        parts.append(_kind(each, figures, report.root))
    parts += [_split(split, facts, report.image_size) for split, facts in report.splits.items()]
    return page(f"Data set {report.source}", parts, style=_STYLE)


def _summary(kinds: Sequence[KindSum]) -> str:
    rows = [
        [
            cell(each.severity, each.severity),
            cell(each.split),
            cell(len(each.findings), "number"),
            cell(each.title),
            cell(each.action, "action"),
            cell(each.remedy, "remedy"),
        ]
        for each in kinds
    ]
    head = [header(""), header("split"), header("count", "number"), *map(header, ("what", "a run", "remedy"))]
    return f"<div class='list'>{table(head, rows)}</div>"


def _kind(kind: KindSum, figures: Sequence[str], root: str) -> str:
    """The worst cases of a kind as pictures, and all of them in a list that opens."""
    rows = [
        [cell(_seen_from(root, finding.where), "where"), cell(_seen_from(root, finding.what), "what")]
        for finding in kind.findings[:MOST_FINDINGS]
    ]
    count = len(kind.findings)
    more = f"<p>The first {MOST_FINDINGS} of {count}; --json lists all.</p>" if count > MOST_FINDINGS else ""
    listed = table([header("where"), header("what")], rows)
    title = f"<span class='{kind.severity}'>{kind.severity}</span> {escape(kind.split)}: {count} x {escape(kind.title)}"
    opened = " open" if count <= THUMBNAILS else ""
    about = f"all {count}" if count > 1 else "the place"
    listed = f"<details{opened}><summary>{about}</summary><div class='list'>{listed}</div>{more}</details>"
    legend = _BOXES if figures and kind.findings[0].labelled else ""
    return f"<h3>{title}</h3>{legend}{''.join(figures)}{listed}"


def _seen_from(root: str, text: str) -> str:
    """A text with the files of the set as seen from its folder."""
    return text.replace(f"{root}/", "") if root else text


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
    rare = rare_hint(split, facts)
    return (
        f"<h2>{escape(split)}</h2><p>{escape(str(facts))}</p>\n"
        + table([header("class"), header("objects", "number"), header("images", "number"), header("")], rows)
        + (f"<p>{escape(rare)}</p>" if rare else "")
        + f"<p>Longer side of the objects in pixels, in {parts} fitted into {height} x {width}:</p>"
        + table([header("pixels"), header("objects", "number"), header("")], sides)
    )


def _bar(share: float) -> str:
    return f"<td style='width: 50%'><div class='bar' style='width: {share:.1%}'></div></td>"


def _thumbnails(findings: Sequence[Finding], limit: int, root: str) -> list[str]:
    """The first findings that have a picture, as figures."""
    figures: list[str] = []
    for finding in findings:
        if len(figures) >= limit:
            break
        if finding.image is not None and (data := thumbnail(finding.image, finding.box, finding.labelled)) is not None:
            other = thumbnail(finding.twin) if finding.twin else None
            name = escape(printable(Path(finding.image).name))
            told = escape(shorten(_PLACES.sub("", _seen_from(root, finding.what)), 150))
            shown = "".join(_image(each, name) for each in (data, other) if each)
            kind = " class='pair'" if other else ""
            figures.append(f"<figure{kind}>{shown}<div>{name}</div><div class='told'>{told}</div></figure>")
    return figures


def _image(data: bytes, name: str) -> str:
    return f"<img alt='{name}' src='data:image/jpeg;base64,{base64.b64encode(data).decode()}'>"


def thumbnail(path: str, box: Box | None = None, labelled: Box | None = None) -> bytes | None:
    """The picture, or its part around a box with the boxes drawn, as a small JPEG; None if it cannot be read."""
    try:
        image = Image.fromarray(read_image(Path(path)))
    except ValueError:
        return None
    if box is not None:
        image = _cut_out(image, box, labelled)
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=75)
    return buffer.getvalue()


def _cut_out(image: Image.Image, box: Box, labelled: Box | None) -> Image.Image:
    """The part of a picture around both boxes, with room about as wide as these, and the boxes in red and blue."""
    boxes = [each for each in (labelled, box) if each is not None]
    low = [min(min(each[axis], each[axis + 2]) for each in boxes) for axis in (0, 1)]
    high = [max(max(each[axis], each[axis + 2]) for each in boxes) for axis in (0, 1)]
    margin = max(high[0] - low[0], high[1] - low[1], 24)
    left, top = (int(max(value - margin, 0)) for value in low)
    right, bottom = int(min(high[0] + margin, image.width) + 0.999), int(min(high[1] + margin, image.height) + 0.999)
    if right - left < 1 or bottom - top < 1:
        return image
    image = image.crop((left, top, right, bottom))
    scale = SIDE / max(image.size)
    image = image.resize((max(round(image.width * scale), 1), max(round(image.height * scale), 1)))
    for each in boxes:
        x1, y1, x2, y2 = ((value - start) * scale for value, start in zip(each, (left, top) * 2, strict=True))
        corners = min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)
        ImageDraw.Draw(image).rectangle(corners, outline="red" if each is box else "#2a7fff", width=2)
    return image
