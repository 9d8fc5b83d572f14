"""The pictures of an evaluation that went worst, by kind of error: which they are, and what was found in them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.metrics.coco import COCO_LIMIT
from utils.metrics.errors import KINDS as FOUND_AS
from utils.metrics.errors import DetectionErrors, match_errors

Box = tuple[float, float, float, float]

KINDS = ("missed", "class", "location", "both", "duplicate", "background")
"""Of errors, in the order that they are shown."""
USUAL_CONF = 0.25
"""Scores above this one count where no threshold is known."""
MOST_OF_A_KIND = 40
MOST_MARKS = 60
"""Boxes of a picture; those of its errors come first."""
ZOOM, LEAST_SHARE = 5.0, 0.25
"""Side of what is shown of a picture: so many times that of the worst box, and so much of the picture at least."""


@dataclass(frozen=True)
class Mark:
    """A box of a picture.

    Args:
        box: xyxy in pixels of the picture.
        label: class index; -1 of a class that the model does not know.
        score: of a detection; None of an object.
        wrong: it is an error of the kind that is shown, or the object that the error is about.
    """

    box: Box
    label: int
    score: float | None = None
    wrong: bool = False


@dataclass(frozen=True)
class Case:
    """A picture with errors of a kind.

    Args:
        marks: of both sides; those of the errors first, the worst before the others.
        count: errors of the kind in it.
        severity: how bad it is: the sum of the errors' scores; of missed objects their number, then their size.
        labels: classes of the errors and of the objects that they are about.
        note: what is told of it; empty: what its marks say.
    """

    kind: str
    image_id: Hashable
    marks: tuple[Mark, ...]
    count: int
    severity: float
    labels: frozenset[int]
    note: str = ""


@dataclass(frozen=True, eq=False)
class Gallery:
    """The worst pictures of each kind of error.

    Args:
        cases: by kind, the worst first.
        errors, pictures: how many there are of each kind.
        conf: scores above this one count; None of a classifier, whose likeliest class does.
    """

    cases: tuple[Case, ...]
    errors: dict[str, int]
    pictures: dict[str, int]
    conf: float | None = None


def worst_pictures(
    ground_truth: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    category_ids: Sequence[Hashable],
    *,
    conf: float | None = None,
    max_det: int = COCO_LIMIT,
    limit: int = MOST_OF_A_KIND,
) -> Gallery:
    """The worst pictures of each kind, at a threshold of use; the worst of each class is among them.

    Args:
        ground_truth: `DetectionMetric.ground_truth`; rows: `DetectionMetric.predictions()`.
        category_ids: of each class index.
        conf: scores above this one count; None takes USUAL_CONF.
        limit: pictures of a kind.
    """
    conf = USUAL_CONF if conf is None else conf
    kept = [row for row in rows if row["score"] > conf]
    marked = _Marked(ground_truth["annotations"], kept, match_errors(ground_truth, kept, max_det=max_det), category_ids)
    cases, errors, pictures = list[Case](), dict[str, int](), dict[str, int]()
    for kind in KINDS:
        found = sorted(marked.cases(kind), key=lambda case: (-case.severity, str(case.image_id)))
        errors[kind], pictures[kind] = sum(case.count for case in found), len(found)
        cases += _chosen(found, limit)
    return Gallery(tuple(cases), errors, pictures, conf)


def wrong_pictures(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], *, limit: int = 4 * MOST_OF_A_KIND
) -> Gallery:
    """The pictures that a classifier is surest to know and does not; the worst of each class is among them.

    Args:
        rows: `ClassificationMetric.predictions()`.
        limit: pictures.
    """
    cases = [
        Case(
            "wrong",
            row["image_id"],
            (),
            1,
            float(row["scores"][0]),
            frozenset((row["label"], row["labels"][0])),
            f"{names[row['label']]}, found as {names[row['labels'][0]]} {row['scores'][0]:.2f}",
        )
        for row in rows
        if row["rank"] != 0
    ]
    cases.sort(key=lambda case: (-case.severity, str(case.image_id)))
    return Gallery(tuple(_chosen(cases, limit)), {"wrong": len(cases)}, {"wrong": len(cases)})


def window_of(case: Case, width: int, height: int) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 of what is shown of a picture of this size: its worst error, and enough around it to know it."""
    x1, y1, x2, y2 = case.marks[0].box if case.marks else (0.0, 0.0, float(width), float(height))
    side = max(ZOOM * max(x2 - x1, y2 - y1), LEAST_SHARE * max(width, height), 32.0)
    across, down = min(side, float(width)), min(side, float(height))
    if across > 0.8 * width and down > 0.8 * height:
        return 0, 0, width, height
    left = min(max((x1 + x2 - across) / 2, 0.0), width - across)
    top = min(max((y1 + y2 - down) / 2, 0.0), height - down)
    return int(left), int(top), math.ceil(left + across), math.ceil(top + down)


