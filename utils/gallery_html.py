"""The worst pictures of an evaluation as HTML: small JPEG pictures with the boxes of both sides drawn over them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from utils.gallery import Box, Case, Gallery, Mark
from utils.text import class_name, printable, shorten

MOST_BYTES = 7_500_000
"""Of the pictures of a page, as text; those that would be beyond are left out."""

VIEWS = """
.view { position: relative; background: #eee } .view img { display: block; width: 100%; height: auto }
.view svg { position: absolute; inset: 0; width: 100%; height: 100% }
.view rect { fill: none; vector-effect: non-scaling-stroke; stroke-width: 1.5; opacity: .75 }
.view rect.t { stroke: #22c55e } .view rect.p { stroke: #38bdf8; stroke-dasharray: 5 3 }
.view rect.w { stroke-width: 2.5; opacity: 1 } .view rect.p.w { stroke: #ff4d2e; stroke-dasharray: none }
.view rect.t.w { stroke: #ffd21f }
.view text { font: 600 12px system-ui, sans-serif; paint-order: stroke; stroke: #000; stroke-width: 3px }
.view text.t { fill: #ffe066 } .view text.p { fill: #ffb4a6 }
"""
"""Style of what `drawn` gives."""

STYLE = """
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); gap: 1rem }
.gallery figure { margin: 0; min-width: 0 } .gallery figure[hidden] { display: none }
.no-t .t, .no-p .p { display: none }
.gallery figcaption { font-size: 13px; line-height: 1.35; overflow-wrap: anywhere; padding-top: .2rem }
.gallery small { color: #666 } .legend b { display: inline-block; width: 1.6em; border-top: 3px solid; margin: 0 .3em }
.filters { position: sticky; top: 0; background: #fff; padding: .5rem 0; z-index: 2; display: flex; flex-wrap: wrap;
  gap: .4rem; align-items: center; border-bottom: 1px solid #ddd; margin-bottom: 1rem }
.filters button, .filters select { font: inherit; font-size: 14px; padding: .3rem .6rem; border: 1px solid #bbb;
  border-radius: 1rem; background: #fff; max-width: 100% }
.filters button[aria-pressed=true] { background: #1f2937; color: #fff; border-color: #1f2937 }
.filters label { font-size: 14px; white-space: nowrap }
"""

SCRIPT = """
const gallery = document.querySelector('.gallery'), pick = document.querySelector('#class');
const buttons = [...document.querySelectorAll('[data-pick]')];
let kind = '';
function filter() {
  let shown = 0;
  for (const each of gallery.children) {
    const fits = (!kind || each.dataset.kind === kind) &&
      (!pick.value || each.dataset.classes.split(' ').includes(pick.value));
    each.hidden = !fits;
    shown += fits;
  }
  for (const each of buttons) each.setAttribute('aria-pressed', each.dataset.pick === kind);
  document.querySelector('#shown').textContent = shown ? '' : 'No picture of this kind and class.';
}
if (gallery) {
  for (const each of buttons) each.onclick = () => { kind = each.dataset.pick; filter(); };
  pick.onchange = filter;
  for (const side of ['t', 'p'])
    document.querySelector('#' + side).onchange = (event) =>
      gallery.classList.toggle('no-' + side, !event.target.checked);
  filter();
}
"""

WORDS = {
    "missed": "nothing was found, not even with another class or a box that is a little off",
    "class": "the right place, the wrong class",
    "location": "the right class, a box that is off (IoU 0.1 to 0.5)",
    "both": "another class, and a box that is off",
    "duplicate": "an object that was found is found again",
    "background": "found where nothing is labelled",
    "wrong": "another class than the label's is likeliest",
}


@dataclass(frozen=True, eq=False)
class View:
    """What is shown of a picture.

    Args:
        name: of its file.
        window: x1, y1, x2, y2 in pixels of the picture.
        jpeg: that part, as the bytes of a JPEG file of (height, width) `size`.
        whole: whether that is the whole picture.
    """

    name: str
    window: tuple[int, int, int, int]
    size: tuple[int, int]
    jpeg: bytes
    whole: bool = True


def gallery_section(gallery: Gallery, views: Sequence[tuple[Case, View]], names: Sequence[str]) -> str:
    """The section of a page, with its filters.

    Args:
        views: of the cases whose picture could be read, by kind, the worst first.
        names: class names by label.
    """
    total = sum(gallery.errors.values())
    words = "Pictures whose likeliest class is not that of the label, the surest first."
    if gallery.conf is not None:
        words = f"At scores above {gallery.conf:.3g}, by the kinds of errors of TIDE at IoU 0.5."
    if not total:
        return f"<h2>Worst pictures</h2><p>No error to show. {words}</p>"
    figures, left_out = _figures(views, names)
    counts = [
        f"<b>{kind}</b>: {WORDS[kind]} &ndash; {gallery.errors[kind]:,} in {gallery.pictures[kind]:,} pictures"
        for kind in gallery.errors
        if gallery.errors[kind]
    ]
    more = f" {left_out} more had no room on a page of this size." if left_out else ""
    legend, filters = _LEGEND if gallery.conf is not None else "", _filters([case for case, _ in views], names)
    listed = "".join(f"<li>{text}</li>" for text in counts)
    return (
        f"<h2>Worst pictures</h2><p>{words} The {len(figures)} worst are here, those of each class among them.{more}"
        f"</p><ul>{listed}</ul>{legend}{filters}"
        f"<p id='shown'></p><div class='gallery'>{''.join(figures)}</div>"
    )


_LEGEND = (
    "<p class='legend'>Labels: <b style='color:#22c55e'></b>found or of no matter here <b style='color:#ffd21f'></b>"
    "what the error is about. Detections: <b style='color:#38bdf8;border-top-style:dashed'></b>others "
    "<b style='color:#ff4d2e'></b>the error.</p>"
)


def _filters(cases: Sequence[Case], names: Sequence[str]) -> str:
    kinds = list(dict.fromkeys(case.kind for case in cases))
    buttons = "".join(
        f"<button data-pick='{kind}' aria-pressed='false'>{kind or 'all'}</button>" for kind in ("", *kinds)
    )
    labels = sorted({label for case in cases for label in case.labels if label >= 0})
    options = "".join(f"<option value='{label}'>{_name(names, label)}</option>" for label in labels)
    sides = "".join(
        f"<label{'' if boxes else ' hidden'}><input type='checkbox' id='{side}' checked> {name}</label>"
        for boxes in [any(case.marks for case in cases)]
        for side, name in (("t", "labels"), ("p", "detections"))
    )
    return (
        f"<div class='filters'>{buttons}<select id='class' aria-label='class'><option value=''>all classes</option>"
        f"{options}</select>{sides}</div>"
    )


def _figures(views: Sequence[tuple[Case, View]], names: Sequence[str]) -> tuple[list[str], int]:
    """The pictures that there is room for, in their order, and how many are left out: of each kind the least bad."""
    places: dict[str, list[int]] = {}
    for place, (case, _) in enumerate(views):
        places.setdefault(case.kind, []).append(place)
    turns = [(turn, place) for of_kind in places.values() for turn, place in enumerate(of_kind)]
    made, left = dict[int, str](), MOST_BYTES
    for _, place in sorted(turns):
        text = case_figure(*views[place], names)
        left -= len(text)
        if left < 0:
            break
        made[place] = text
    return [made[place] for place in sorted(made)], len(views) - len(made)


def case_figure(case: Case, view: View, names: Sequence[str]) -> str:
    """A picture with the boxes of a case and what is wrong in it."""
    labels = " ".join(str(label) for label in sorted(case.labels))
    head = [mark for mark in case.marks if mark.wrong]
    told = escape(shorten(case.note, 120)) if case.note else _told(case, head, names)
    part = "" if view.whole else " (part)"
    return (
        f"<figure data-kind='{case.kind}' data-classes='{labels}'>{drawn(view, case.marks, names)}"
        f"<figcaption><b>{case.kind}</b> {told}<br><small>{escape(shorten(view.name, 60))}{part}</small></figcaption>"
        "</figure>"
    )


def drawn(view: View, marks: Sequence[Mark], names: Sequence[str], *, named: int = 6) -> str:
    """A picture with boxes over it; the first `named` of those that are wrong are named in it."""
    height, width = view.size
    boxes, texts = list[str](), list[str]()
    told = {id(mark) for mark in [mark for mark in marks if mark.wrong][:named]}
    for mark in reversed(marks):  # the worst on top
        box = _within(mark.box, view)
        if box is None:
            continue
        x1, y1, x2, y2 = box
        looks = f"{'t' if mark.score is None else 'p'}{' w' if mark.wrong else ''}"
        title = _name(names, mark.label) + ("" if mark.score is None else f" {mark.score:.2f}")
        side = "label" if mark.score is None else "found"
        boxes.append(
            f"<rect class='{looks}' x='{x1:.0f}' y='{y1:.0f}' width='{max(x2 - x1, 1):.0f}' "
            f"height='{max(y2 - y1, 1):.0f}'><title>{side}: {title}</title></rect>"
        )
        if id(mark) in told:
            y = (y1 - 4 if y1 > 14 else y1 + 12) if mark.score is not None else min(y2 + 12, height - 3)
            x, anchor = (max(x1, 2), "start") if x1 < 0.6 * width else (min(x2, width - 2), "end")
            texts.append(f"<text class='{looks[0]}' x='{x:.0f}' y='{y:.0f}' text-anchor='{anchor}'>{title}</text>")
    data, alt = base64.b64encode(view.jpeg).decode(), escape(shorten(view.name, 60), quote=True)
    return (
        f"<div class='view'><img loading='lazy' width='{width}' height='{height}' alt='{alt}' "
        f"src='data:image/jpeg;base64,{data}'><svg viewBox='0 0 {width} {height}'>{''.join(boxes + texts)}</svg></div>"
    )


def _within(box: Box, view: View) -> Box | None:
    """A box in pixels of what is shown; None where nothing of it is."""
    (left, top, right, bottom), (height, width) = view.window, view.size
    across, down = width / max(right - left, 1), height / max(bottom - top, 1)
    x1, y1, x2, y2 = box
    x1, x2 = ((min(max(x, left), right) - left) * across for x in (x1, x2))
    y1, y2 = ((min(max(y, top), bottom) - top) * down for y in (y1, y2))
    return (x1, y1, x2, y2) if x2 > x1 and y2 > y1 else None


def _told(case: Case, wrong: Sequence[Mark], names: Sequence[str]) -> str:
    found = [mark for mark in wrong if mark.score is not None]
    objects = [mark for mark in wrong if mark.score is None]
    more = f" and {case.count - 1} more" if case.count > 1 else ""
    if case.kind == "missed":
        return f"{_name(names, objects[0].label)}{more}"
    worst = found[0]
    text = f"{_name(names, worst.label)} {worst.score:.2f}"
    if case.kind == "class" and objects:
        text = f"{_nearest(worst, objects, names)}, found as {text}"
    return f"{text}{more}"


def _nearest(mark: Mark, objects: Sequence[Mark], names: Sequence[str]) -> str:
    """The class of the object whose centre is nearest to that of a detection."""

    def distance(other: Mark) -> float:
        return sum(
            (mark.box[axis] + mark.box[axis + 2] - other.box[axis] - other.box[axis + 2]) ** 2 for axis in (0, 1)
        )

    return _name(names, min(objects, key=distance).label)


def _name(names: Sequence[str], label: int) -> str:
    return escape(shorten(printable(class_name(names, label)), 40), quote=True) if label >= 0 else "another class"
