"""DetectionMetric: COCO average precision of a split, with pycocotools as the one definition of it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from utils.boxes import xywh_to_xyxy
from utils.choices import BACKENDS
from utils.metrics.calibration import calibrated, calibrated_in_order
from utils.metrics.coco import COCO_LIMIT, CocoResult, box_ground_truth, evaluate_boxes
from utils.metrics.errors import error_line, error_split
from utils.metrics.figures import figure_text
from utils.metrics.matches import Matches, match
from utils.structures import Detections
from utils.text import shorten, shown


class DetectionMetric:
    """COCO AP and AR over exactly the rows that `predictions` gives.

    A figure is None, where pycocotools says -1: the ground truth has nothing to measure it on. The `max_det` best
    detections of an image and class count, however many were kept.

    Args:
        ground_truth: the split as a COCO dict; not changed. iscrowd left out is 0, area left out is width * height.
        category_ids: the category id of each label of the detections.
        names: the class names, in the same order.
        max_det: best detections of an image and class that count; any other number than 100 leaves the COCO protocol.
            AP and the figures by size are those at `max_det`, and so is the key AR<max_det>.
        backend: 'pycocotools', or 'faster' (faster-coco-eval, whole-number ids only): the same figures in less time.
        temperature: of the model (`utils.metrics.calibration`); scores come without it, and all that is given has it.
    Raises:
        ValueError: ids that do not fit the ground truth, an annotation without a box, or an option out of its range.
    """

    columns = ("AP", "AP50", "AP75")
    """The figures that a training shows after each epoch; the first decides which checkpoint is the best."""

    def __init__(
        self,
        ground_truth: Mapping[str, Any],
        category_ids: Sequence[Hashable],
        names: Sequence[str],
        *,
        max_det: int = COCO_LIMIT,
        backend: str = "pycocotools",
        temperature: float = 1.0,
    ) -> None:
        if backend not in BACKENDS:
            raise ValueError(f"backend: '{backend}' is unknown; expected one of {', '.join(BACKENDS)}")
        if max_det <= 10:
            raise ValueError(f"max_det: expected more than 10, found {max_det}; postprocess() is where fewer are kept")
        self._ground_truth = box_ground_truth(ground_truth)
        self._category_ids = _check_categories(category_ids, names, self._ground_truth)
        self._names = _distinct(names, category_ids)
        self._image_ids = dict.fromkeys(image["id"] for image in self._ground_truth["images"])
        if backend == "faster" and not all(isinstance(i, int) for i in (*self._image_ids, *category_ids)):
            raise ValueError("backend 'faster': expected ids that are whole numbers; use 'pycocotools' for these")
        self._max_det = max_det
        self._backend = backend
        self.temperature = temperature
        self.reset()

    def reset(self) -> None:
        """Remove all detections."""
        self._rows_of: dict[Hashable, list[dict[str, Any]]] = {}
        self._result: CocoResult | None = None
        self._errors: dict[str, Any] | None = None
        self._matches: Matches | None = None

    def calibrate(self, temperature: float) -> None:
        """Give the scores of all detections another temperature; AP and AR stay."""
        self.temperature = temperature
        self._forget()

    def update(self, image_ids: Sequence[Hashable], detections: Sequence[Detections]) -> None:
        """Add the detections of images, each image once.

        Args:
            image_ids: ids of the ground truth.
            detections: of each image: boxes (N, 4) xyxy in pixels of the original image, scores (N,) in [0, 1] and
                zero-based labels (N,).
        Raises:
            ValueError: an image that is not evaluated or was counted before, or a detection that is not finite.
        """
        for image_id, of_image in zip(image_ids, detections, strict=True):
            if image_id not in self._image_ids:
                raise ValueError(f"image {shown(image_id)} is not among the {len(self._image_ids)} images evaluated")
            if image_id in self._rows_of:
                raise ValueError(
                    f"image {shown(image_id)} was counted before; the loader may give each image once only"
                )
            self._rows_of[image_id] = self._rows(image_id, of_image)
        self._forget()

    def extend(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add what `predictions` gave on another rank, at temperature 1; rows of images already here are left out."""
        added: dict[Hashable, list[dict[str, Any]]] = {}
        for row in rows:
            if row["image_id"] not in self._rows_of:
                added.setdefault(row["image_id"], []).append(dict(row))
        self._rows_of.update(added)
        self._forget()

    def predictions(self) -> list[dict[str, Any]]:
        """A COCO results list: image_id, category_id, bbox [x, y, width, height] in original pixels, score.

        Images in the order of the ground truth, best score first within each: no trace of batches or ranks is left.
        Numbers are Python's own, so that JSON gives back exactly the same.
        """
        rows = [dict(row) for image_id in self._image_ids for row in self._rows_of.get(image_id, ())]
        if self.temperature != 1:
            scores = calibrated_in_order(np.array([row["score"] for row in rows]), self.temperature)
            rows = [{**row, "score": score} for row, score in zip(rows, scores.tolist(), strict=True)]
        return rows

    def matches(self) -> Matches:
        """What each of `predictions` found at IoU 0.5, by the rules of pycocotools."""
        if self._matches is None:
            rows = self.predictions()
            self._matches = match(self._ground_truth, rows, self._category_ids, max_det=self._max_det)
        return self._matches

    @property
    def ground_truth(self) -> dict[str, Any]:
        """The split as a COCO dict with boxes only: what the figures of `predictions` are counted against."""
        return self._ground_truth

    @property
    def category_ids(self) -> tuple[Hashable, ...]:
        """The category id of each label."""
        return self._category_ids

    @property
    def names(self) -> tuple[str, ...]:
        """The class names by label, each different."""
        return self._names

    @property
    def max_det(self) -> int:
        """Detections of an image and class that count."""
        return self._max_det

    def detections(self, image_id: Hashable, *, min_score: float = 0.0) -> Detections:
        """The detections of one image, boxes in pixels of the original."""
        rows = self._rows_of.get(image_id, ())
        boxes = np.array([row["bbox"] for row in rows], np.float32).reshape(-1, 4)
        labels = np.array([self._category_ids.index(row["category_id"]) for row in rows], np.int64)
        scores = np.array([row["score"] for row in rows])
        scores = scores if self.temperature == 1 else calibrated(scores, self.temperature)
        found = Detections(xywh_to_xyxy(boxes), scores.astype(np.float32), labels)
        return found.select(scores >= min_score)

    def compute(self) -> dict[str, Any]:
        """The figures of CocoResult, 'per_class' (name to AP and AP50) and 'images' (how many were evaluated)."""
        result = self._evaluated()
        per_class = {}
        for name, category_id in zip(self._names, self._category_ids, strict=True):
            part = result.category(category_id)
            per_class[name] = {"AP": part.average_precision(), "AP50": part.average_precision(iou=0.5)}
        return {**result.figures(), "per_class": per_class, "images": len(self._image_ids)}

    def errors(self) -> dict[str, Any]:
        """What AP50 is lost to, overall, by class and by size: see `error_split`."""
        if self._errors is None:
            categories = dict(zip(self._names, self._category_ids, strict=True))
            self._errors = error_split(self._ground_truth, self.predictions(), categories, max_det=self._max_det)
        return self._errors

    def pr_curves(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """(101,) recall thresholds and, for each class that has objects, (101,) precision at IoU 0.5."""
        result = self._evaluated()
        curves = {}
        for name, category_id in zip(self._names, self._category_ids, strict=True):
            part = result.category(category_id)
            if part.average_precision(iou=0.5) is not None:
                curves[name] = part.precision[0, :, 0, 0, -1]
        return result.recall_thresholds, curves

    def table(self) -> str:
        """The lines that pycocotools prints, a line for each class, and what AP50 is lost to; a dash for no figure."""
        figures = self.compute()
        lines = []
        for key, value in self._evaluated().figures().items():
            title = "Average Precision  (AP)" if key.startswith("AP") else "Average Recall     (AR)"
            iou = {"AP50": "0.50", "AP75": "0.75"}.get(key, "0.50:0.95")
            area = {"s": "small", "m": "medium", "l": "large"}.get(key[-1], "all")
            limit = int(key[2:]) if key.startswith("AR") and key[2:].isdecimal() else self._max_det
            lines.append(f" {title} @[ IoU={iou:<9} | area={area:>6} | maxDets={limit:>3} ] = {figure_text(value)}")
        width = max(len(shorten(name)) for name in ("class", *self._names))
        lines += ["", f" {'class':<{width}}      AP   AP50"]
        for name, row in figures["per_class"].items():
            lines.append(f" {shorten(name):<{width}}  {figure_text(row['AP']):>6} {figure_text(row['AP50']):>6}")
        return "\n".join([*lines, "", error_line(self.errors())])

    def _rows(self, image_id: Hashable, detections: Detections) -> list[dict[str, Any]]:
        if not (np.isfinite(detections.boxes).all() and np.isfinite(detections.scores).all()):
            raise ValueError(f"image {shown(image_id)}: a detection is not finite; has the model diverged?")
        return replace(detections, category_ids=self._category_ids).to_coco(image_id)

    def _forget(self) -> None:
        self._result = self._matches = self._errors = None

    def _evaluated(self) -> CocoResult:
        if self._result is None:
            arguments = (self._ground_truth, self.predictions(), list(self._image_ids))
            self._result = evaluate_boxes(*arguments, max_det=self._max_det, backend=self._backend)
        return self._result


def _check_categories(
    category_ids: Sequence[Hashable], names: Sequence[str], ground_truth: Mapping[str, Any]
) -> tuple[Hashable, ...]:
    if len(category_ids) != len(names) or len(set(category_ids)) != len(category_ids):
        raise ValueError(f"category_ids: expected {len(names)} different ids, one for each name, found {category_ids}")
    known = [category["id"] for category in ground_truth["categories"]]
    if known and not set(known) & set(category_ids):
        raise ValueError(
            f"category_ids: none is in the ground truth; found {shown(list(category_ids))}, "
            f"while the ground truth has {shown(known)}"
        )
    return tuple(category_ids)


def _distinct(names: Sequence[str], category_ids: Sequence[Hashable]) -> tuple[str, ...]:
    """The names, with the id behind those that stand twice, so that each can be a key."""
    names = tuple(names)
    return tuple(f"{n} ({i})" if names.count(n) > 1 else n for n, i in zip(names, category_ids, strict=True))
