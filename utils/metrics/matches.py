"""Which detection found which object, over a whole split: pycocotools' rules at one IoU, as arrays."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from utils.metrics.coco import COCO_LIMIT

MATCH_IOU = 0.5
"""IoU from which on a detection has found an object."""
_PAIRS = 2_000_000
"""Overlaps computed at a time: 200 MB."""


@dataclass(frozen=True, eq=False)
class Matches:
    """The N detections of a split that count, best score first, and its M objects; crowd regions are neither.

    Args:
        images, labels: (N,) int64 place of the image in the split, and class.
        scores: (N,) float64. Equal scores keep the order of images, then that within an image.
        boxes: (N, 4) float64 xywh pixels.
        found: (N,) int64 the object that a detection found, -1 for none: false positives.
        object_images, object_labels, object_boxes: (M,), (M,), (M, 4) the same of the objects.
        image_count, class_count: of the split.
    """

    images: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    found: np.ndarray
    object_images: np.ndarray
    object_labels: np.ndarray
    object_boxes: np.ndarray
    image_count: int
    class_count: int

    @property
    def hits(self) -> np.ndarray:
        """(N,) bool: whether a detection found an object."""
        return self.found >= 0

    def __len__(self) -> int:
        return len(self.scores)

    def select(self, rows: np.ndarray) -> Matches:
        """The detections where `rows` (N,) is true, with all objects."""
        names = ("images", "labels", "scores", "boxes", "found")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})


def match(
    ground_truth: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    category_ids: Sequence[Hashable],
    *,
    iou: float = MATCH_IOU,
    max_det: int = COCO_LIMIT,
) -> Matches:
    """Match detections with objects of their class as COCOeval does it.

    In each image and class the best detection takes the free object that it overlaps most, from `iou` on; the next one
    takes one of those left. A detection without an object that lies in a crowd region of its class does not count.

    Args:
        ground_truth: from `box_ground_truth`; annotations of other images and categories are left out.
        rows: a COCO results list.
        category_ids: the category of each label.
        max_det: best detections of an image and class that count.
    """
    places = {image_id: place for place, image_id in enumerate(dict.fromkeys(i["id"] for i in ground_truth["images"]))}
    label_of = {category_id: label for label, category_id in enumerate(category_ids)}
    objects = [
        (places[a["image_id"]], label_of[a["category_id"]], a["iscrowd"], a["bbox"])
        for a in ground_truth["annotations"]
        if a["image_id"] in places and a["category_id"] in label_of
    ]
    found = [(places[row["image_id"]], label_of[row["category_id"]], row["score"], row["bbox"]) for row in rows]
    object_images, object_labels, crowd, object_boxes = _columns(objects)
    images, labels, scores, boxes = _columns(found)
    order = np.argsort(-scores, kind="stable")
    order = order[rank_in_group(images[order] * len(label_of) + labels[order]) < max_det]
    images, labels, scores, boxes = images[order], labels[order], scores[order], boxes[order]
    real = crowd == 0
    groups, object_groups = images * len(label_of) + labels, object_images * len(label_of) + object_labels
    taken = assign(*overlaps(boxes, groups, object_boxes[real], object_groups[real], least=iou), len(boxes))
    crowded, _, _ = overlaps(boxes, groups, object_boxes[~real], object_groups[~real], least=iou, crowd=True)
    ignored = np.zeros(len(boxes), bool)
    ignored[crowded] = True
    matches = Matches(
        images, labels, scores, boxes, taken,
        object_images[real], object_labels[real], object_boxes[real], len(places), len(label_of),
    )  # fmt: skip
    return matches.select(~ignored | (taken >= 0))


def overlaps(
    boxes: np.ndarray,
    groups: np.ndarray,
    others: np.ndarray,
    other_groups: np.ndarray,
    *,
    least: float,
    crowd: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pairs of boxes of one group whose IoU is at least `least`, by the first box.

    Args:
        boxes, others: (N, 4) and (M, 4) float64 xywh pixels.
        groups, other_groups: (N,) and (M,) int64; boxes of different groups are no pair.
        crowd: share of the first box's area that they have in common, in place of IoU.
    Returns:
        (K,) int64 first, (K,) int64 second box, and (K,) float64 IoU.
    """
    order = np.argsort(other_groups, kind="stable")
    sorted_groups = other_groups[order]
    start = np.searchsorted(sorted_groups, groups, side="left")
    counts = np.searchsorted(sorted_groups, groups, side="right") - start
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    parts = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
    cuts = np.searchsorted(ends, np.arange(_PAIRS, total + _PAIRS, _PAIRS), side="right").tolist()
    low = 0
    for high in (*cuts, len(boxes)):
        high = max(high, min(low + 1, len(boxes)))  # a box with more partners than that comes alone
        first = np.repeat(np.arange(low, high), counts[low:high])
        begin = np.repeat(start[low:high] - np.cumsum(counts[low:high]) + counts[low:high], counts[low:high])
        second = order[begin + np.arange(len(first))]
        values = _iou(boxes[first], others[second], crowd=crowd)
        near = values >= least
        parts.append((first[near], second[near], values[near]))
        low = high
    first, second, values = (np.concatenate(each) for each in zip(*parts, strict=True))
    return first, second, values


def assign(first: np.ndarray, second: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Greedy one-to-one assignment: each of `count` boxes in turn takes the free partner that it overlaps most.

    Of equal overlaps the partner with the higher number is taken, as by COCOeval.

    Args:
        first, second, values: from `overlaps`.
    Returns:
        (count,) int64 partner, -1 for none.
    """
    order = np.lexsort((-second, -values, first))
    partner, free = [-1] * count, [True] * (int(second.max(initial=-1)) + 1)
    for one, other in zip(first[order].tolist(), second[order].tolist(), strict=True):
        if free[other] and partner[one] < 0:
            partner[one], free[other] = other, False
    return np.array(partner, np.int64)


def _columns(rows: Sequence[tuple[int, int, float, Sequence[float]]]) -> tuple[np.ndarray, ...]:
    images, labels, values, boxes = zip(*rows, strict=True) if rows else ((), (), (), ())
    columns = np.array(images, np.int64), np.array(labels, np.int64), np.array(values, np.float64)
    return (*columns, np.array(boxes, np.float64).reshape(-1, 4))


def rank_in_group(groups: np.ndarray) -> np.ndarray:
    """(N,) groups -> (N,) how many of its group come before each."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    ranks = np.empty(len(groups), np.int64)
    ranks[order] = np.arange(len(groups)) - np.searchsorted(ordered, ordered, side="left")
    return ranks


def _iou(boxes: np.ndarray, others: np.ndarray, *, crowd: bool) -> np.ndarray:
    """(K, 4) xywh pairs -> (K,), to the last bit as pycocotools has it; nothing shared, or no area, is 0."""
    sides = np.minimum(boxes[:, 2:] + boxes[:, :2], others[:, 2:] + others[:, :2])
    sides = (sides - np.maximum(boxes[:, :2], others[:, :2])).clip(min=0)
    shared, area = sides[:, 0] * sides[:, 1], boxes[:, 2] * boxes[:, 3]
    union = area if crowd else area + others[:, 2] * others[:, 3] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=(shared > 0) & (union > 0))
