"""What each detection of an image is, by TIDE's definitions, on the matches that pycocotools makes at IoU 0.5."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.metrics.matches import MATCH_IOU, assign

ERRORS = ("class", "location", "both", "duplicate", "background", "missed")
"""What AP is lost to, in the order of TIDE."""

FOREGROUND, BACKGROUND = MATCH_IOU, 0.1
"""TIDE's t_f and t_b: IoU from which a detection has found an object, and up to which it lies on none."""


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes (N, 4) [x, y, width, height], their classes (N,) and images (N,) by number."""

    boxes: np.ndarray
    classes: np.ndarray
    images: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]], classes: dict[Hashable, int], images: dict[Hashable, int]) -> Boxes:
        """Of annotations or results; categories that `classes` lacks are numbered on."""
        known = dict(classes)
        numbers = [known.setdefault(row["category_id"], len(known)) for row in rows]
        boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
        return cls(boxes, np.array(numbers, np.int64), np.array([images[row["image_id"]] for row in rows], np.int64))


@dataclass(frozen=True, eq=False)
class Marks:
    """What is noted image by image: of N detections and M annotations.

    Args:
        errors: (N,) position in ERRORS, -1 for correct; counted: (N,) bool: not ignored.
        objects, ious: as in DetectionErrors, of ignored ones too; mended: (N,) as in Points.
        found, within_reach: (M,) bool: of objects; the latter have a detection of the wrong class or place.
    """

    errors: np.ndarray
    counted: np.ndarray
    objects: np.ndarray
    ious: np.ndarray
    mended: np.ndarray
    found: np.ndarray
    within_reach: np.ndarray

    @classmethod
    def empty(cls, detections: int, objects: int) -> Marks:
        """Nothing counted, nothing found."""
        none, no = np.full(detections, -1), np.zeros(detections, bool)
        parts = (none.astype(np.int8), no.copy(), none, np.zeros(detections), no.copy())
        return cls(*parts, np.zeros(objects, bool), np.zeros(objects, bool))


def mark_image(
    marks: Marks, found: Boxes, truth: Boxes, chosen: np.ndarray, objects: np.ndarray, crowds: np.ndarray
) -> None:
    """Note the detections `chosen` of an image, best score first, against its objects and its crowd regions."""
    same = found.classes[chosen][:, None] == truth.classes[objects]
    iou = _iou(found.boxes[chosen], truth.boxes[objects], crowd=False)
    rows, columns = np.nonzero(same & (iou >= FOREGROUND))
    matched = assign(rows, columns, iou[rows, columns], len(chosen))
    correct = matched >= 0
    marks.found[objects[matched[correct]]] = True
    in_crowd = (_iou(found.boxes[chosen], truth.boxes[crowds], crowd=True) >= FOREGROUND) & (
        found.classes[chosen][:, None] == truth.classes[crowds]
    )
    marks.counted[chosen] = correct | ~in_crowd.any(axis=1)
    errors, near = _errors_of(iou, same, marks.found[objects])
    errors[correct], near[correct] = -1, matched[correct]
    marks.errors[chosen] = errors
    marks.objects[chosen] = np.where(near >= 0, objects[near], -1) if len(objects) else -1
    if len(objects):
        rows = np.arange(len(chosen))
        marks.ious[chosen] = np.where(near >= 0, iou[rows, near], iou.max(axis=1))
    wrong = np.flatnonzero((errors == ERRORS.index("class")) | (errors == ERRORS.index("location")))
    wrong = wrong[~marks.found[objects[near[wrong]]]]
    reached, first = np.unique(near[wrong], return_index=True)  # of several for one object the best score is mended
    marks.mended[chosen[wrong[first]]] = True
    marks.within_reach[objects[reached]] = True


def _errors_of(iou: np.ndarray, same: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(D,) error of each detection if it is not correct, and (D,) position of the object that it is about, or -1.

    TIDE asks in this order: location, class, duplicate, background, both.
    """
    count = len(iou)
    if not iou.shape[1]:
        return np.full(count, ERRORS.index("background")), np.full(count, -1)
    masked = np.where(same, iou, 0.0), np.where(same, 0.0, iou), np.where(same & found, iou, 0.0)
    own, other, taken = (values.max(axis=1) for values in masked)
    cases = {
        "location": (own >= BACKGROUND) & (own <= FOREGROUND),
        "class": other >= FOREGROUND,
        "duplicate": taken >= FOREGROUND,
        "background": iou.max(axis=1) <= BACKGROUND,
    }
    errors = np.select(list(cases.values()), [ERRORS.index(name) for name in cases], ERRORS.index("both"))
    near = np.select(list(cases.values())[:3], [values.argmax(axis=1) for values in masked], -1)
    return errors, near


def _iou(boxes: np.ndarray, others: np.ndarray, *, crowd: bool) -> np.ndarray:
    """(D, G) IoU as pycocotools computes it; with crowd regions, the part of the detection that lies inside."""
    from pycocotools import mask

    if not (len(boxes) and len(others)):
        return np.zeros((len(boxes), len(others)))
    return mask.iou(boxes, others, [crowd] * len(others))
