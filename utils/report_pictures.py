"""The pictures on which two runs differ most, from the boxes and thumbnails that their evaluations stored."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from utils.gallery import MOST_MARKS, USUAL_CONF, Mark
from utils.gallery_html import View, drawn
from utils.metrics.errors import KINDS, match_errors
from utils.run_records import Group, RunRecord
from utils.text import shorten
from utils.thumbnails import FILE, SIDE, Thumbnail, read_thumbnails

MOST_PICTURES = 12
"""That B does better on, and as many that it does worse on."""

STYLE = """
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)); gap: 1rem 1.5rem }
.pairs figure { margin: 0; min-width: 0 } .pair { display: grid; grid-template-columns: 1fr 1fr; gap: 4px }
.pairs figcaption { font-size: 13px; overflow-wrap: anywhere }
"""
_LEGEND = (
    "<p>A on the left, B on the right. Yellow: an object that is not found. Red: a detection that is wrong. Green and "
    "dashed blue: objects and detections that are right. Each side at scores above the threshold of its best F1 "
    f"({USUAL_CONF} where it has none).</p>"
)


@dataclass(frozen=True, eq=False)
class Side:
    """What one run found.

    Args:
        rows: above its threshold.
        wrong_rows: (N,) bool; wrong_objects: (M,) bool by annotation.
    """

    rows: Sequence[Mapping[str, Any]]
    wrong_rows: np.ndarray
    wrong_objects: np.ndarray

    @classmethod
    def of(cls, truth: Mapping[str, Any], run: RunRecord) -> Side:
        """Of a run whose predictions are there."""
        conf = (run.figures.get("f1") or {}).get("conf")
        limit = USUAL_CONF if conf is None else conf
        rows = [row for row in run.predictions or () if row["score"] > limit]
        errors = match_errors(truth, rows, max_det=run.max_det)
        right = np.isin(errors.kinds, [KINDS.index("correct"), KINDS.index("ignored")])
        crowd = np.array([bool(each.get("iscrowd")) for each in truth["annotations"]], bool)
        return cls(rows, ~right, ~(errors.found | crowd))

    def errors_of(self, truth: Mapping[str, Any]) -> dict[Hashable, int]:
        """How many objects of each image are not found, and detections wrong."""
        counts: dict[Hashable, int] = {image["id"]: 0 for image in truth["images"]}
        for entries, wrong in ((self.rows, self.wrong_rows), (truth["annotations"], self.wrong_objects)):
            for position in np.flatnonzero(wrong).tolist():
                counts[entries[position]["image_id"]] += 1
        return counts

    def marks(self, truth: Mapping[str, Any], image_id: Hashable, labels: Mapping[Hashable, int]) -> list[Mark]:
        """The boxes of an image, wrong ones first."""
        marks = []
        for entries, wrong in ((self.rows, self.wrong_rows), (truth["annotations"], self.wrong_objects)):
            for position, entry in enumerate(entries):
                if entry["image_id"] == image_id and not entry.get("iscrowd"):
                    x, y, width, height = entry["bbox"]
                    label = labels.get(entry["category_id"], -1)
                    box = (x, y, x + width, y + height)
                    marks.append(Mark(box, label, entry.get("score"), bool(wrong[position])))
        return sorted(marks, key=lambda mark: not mark.wrong)[:MOST_MARKS]


def most_different(
    truth: Mapping[str, Any], one: Side, other: Side, shown: set[Hashable], *, limit: int = MOST_PICTURES
) -> tuple[list[tuple[Hashable, int, int]], list[tuple[Hashable, int, int]]]:
    """Image, errors of the one and of the other side: where the other does better, and where it does worse.

    The greatest difference comes first; images that are not among `shown` are left out.
    """
    before, after = one.errors_of(truth), other.errors_of(truth)
    gains = sorted(
        ((before[i] - after[i], i) for i in before if i in shown and before[i] != after[i]),
        key=lambda pair: (-abs(pair[0]), str(pair[1])),
    )
    better = [(i, before[i], after[i]) for gain, i in gains if gain > 0]
    worse = [(i, before[i], after[i]) for gain, i in gains if gain < 0]
    return better[:limit], worse[:limit]


def pictures_section(groups: Sequence[Group]) -> str:
    """The section of a page: the first group's first run against that of each other group; empty for classifiers.

    Raises:
        ConfigError: a damaged file of thumbnails.
    """
    parts = [_pair(groups[0], group) for group in groups[1:]]
    shown = [part for part in parts if part]
    return f"<h2>Where they differ most</h2>{_LEGEND}{''.join(shown)}" if shown else ""


def _pair(first: Group, second: Group) -> str:
    runs = first.runs[0], second.runs[0]
    truth = runs[0].ground_truth
    if truth is None or truth != runs[1].ground_truth or any(run.predictions is None for run in runs):
        return ""
    title = f"<h3>A = {escape(first.name)}, B = {escape(second.name)}</h3>"
    thumbnails = {**read_thumbnails(runs[1].folder / FILE), **read_thumbnails(runs[0].folder / FILE)}
    if not thumbnails:
        return f"{title}<p>Their folders have no {FILE}; val.py --save-json writes it.</p>"
    one, other = (Side.of(truth, run) for run in runs)
    lists = most_different(truth, one, other, set(thumbnails))
    names = [str(category.get("name", category["id"])) for category in truth["categories"]]
    labels = {category["id"]: label for label, category in enumerate(truth["categories"])}
    sections = []
    for words, chosen in zip(("B makes fewer errors", "B makes more errors"), lists, strict=True):
        figures = []
        for image_id, errors_before, errors_after in chosen:
            view = _view(thumbnails[image_id])
            sides = "".join(drawn(view, side.marks(truth, image_id, labels), names, named=3) for side in (one, other))
            told = f"{escape(shorten(view.name, 60))}: A {errors_before}, B {errors_after} errors"
            figures.append(f"<figure><div class='pair'>{sides}</div><figcaption>{told}</figcaption></figure>")
        if figures:
            sections.append(f"<h4>{words}</h4><div class='pairs'>{''.join(figures)}</div>")
    have, all_of_them = len(thumbnails), len(truth["images"])
    part = f"<p>Of {have:,} of the {all_of_them:,} pictures there are thumbnails.</p>" if have < all_of_them else ""
    return title + part + ("".join(sections) or "<p>On none.</p>")


def _view(picture: Thumbnail) -> View:
    scale = min(SIDE / max(picture.height, picture.width), 1.0)
    size = max(round(picture.height * scale), 1), max(round(picture.width * scale), 1)
    return View(picture.name, (0, 0, picture.width, picture.height), size, picture.jpeg)
