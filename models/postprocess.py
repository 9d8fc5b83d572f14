"""From a model's boxes and scores to detections: threshold, non-maximum suppression, the best few; top classes.

Arrays are worked on in NumPy, and torch is not even imported; tensors on their device as far as that helps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType
from typing import cast

import numpy as np

from models import suppression
from models.info import Values
from utils.choices import NMS_KINDS
from utils.metrics.calibration import calibrated
from utils.structures import Detections


def postprocess(
    boxes: Values,
    scores: Values,
    *,
    conf_thres: float | np.ndarray,
    iou_thres: float,
    max_det: int,
    nms: str = "default",
    beta_nms: float = 0.6,
    classes: Sequence[int] | None = None,
    max_candidates: int = 30000,
) -> list[Detections]:
    """The detections of a batch, best score first.

    Every class of a box counts by itself, as in darknet and COCO. Equal scores keep the order of boxes, then classes. A
    box that is not finite is left out. Arrays and tensors give the same, except for rounding of the means of 'vote'.

    Args:
        boxes: (B, N, 4) xyxy pixels of the network input.
        scores: (B, N, C) in [0, 1].
        conf_thres: a (box, class) counts when its score is above this; or such a number for each class, (C,).
        iou_thres: a detection falls when a better one of its class overlaps it by more than this.
        max_det: detections kept in one image.
        nms: the overlap: 'default' is IoU; 'greedynms' and 'diounms' subtract a term that grows with the distance of
            the centres (darknet's box.c). 'vote' suppresses like 'default', then moves each detection, and lowers its
            score where boxes disagree or a better detection is near (`suppression.vote`). 'none' suppresses nothing:
            for models that find each object once.
        beta_nms: exponent of that term for 'diounms'; darknet fixes it at 0.6 for 'greedynms'.
        classes: zero-based classes to keep; None keeps all.
        max_candidates: best (box, class) pairs of an image that enter the suppression.
    Returns:
        B detections with boxes in pixels of the network input.
    Raises:
        ValueError: an unknown `nms`, or a number out of its range.
    """
    limits = np.atleast_1d(conf_thres)
    _check(conf_thres, iou_thres, max_det, max_candidates, nms)
    beta, steps = {"greedynms": 0.6, "diounms": beta_nms}.get(nms), cast(ModuleType, suppression)
    wanted = None if classes is None else np.array(sorted(set(classes)), np.int64)
    if not isinstance(boxes, np.ndarray):
        from models import postprocess_torch

        steps = postprocess_torch
    detections = []
    least = least_score(float(limits.min()), nms)
    limits = limits.astype(np.float32)
    for voters in steps.find_candidates(boxes, scores, least, wanted, limit=max_candidates):
        candidates = voters.select(_above(voters, limits)) if len(limits) > 1 or nms == "vote" else voters
        if nms == "none":
            kept = np.arange(len(candidates))[:max_det]
        elif beta is None:
            kept = steps.suppress_by_iou(candidates, iou_thres, limit=max_det)
        else:
            exact = candidates.boxes.astype(np.float64)
            kept = suppression.suppress(exact, candidates.labels, iou_thres, beta=beta, limit=max_det)
        best = candidates.select(kept)
        if nms == "vote":
            best = steps.vote(best, voters)
            best = best.select(_above(best, limits))
        detections.append(best)
    return detections


def _check(conf_thres: float | np.ndarray, iou_thres: float, max_det: int, max_candidates: int, nms: str) -> None:
    """Raise what `postprocess` says."""
    if nms not in NMS_KINDS:
        raise ValueError(f"nms: '{nms}' is unknown; expected one of {', '.join(NMS_KINDS)}")
    if not all(0 <= limit <= 1 for limit in (np.min(conf_thres), np.max(conf_thres), iou_thres)):
        raise ValueError(f"conf_thres {conf_thres} and iou_thres {iou_thres}: expected numbers from 0 to 1")
    if max_det < 1 or max_candidates < 1:
        raise ValueError(f"max_det {max_det} and max_candidates {max_candidates}: expected whole numbers from 1")


def least_score(conf_thres: float, nms: str) -> float:
    """What the scores must exceed that `postprocess` is given, for it to give all above `conf_thres`."""
    return min(conf_thres, suppression.LEAST_VOTE) if nms == "vote" else conf_thres


def _above(detections: Detections, limits: np.ndarray) -> np.ndarray:
    """(N,) bool: whose scores are above a limit for all, (1,), or that of their class, (C,)."""
    return detections.scores > (limits[detections.labels] if len(limits) > 1 else limits)


def with_temperature(detections: Detections, temperature: float) -> Detections:
    """Detections with calibrated scores, in the same order; the same ones at temperature 1."""
    if temperature == 1:
        return detections
    return replace(detections, scores=calibrated(detections.scores, temperature).astype(np.float32))


def to_array(values: Values) -> np.ndarray:
    """What a predictor gives, as a NumPy array; a tensor as float32."""
    return values if isinstance(values, np.ndarray) else values.float().cpu().numpy()


def top_classes(
    probabilities: Values,
    sizes: Sequence[tuple[int, int]],
    *,
    most: int = 5,
    conf_thres: float = 0.0,
    classes: Sequence[int] | None = None,
) -> list[Detections]:
    """What a classifier found, in the form of a detector's: the likeliest classes, each with a box around the image.

    Args:
        probabilities: (B, C) in [0, 1].
        sizes: (height, width) of each image, for its boxes.
        most: classes of an image; conf_thres: their least probability; classes: to choose from, None for all.
    Returns:
        B detections, likeliest class first; of equal ones the one with the lower number.
    """
    values = to_array(probabilities)
    wanted = np.arange(values.shape[1], dtype=np.int64) if classes is None else np.array(sorted(set(classes)), np.int64)
    values = values[:, wanted].astype(np.float32)
    detections = []
    for (height, width), row in zip(sizes, values, strict=True):
        order = np.argsort(-row, kind="stable")[:most]
        order = order[row[order] >= np.float32(conf_thres)]
        boxes = np.tile(np.array([0, 0, width, height], np.float32), (len(order), 1))
        detections.append(Detections(boxes, row[order], wanted[order]))
    return detections
