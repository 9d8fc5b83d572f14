"""Where the AP went: what kind of error each detection is, and the AP50 that each kind costs.

The definitions are those of TIDE (Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV
2020, arXiv:2008.08115), counted on the matches that pycocotools makes at IoU 0.5.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.metrics.coco import COCO_LIMIT
from utils.metrics.figures import figure_text
from utils.metrics.matches import rank_in_group
from utils.metrics.matching import ERRORS, Boxes, Marks, mark_image

KINDS = ("correct", "class", "location", "both", "duplicate", "background", "ignored")
"""What a detection may be; `DetectionErrors.kinds` has positions in it. An ignored one counts neither way: it lies in a
crowd region of its class, or beyond the limit of detections."""

SIZES = ("small", "medium", "large")
"""COCO's sizes: up to 32 * 32 pixels of the picture, up to 96 * 96, and above."""

RECALLS = np.linspace(0.0, 1.0, 101)
"""Recall thresholds of COCO's AP."""


@dataclass(frozen=True, eq=False)
class DetectionErrors:
    """What each of N detections and each of M annotations (crowd regions included) of a split is.

    Args:
        kinds: (N,) int8 position in KINDS, in the order of the rows.
        objects: (N,) int64 position in the annotations: of the object that was found (correct), that would have been
            with a better label or box (class, location), or that another detection found (duplicate); else -1.
        ious: (N,) float64 IoU with that object, or else the largest with any object of the image.
        found: (M,) bool: a detection is correct by it.
        missed: (M,) bool: it is not found, and would not be with a better label or box; never a crowd region.
        points: what AP is counted from.
    """

    kinds: np.ndarray
    objects: np.ndarray
    ious: np.ndarray
    found: np.ndarray
    missed: np.ndarray
    points: Points

    def average_precision(self, error: str | None = None, size: str | None = None) -> dict[Hashable, float]:
        """AP50 of each category that has objects, in ascending id, after TIDE's oracle has mended errors.

        Class and location: the detection becomes correct, or is left out where its object is found already. Both,
        duplicate and background: it is left out. Missed: the objects are no longer counted; a category of which nothing
        is left then has AP50 1, where tidecv gives 0 or leaves it out.

        Args:
            error: the kind that is mended, one of ERRORS; None: nothing is, and AP50 is what pycocotools gives.
            size: mend errors about objects of this size only, one of SIZES; of both, duplicate and background it is the
                size of the detection.
        """
        values, points = self.points.average_precision(error, size), self.points
        return {points.categories[int(k)]: float(values[k]) for k in np.flatnonzero(points.object_counts())}


@dataclass(frozen=True, eq=False)
class Points:
    """The detections best score first, in the order of pycocotools, and the objects that are no crowd.

    Args:
        categories: of the ground truth, ascending; a class is a position in it, and one beyond is not evaluated.
        classes: (N,) class; correct, counted: (N,) bool.
        errors: (N,) position in ERRORS, -1 for none. As in TIDE, a detection in a crowd region has one too.
        mended: (N,) bool: it becomes correct when its label or box is right; targets: (N,) class of its object.
        sizes: (N,) position in SIZES.
        object_classes, object_sizes, missed: of each object.
    """

    categories: list[Hashable]
    classes: np.ndarray
    correct: np.ndarray
    counted: np.ndarray
    errors: np.ndarray
    mended: np.ndarray
    targets: np.ndarray
    sizes: np.ndarray
    object_classes: np.ndarray
    object_sizes: np.ndarray
    missed: np.ndarray

    def object_counts(self, mask: np.ndarray | slice = slice(None)) -> np.ndarray:
        """(K,) objects of each category."""
        count = len(self.categories)
        return np.bincount(self.object_classes[mask], minlength=count)[:count]

    def average_precision(self, error: str | None, size: str | None) -> np.ndarray:
        """(K,) as `DetectionErrors.average_precision`; NaN for a category without objects."""
        counted, correct, classes = self.counted, self.correct, self.classes
        left = total = self.object_counts()
        if error == "missed":
            left = total - self.object_counts(_of_size(self.missed, self.object_sizes, size))
        elif error is not None:
            chosen = _of_size(self.errors == ERRORS.index(error), self.sizes, size)
            mended = chosen & self.mended
            counted, correct = (counted & ~chosen) | mended, correct | mended
            classes = np.where(mended, self.targets, classes)
        order = np.flatnonzero(counted)
        order = order[np.argsort(classes[order], kind="stable")]
        ends = np.searchsorted(classes[order], np.arange(len(total) + 1))
        values = np.where(total > 0, 1.0, np.nan)
        for k in np.flatnonzero(left):
            values[k] = _area_under(correct[order[ends[k] : ends[k + 1]]], left[k])
        return values


