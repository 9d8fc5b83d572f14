"""COCO's figures from ground truth and result rows, by pycocotools or by its faster twin."""

from __future__ import annotations

import contextlib
import io
import logging
import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.text import shown

logger = logging.getLogger(__name__)

FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""The twelve lines of the COCO table, in its order; with another detection limit N than 100, AR<N> for AR100."""

COCO_LIMIT = 100
"""Detections of an image and class that count in the COCO protocol."""

EXACT = 2**53
"""Whole numbers up to this one are exact as 64-bit floats."""


@dataclass(frozen=True, eq=False)
class CocoResult:
    """What COCOeval.accumulate() leaves, for T IoU thresholds, R recalls, K categories, A areas, M detection limits.

    Args:
        precision: (T, R, K, A, M); recall: (T, K, A, M); -1 where there are no objects.
        iou_thresholds: (T,); recall_thresholds: (R,).
        category_ids: K ids, ascending.
        limits: M detection limits, ascending; the last one holds for AP and the figures by size.

    A figure is None where pycocotools says -1: there is no object to measure it on.
    """

    precision: np.ndarray
    recall: np.ndarray
    iou_thresholds: np.ndarray
    recall_thresholds: np.ndarray
    category_ids: tuple[Hashable, ...]
    limits: tuple[int, ...]

    def average_precision(self, *, iou: float | None = None, area: int = 0) -> float | None:
        """Mean precision at the largest detection limit; area 0 is all, then small, medium, large."""
        values = self.precision[:, :, :, area, -1]
        return _mean(values if iou is None else values[np.isclose(self.iou_thresholds, iou)])

    def average_recall(self, *, limit: int = -1, area: int = 0) -> float | None:
        """Mean recall; `limit` is the position of the detection limit."""
        return _mean(self.recall[:, :, area, limit])

    def category(self, category_id: Hashable) -> CocoResult:
        """The part of one category; empty, so that every figure is None, when the ground truth does not know it."""
        mask = np.array([i == category_id for i in self.category_ids], dtype=bool)
        parts = (self.precision[:, :, mask], self.recall[:, mask], self.iou_thresholds, self.recall_thresholds)
        return CocoResult(*parts, tuple(i for i in self.category_ids if i == category_id), self.limits)

    def figures(self) -> dict[str, float | None]:
        """The keys of FIGURES, with a recall for each detection limit."""
        sizes = {1: "s", 2: "m", 3: "l"}
        values = {f"AP{name}": self.average_precision(iou=iou) for name, iou in (("", None), ("50", 0.5), ("75", 0.75))}
        values |= {f"AP{name}": self.average_precision(area=area) for area, name in sizes.items()}
        values |= {f"AR{limit}": self.average_recall(limit=place) for place, limit in enumerate(self.limits)}
        return values | {f"AR{name}": self.average_recall(area=area) for area, name in sizes.items()}


def evaluate_boxes(
    ground_truth: dict[str, Any], rows: list[dict[str, Any]], image_ids: list[Hashable], *, max_det: int, backend: str
) -> CocoResult:
    """COCOeval over box detections.

    Args:
        ground_truth: from `box_ground_truth`; written into.
        rows: a COCO results list; written into.
        image_ids: the images that count.
        max_det: best detections of an image and class that count, above 10.
        backend: one of BACKENDS; pycocotools counts in any case what the faster one would count otherwise.
    """
    run = _run_faster if backend == "faster" and rows and _has_plain_ids(ground_truth) else _run_pycocotools
    limits = [1, 10, COCO_LIMIT, max_det] if max_det > COCO_LIMIT else [1, 10, max_det]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        return run(ground_truth, rows, image_ids, limits)


def box_ground_truth(ground_truth: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a COCO dict with what the evaluation of boxes reads, and none of its polygons.

    iscrowd left out is 0 and area left out is width * height, where pycocotools would stop with a KeyError. Annotation
    ids that are no numbers, which it cannot use, become 1, 2, ...; numbers stay, with whatever follows from them.

    Raises:
        ValueError: an annotation without a box.
    """
    annotations = []
    for position, annotation in enumerate(ground_truth.get("annotations") or ()):
        box = annotation.get("bbox")
        if box is None or len(box) != 4:
            where = f"annotation {shown(annotation.get('id', position))}"
            raise ValueError(f"{where}: expected bbox [x, y, width, height], found {shown(box)}")
        area = annotation.get("area")
        annotations.append(
            {
                "id": annotation.get("id"),
                "image_id": annotation["image_id"],
                "category_id": annotation["category_id"],
                "bbox": list(box),
                "area": box[2] * box[3] if area is None else area,
                "iscrowd": int(annotation.get("iscrowd") or 0),
            }
        )
    ids = [annotation["id"] for annotation in annotations]
    if not all(isinstance(i, (int, float)) and math.isfinite(i) for i in ids):
        for position, annotation in enumerate(annotations, start=1):
            annotation["id"] = position
    elif 0 in ids:
        logger.warning(
            "the ground truth has an annotation with id 0, and pycocotools takes a match with it for a miss: "
            "the figures come out slightly low; number the annotations from 1"
        )
    images = [{"id": image["id"]} for image in ground_truth.get("images") or ()]
    categories = [{"id": c["id"], "name": str(c.get("name", c["id"]))} for c in ground_truth.get("categories") or ()]
    return {"images": images, "annotations": annotations, "categories": categories}


def coco_eval(ground_truth: dict[str, Any], rows: list[dict[str, Any]]) -> Any:
    """pycocotools' COCOeval of boxes, before its evaluation; it prints its progress."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, results = COCO(), COCO()
    truth.dataset = ground_truth
    truth.createIndex()
    if rows:
        results = truth.loadRes(rows)
    else:  # loadRes([]) fails, but nothing found is a result too
        results.dataset = {**ground_truth, "annotations": []}
        results.createIndex()
    return COCOeval(truth, results, "bbox")


def _run_pycocotools(ground_truth: dict, rows: list[dict], image_ids: list, limits: list[int]) -> CocoResult:
    return _accumulate(coco_eval(ground_truth, rows), image_ids, limits)


def _has_plain_ids(ground_truth: dict[str, Any]) -> bool:
    """Whether faster-coco-eval counts as pycocotools does.

    It passes ids through 64-bit floats, and takes a match with an annotation of negative id for none.
    """
    ids = (entry["id"] for key in ("images", "categories", "annotations") for entry in ground_truth[key])
    whole = all(isinstance(number, int) and abs(number) <= EXACT for number in ids)
    return whole and all(annotation["id"] >= 0 for annotation in ground_truth["annotations"])


def _run_faster(ground_truth: dict, rows: list[dict], image_ids: list, limits: list[int]) -> CocoResult:
    from faster_coco_eval import COCO, COCOeval_faster

    truth = COCO(ground_truth)
    return _accumulate(COCOeval_faster(truth, truth.loadRes(rows), "bbox"), image_ids, limits)


def _accumulate(evaluation: Any, image_ids: list, limits: list[int]) -> CocoResult:
    """Run either package's COCOeval; both are set and read the same way."""
    evaluation.params.imgIds = image_ids
    evaluation.params.maxDets = limits
    evaluation.evaluate()
    evaluation.accumulate()
    params, result = evaluation.params, evaluation.eval
    precision, recall = np.asarray(result["precision"], np.float64), np.asarray(result["recall"], np.float64)
    return CocoResult(precision, recall, params.iouThrs, params.recThrs, tuple(params.catIds), tuple(limits))


def _mean(values: np.ndarray) -> float | None:
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else None