@dataclass(frozen=True, eq=False)
class _Marked:
    """Objects and detections of a split with what became of each."""

    annotations: Sequence[Mapping[str, Any]]
    rows: Sequence[Mapping[str, Any]]
    errors: DetectionErrors
    category_ids: Sequence[Hashable]

    def __post_init__(self) -> None:
        self._labels: dict[Hashable, int]
        object.__setattr__(self, "_labels", {category: label for label, category in enumerate(self.category_ids)})
        self._of_image: dict[Hashable, tuple[list[int], list[int]]]
        object.__setattr__(self, "_of_image", {})
        for side, entries in enumerate((self.annotations, self.rows)):
            for position, entry in enumerate(entries):
                if side == 1 or not entry["iscrowd"]:
                    self._of_image.setdefault(entry["image_id"], ([], []))[side].append(position)

    def cases(self, kind: str) -> Iterator[Case]:
        """Each picture with errors of a kind."""
        if kind == "missed":
            wrong = {int(position) for position in np.flatnonzero(self.errors.missed)}
            side = 0
        else:
            wrong = {int(position) for position in np.flatnonzero(self.errors.kinds == FOUND_AS.index(kind))}
            side = 1
        entries = (self.annotations, self.rows)[side]
        for image_id in dict.fromkeys(entries[position]["image_id"] for position in sorted(wrong)):
            own = [position for position in self._of_image[image_id][side] if position in wrong]
            if own:
                yield self._case(kind, image_id, own)

    def _case(self, kind: str, image_id: Hashable, wrong: list[int]) -> Case:
        objects, found = self._of_image[image_id]
        if kind == "missed":
            wrong = sorted(wrong, key=lambda position: -self._area(position))
            severity = sum(1 + min(math.sqrt(self._area(position)), 9999.0) / 1e4 for position in wrong)
            about, bad = set(wrong), set[int]()
            first = [self._mark(self.annotations[position], wrong=True) for position in wrong]
        else:
            wrong = sorted(wrong, key=lambda position: -self.rows[position]["score"])
            severity = sum(self.rows[position]["score"] for position in wrong)
            about = {int(self.errors.objects[position]) for position in wrong} - {-1}
            bad = set(wrong)
            first = [self._mark(self.rows[position], wrong=True) for position in wrong]
            first += [self._mark(self.annotations[position], wrong=True) for position in sorted(about)]
        labels = frozenset(mark.label for mark in first)
        rest = [self._mark(self.annotations[position]) for position in objects if position not in about]
        rest += [self._mark(self.rows[position]) for position in found if position not in bad]
        return Case(kind, image_id, tuple((first + rest)[:MOST_MARKS]), len(wrong), severity, labels)

    def _area(self, position: int) -> float:
        _, _, width, height = self.annotations[position]["bbox"]
        return max(width, 0.0) * max(height, 0.0)

    def _mark(self, entry: Mapping[str, Any], *, wrong: bool = False) -> Mark:
        x, y, width, height = (float(value) for value in entry["bbox"])
        return Mark(
            (x, y, x + width, y + height), self._labels.get(entry["category_id"], -1), entry.get("score"), wrong
        )


def _chosen(cases: Sequence[Case], limit: int) -> list[Case]:
    """The worst `limit`, in their order; first of all the worst of each class."""
    seen, chosen = set[int](), list[int]()
    for place, case in enumerate(cases):
        if not case.labels <= seen and len(chosen) < limit:
            seen |= case.labels
            chosen.append(place)
    taken = set(chosen)
    chosen += [place for place in range(len(cases)) if place not in taken][: limit - len(chosen)]
    return [cases[place] for place in sorted(chosen)]