def error_split(
    ground_truth: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    categories: Mapping[str, Hashable],
    *,
    max_det: int = COCO_LIMIT,
) -> dict[str, Any]:
    """AP50, and how much higher it were without the errors of each kind (TIDE's dAP; its main errors).

    The parts do not add up to 1 - AP50: each oracle mends one kind and leaves the others.

    Args:
        ground_truth, rows, max_det: as in `match_errors`.
        categories: class name to category id.
    Returns:
        'AP50' and each of ERRORS (mean over the classes that have objects), 'per_class' (name to the same keys) and
        'sizes' (each of SIZES to ERRORS: the part of the overall AP50 that errors about objects of that size cost).
        From 0 to 1; None where there is no object.
    """
    errors = match_errors(ground_truth, rows, max_det=max_det)
    now = errors.average_precision()
    total = _mean(now.values())

    def lost(after: Mapping[Hashable, float]) -> float | None:
        mean = _mean(after.values())
        return None if mean is None or total is None else max(mean - total, 0.0)

    mended = {error: errors.average_precision(error) for error in ERRORS}
    per_class = {}
    for name, category in categories.items():
        parts = {
            error: max(mended[error][category] - now[category], 0.0) if category in now else None for error in ERRORS
        }
        per_class[name] = {"AP50": now.get(category), **parts}
    sizes = {size: {error: lost(errors.average_precision(error, size)) for error in ERRORS} for size in SIZES}
    return {"AP50": total, **{error: lost(mended[error]) for error in ERRORS}, "per_class": per_class, "sizes": sizes}


def error_line(split: Mapping[str, Any]) -> str:
    """What `error_split` gives, in one line of a table."""
    return " AP50 lost to:  " + "  ".join(f"{error} {figure_text(split[error])}" for error in ERRORS)


def match_errors(
    ground_truth: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], *, max_det: int = COCO_LIMIT
) -> DetectionErrors:
    """The kind of each detection, and what became of each object.

    Args:
        ground_truth: `DetectionMetric.ground_truth`, or the content of ground_truth.json.
        rows: a COCO results list of its images: `DetectionMetric.predictions()`, or the content of predictions.json.
            What happens at a threshold is seen with the rows that score as much.
        max_det: best detections of an image and class that count.
    """
    annotations = ground_truth["annotations"]
    categories = sorted({category["id"] for category in ground_truth["categories"]})
    images = sorted({image["id"] for image in ground_truth["images"]})
    numbers = {category: k for k, category in enumerate(categories)}, {image: k for k, image in enumerate(images)}
    found, truth = Boxes.of(rows, *numbers), Boxes.of(annotations, *numbers)
    crowd = np.array([bool(each["iscrowd"]) for each in annotations], bool)
    scores = np.array([row["score"] for row in rows], np.float64)
    order = np.lexsort((-scores, found.images))  # image by image, the best score first
    groups = found.images * (1 + found.classes.max(initial=0)) + found.classes
    order = order[rank_in_group(groups[order]) < max_det]
    objects = np.argsort(truth.images, kind="stable")
    marks = Marks.empty(len(rows), len(annotations))
    edges = np.arange(len(images) + 1)
    starts, places = np.searchsorted(found.images[order], edges), np.searchsorted(truth.images[objects], edges)
    for k in np.flatnonzero(np.diff(starts)):
        chosen, near = order[starts[k] : starts[k + 1]], objects[places[k] : places[k + 1]]
        mark_image(marks, found, truth, chosen, near[~crowd[near]], near[crowd[near]])
    missed = ~(marks.found | marks.within_reach | crowd)
    sizes = _size_of(np.array([each["area"] for each in annotations], np.float64))
    of_objects = {"object_classes": truth.classes, "object_sizes": sizes, "missed": missed}
    points = Points(
        categories,
        **_points(marks, found, truth, sizes, order[np.argsort(-scores[order], kind="stable")]),
        **{name: values[~crowd] for name, values in of_objects.items()},
    )
    kinds = np.where(marks.counted, marks.errors + 1, KINDS.index("ignored")).astype(np.int8)
    objects = np.where(marks.counted, marks.objects, -1)
    return DetectionErrors(kinds, objects, marks.ious, marks.found, missed, points)


def _points(marks: Marks, found: Boxes, truth: Boxes, sizes: np.ndarray, order: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of Points that are of detections, those of `order`."""
    about = marks.objects  # -1 takes what is appended
    with_object = (marks.errors == ERRORS.index("class")) | (marks.errors == ERRORS.index("location"))
    own = _size_of(found.boxes[:, 2] * found.boxes[:, 3])
    columns = {
        "classes": found.classes,
        "correct": marks.counted & (marks.errors == -1),
        "counted": marks.counted,
        "errors": marks.errors,
        "mended": marks.mended,
        "targets": np.append(truth.classes, 0)[about],
        "sizes": np.where(with_object, np.append(sizes, 0)[about], own),
    }
    return {name: values[order] for name, values in columns.items()}


def _size_of(areas: np.ndarray) -> np.ndarray:
    """Position in SIZES of each area in square pixels."""
    return np.searchsorted((32.0**2, 96.0**2), areas, side="left")


def _of_size(mask: np.ndarray, sizes: np.ndarray, size: str | None) -> np.ndarray:
    return mask if size is None else mask & (sizes == SIZES.index(size))


def _area_under(correct: np.ndarray, total: int) -> float:
    """AP as COCO counts it, of the detections of a class, best score first, and so many objects."""
    hits = np.cumsum(correct)
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    places = np.searchsorted(hits / total, RECALLS, side="left")
    return float(np.append(precision, np.zeros(1))[places].sum() / len(RECALLS))


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return float(np.mean(values)) if values else None
