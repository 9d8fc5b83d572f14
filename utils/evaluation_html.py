"""What an evaluation found, missed and confused, on one page that needs nothing else: val.py --html and report.html."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from utils.charts import STYLE as CHARTS
from utils.charts import line_chart
from utils.gallery_html import SCRIPT as FILTERS
from utils.gallery_html import STYLE as GALLERY
from utils.gallery_html import VIEWS
from utils.html import cell, header, page, table
from utils.metrics.errors import SIZES
from utils.metrics.figures import DASH, figure_text
from utils.metrics.matching import ERRORS
from utils.text import printable

_STYLE = (
    r"""
h1 { overflow-wrap: anywhere; margin-bottom: .2rem } h2 { margin: 2.2rem 0 .5rem }
.about { color: #555; overflow-wrap: anywhere; margin-top: 0 }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(7.5rem, 1fr)); gap: .6rem; margin: 1rem 0 }
.card { border: 1px solid #ddd; border-radius: .5rem; padding: .5rem .7rem }
.card b { display: block; font-size: 1.3rem; white-space: nowrap }
.card span { color: #555; font-size: 13px }
.verdict { border-left: 4px solid #d97706; background: #fffbeb; padding: .5rem .8rem } .verdict p { margin: .4rem 0 0 }
.verdict ul { margin: 0 }
.wide { overflow-x: auto } .wide table { font-variant-numeric: tabular-nums; font-size: 14px }
.wide th, .wide td { text-align: right; white-space: nowrap; padding: .25rem .45rem }
.wide th:first-child, .wide td:first-child { text-align: left; position: sticky; left: 0; background: #fff;
  max-width: 12rem; overflow: hidden; text-overflow: ellipsis }
th[data-sort] { cursor: pointer; text-decoration: underline dotted #aaa; text-underline-offset: .25em }
th[data-sort=up]::after { content: ' \2191' } th[data-sort=down]::after { content: ' \2193' }
.bars { display: grid; grid-template-columns: max-content 1fr max-content; gap: .25rem .7rem; align-items: center }
.bars i { display: block; background: #2563eb; height: .9rem; min-width: 1px }
.diagrams { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); gap: 1rem }
.diagrams img { width: 100%; height: auto; cursor: zoom-in; border: 1px solid #eee }
#zoom { border: 0; padding: 0; max-width: 96vw; max-height: 96vh; overflow: auto } #zoom img { display: block }
#zoom::backdrop { background: #000a }
.note { color: #666; font-size: 13px }
"""
    + CHARTS
    + VIEWS
    + GALLERY
    + "@media (max-width: 40rem) { body { margin: 1rem auto } h1 { font-size: 1.4rem } .card b { font-size: 1.2rem } }"
)

_SCRIPT = (
    """
for (const head of document.querySelectorAll('th[data-sort]')) head.onclick = () => {
  const body = head.closest('table'), place = [...head.parentNode.children].indexOf(head);
  const rows = [...body.rows].slice(1), down = head.dataset.sort !== 'down';
  const value = (row) => {
    const text = row.cells[place].textContent.replaceAll(',', ''), number = parseFloat(text);
    return isNaN(number) ? (place ? -Infinity : text) : number;
  };
  rows.sort((a, b) => {
    const one = value(a), two = value(b);
    return (one < two ? -1 : one > two ? 1 : 0) * (down === (place > 0) ? -1 : 1);
  });
  for (const row of rows) row.parentNode.append(row);
  head.dataset.sort = down ? 'down' : 'up';
};
const zoom = document.querySelector('#zoom');
for (const image of document.querySelectorAll('.diagrams img')) image.onclick = () => {
  zoom.firstChild.src = image.src;
  zoom.showModal();
};
if (zoom) zoom.onclick = () => zoom.close();
"""
    + FILTERS
)

CARDS = {
    "AP": "AP, IoU 0.50 to 0.95",
    "AP50": "AP at IoU 0.50",
    "AP75": "AP at IoU 0.75",
    "AR100": "recall, 100 detections",
    "top1": "top-1",
    "top5": "top-5",
}
"""Key of metrics.json -> what it is."""
CURVES = {"Loss": "loss/", "On val": ("AP", "AP50", "AP75", "AP_train", "top1", "top5"), "Learning rate": ("lr",)}
"""Title of a chart -> columns of results.csv, or what their names begin with."""


TITLES = {"f1": "F1", "conf": "score"}
"""Key of a class in metrics.json -> title of its column, where it is another."""
_ABOUT_CLASSES = (
    "<p class='note'>F1 is the best that a threshold gives, score that threshold; \u2212missed and the others are the "
    "AP50 that such errors cost the class. A click on a title sorts.</p>"
)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a page shows.

    Args:
        title: plain text; about: lines of plain text below it.
        figures: as in metrics.json.
        curves: the columns of results.csv; empty where nothing was trained.
        diagrams: title and bytes of JPEG files.
        gallery: the section of the worst pictures, HTML.
    """

    title: str
    about: Sequence[str]
    figures: Mapping[str, Any]
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
    diagrams: Sequence[tuple[str, bytes]] = ()
    gallery: str = ""


def to_html(evaluation: Evaluation) -> str:
    """The page."""
    figures = evaluation.figures
    about = "<br>".join(escape(printable(line)) for line in evaluation.about)
    parts = [
        f"<h1>{escape(printable(evaluation.title))}</h1><p class='about'>{about}</p>",
        _verdict(figures.get("verdict")),
        _cards(figures),
        _errors(figures.get("errors")),
        evaluation.gallery,
        _classes(figures),
        _curves(evaluation.curves),
        _diagrams(evaluation.diagrams),
        _protocol(figures),
    ]
    return page(evaluation.title, parts, style=_STYLE, script=_SCRIPT)


def _verdict(verdict: Mapping[str, Any] | None) -> str:
    """What a training says of itself: 'kind', 'text' and 'advice'; nothing of one that goes well."""
    if not verdict or not verdict.get("kind"):
        return ""
    kind, text = (escape(printable(verdict.get(key) or "")) for key in ("kind", "text"))
    advice = "".join(f"<li>{escape(printable(line))}</li>" for line in verdict.get("advice") or ())
    helps = f"<p>What helps:</p><ul>{advice}</ul>" if advice else ""
    return f"<div class='verdict'><b>{kind}</b>: {text}{helps}</div>"


def _cards(figures: Mapping[str, Any]) -> str:
    cards = [(figure_text(figures[key]), name) for key, name in CARDS.items() if key in figures]
    f1, calibration = figures.get("f1"), figures.get("calibration")
    if isinstance(f1, Mapping) and f1.get("best") is not None:
        at = "" if f1.get("conf") is None else f" at score {f1['conf']:.2f}"
        cards.append((figure_text(f1["best"]), f"best F1{at}"))
    if isinstance(calibration, Mapping) and calibration.get("d_ece") is not None:
        cards.append((figure_text(calibration["d_ece"]), "D-ECE: by how much scores are off"))
    if "images" in figures:
        cards.append((f"{figures['images']:,}", "images"))
    if speed := figures.get("speed_ms"):
        cards.append((f"{sum(speed.values()):.3g} ms", "an image, all in all"))
    made = "".join(
        f"<div class='card'><b>{escape(value)}</b><span>{escape(name)}</span></div>" for value, name in cards
    )
    return f"<div class='cards'>{made}</div>"


def _errors(split: Mapping[str, Any] | None) -> str:
    """Where the AP went, by kind, and by the size of the objects."""
    if not split or all(split.get(kind) is None for kind in ERRORS):
        return ""
    values = {kind: split.get(kind) or 0.0 for kind in ERRORS}
    most = max(max(values.values()), 1e-9)
    bars = "".join(
        f"<span>{kind}</span><i style='width:{100 * value / most:.1f}%'></i><span>{value:.3f}</span>"
        for kind, value in sorted(values.items(), key=lambda item: -item[1])
    )
    sizes = split.get("sizes") or {}
    rows = [
        [cell(size), *(cell(figure_text((sizes.get(size) or {}).get(kind))) for kind in ERRORS)]
        for size in SIZES
        if size in sizes
    ]
    by_size = _wide([header("objects"), *map(header, ERRORS)], rows) if rows else ""
    return (
        f"<h2>Where the AP went</h2><p>AP50 is {figure_text(split.get('AP50'))}; so much higher it were without the "
        f"errors of each kind (after TIDE; the parts do not add up).</p><div class='bars'>{bars}</div>{by_size}"
    )


def _classes(figures: Mapping[str, Any]) -> str:
    """A table of the classes, sorted by a click on its head."""
    rows = figures.get("per_class") or {}
    if not rows:
        return ""
    lost = (figures.get("errors") or {}).get("per_class") or {}
    keys = list(dict.fromkeys(key for row in rows.values() for key in row))
    order = sorted(keys, key=lambda key: key != "objects")
    kinds = [kind for kind in ERRORS if any(kind in row for row in lost.values())]
    titles = ["class", *(TITLES.get(key, key) for key in order), *(f"\u2212{kind}" for kind in kinds)]
    head = [f"<th data-sort=''>{escape(title)}</th>" for title in titles]
    body = [
        [
            cell(printable(name)),
            *(cell(_number(row.get(key))) for key in order),
            *(cell(figure_text((lost.get(name) or {}).get(kind))) for kind in kinds),
        ]
        for name, row in rows.items()
    ]
    note = _ABOUT_CLASSES if kinds else ""
    return f"<h2>Classes</h2>{_wide(head, body)}{note}"


def _number(value: Any) -> str:
    if value is None:
        return DASH
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}" if isinstance(value, float) else str(value)


def _wide(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that is scrolled where the screen is narrow."""
    return f"<div class='wide'>{table(head, rows)}</div>"


def _curves(curves: Mapping[str, Sequence[float]]) -> str:
    epochs = curves.get("epoch", ())
    charts = []
    for title, wanted in CURVES.items():
        if isinstance(wanted, str):
            series = {key.removeprefix(wanted): values for key, values in curves.items() if key.startswith(wanted)}
        else:
            series = {key: curves[key] for key in wanted if key in curves}
        charts.append(line_chart(title, epochs, series))
    drawn = "".join(charts)
    return f"<h2>Training</h2><div class='charts'>{drawn}</div>" if drawn else ""


def _diagrams(diagrams: Sequence[tuple[str, bytes]]) -> str:
    if not diagrams:
        return ""
    images = "".join(
        f"<figure style='margin:0'><img alt='{escape(title, quote=True)}' src='data:image/jpeg;base64,"
        f"{base64.b64encode(content).decode()}'></figure>"
        for title, content in diagrams
    )
    return (
        f"<h2>Diagrams</h2><p class='note'>A click shows them in full size.</p><div class='diagrams'>{images}</div>"
        "<dialog id='zoom'><img alt=''></dialog>"
    )


def _protocol(figures: Mapping[str, Any]) -> str:
    protocol = figures.get("protocol") or {}
    rows = [[cell(key), cell(printable(value))] for key, value in protocol.items() if value is not None]
    return f"<h2>Protocol</h2>{table([header('key'), header('value')], rows)}" if rows else ""
