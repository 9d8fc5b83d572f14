"""The steps from boxes and scores to detections in NumPy: candidates, non-maximum suppression, box voting."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from utils.structures import Detections

Overlap: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]

VOTE_OVERLAP = 0.65
"""IoU from which on a box has a say in where a detection lies, for 'vote'; measured: docs/experiments.md."""

LEAST_VOTE = 0.01
"""Score above which a box has a say, for 'vote', whatever the confidence threshold: no result depends on that."""

AGREE_OVERLAP = 0.5
"""IoU from which on a box counts as another opinion about the same object, for 'vote'."""

DECAY = 0.5
"""Sigma of Soft-NMS's Gaussian, for 'vote': of a score stays exp(-x^2 / DECAY) where a better detection is at IoU x."""

STEPS = np.float32(65536)
"""A score's factor is rounded to 1 / STEPS, for 'vote', so that the rounding of runtimes seldom changes the order."""


def find_candidates(
    boxes: np.ndarray, scores: np.ndarray, conf_thres: float, classes: np.ndarray | None, *, limit: int
) -> list[Detections]:
    """Every (box, class) above the threshold, at most `limit` of an image, best first.

    Args:
        boxes: (B, N, 4) float xyxy pixels; a box that is not finite is left out.
        scores: (B, N, C) float in [0, 1].
        conf_thres: compared in the precision of the scores.
        classes: (K,) int64 classes to look for, ascending; None for all.
    Returns:
        B detections; equal scores keep the order of boxes, then classes.
    """
    labels = np.arange(scores.shape[2], dtype=np.int64) if classes is None else classes
    scores = scores if classes is None else scores[:, :, classes]
    threshold = scores.dtype.type(conf_thres)
    candidates = []
    for image_boxes, image_scores in zip(boxes, scores, strict=True):
        usable = np.isfinite(image_boxes).all(axis=1, keepdims=True)
        pairs = np.flatnonzero((image_scores > threshold) & usable)
        values = image_scores.ravel()[pairs]
        if len(pairs) > limit:
            lowest = np.partition(values, -limit)[-limit]
            above, equal = values > lowest, values == lowest
            keep = above | (equal & (equal.cumsum() <= limit - above.sum()))
            pairs, values = pairs[keep], values[keep]
        order = np.argsort(-values, kind="stable")
        rows, columns = np.divmod(pairs[order], max(len(labels), 1))
        kept = image_boxes[rows].astype(np.float32)
        candidates.append(Detections(kept, values[order].astype(np.float32), labels[columns]))
    return candidates


def suppress(
    boxes: np.ndarray, labels: np.ndarray, iou_thres: float, *, beta: float | None = None, limit: int | None = None
) -> np.ndarray:
    """Greedy non-maximum suppression within each class, of candidates sorted by score.

    It goes through all classes at once in the order of the scores and stops at `limit`, which gives exactly the first
    `limit` of what suppression class by class keeps. So the cost grows with the detections wanted, not with the square
    of the candidates, and no class is shifted aside (which costs precision where coordinates are large).

    Args:
        boxes: (N, 4) xyxy, best score first; overlaps are computed in their precision.
        labels: (N,) class of each.
        iou_thres: a box falls when its overlap with a kept box of its class is above this.
        beta: None compares IoU; a number compares IoU - (d / c) ** beta, where d is the squared distance of the centres
            and c the squared diagonal of the box around both (darknet's box.c).
        limit: boxes to keep; None keeps all that stand.
    Returns:
        (K,) int64 indices of the boxes kept, ascending.
    """
    alive = np.ones(len(boxes), dtype=bool)
    rivals: dict[int, np.ndarray] = {}  # of each class seen: candidates that may still be kept
    kept: list[int] = []
    position = 0
    while len(kept) != limit and alive[position:].any():
        position += int(alive[position:].argmax())
        label = int(labels[position])
        if label not in rivals:
            rivals[label] = np.flatnonzero(labels == label)
        others = rivals[label]
        others = others[np.searchsorted(others, position, side="right") :]
        falls = _overlap(boxes[position], boxes[others], beta).astype(np.float64) > iou_thres
        alive[others[falls]] = False
        rivals[label] = others[~falls]
        kept.append(position)
        position += 1
    return np.array(kept, dtype=np.int64)


def suppress_by_iou(candidates: Detections, iou_thres: float, *, limit: int) -> np.ndarray:
    """The first `limit` indices that non-maximum suppression by IoU keeps within each class.

    A candidate falls by better ones alone. So the best few are tried first, and more only while too few of them stand:
    the same result, where most of thousands of candidates are never looked at.
    """
    count = 8 * limit
    while True:
        kept = suppress(candidates.boxes[:count], candidates.labels[:count], iou_thres, limit=limit)
        if len(kept) == limit or count >= len(candidates):
            return kept
        count *= 4


def vote(detections: Detections, candidates: Detections, *, overlap: Overlap | None = None) -> Detections:
    """Box voting (Gidaris and Komodakis, arXiv:1505.01749), and scores that know how sure the place is.

    Candidates with a score above `LEAST_VOTE` vote. Each detection moves to the mean of those of its class that overlap
    it by more than `VOTE_OVERLAP`, itself included, weighted by score times IoU^3. Its score is multiplied by the mean
    IoU, weighted by score, of its new box and all voters that overlap that by more than `AGREE_OVERLAP`: where they
    disagree, the place is uncertain. It is multiplied by the Gaussian of Soft-NMS (Bodla et al., arXiv:1704.04503) too,
    of the greatest overlap with a detection of its class that was better before the vote.

    Args:
        detections: what suppression keeps of `candidates`, best score first.
        candidates: at least all above `LEAST_VOTE`.
        overlap: (K, 4) and (N, 4) boxes -> (K, N) IoU, where there is a faster one than NumPy's.
    Returns:
        As many detections, best score first.
    """
    overlap = overlap or (lambda boxes, others: _overlap(boxes[:, None], others))
    boxes, scores = detections.boxes.copy(), detections.scores.copy()
    for label in np.unique(detections.labels):
        rows = detections.labels == label
        voters = (candidates.labels == label) & (candidates.scores > np.float32(LEAST_VOTE))
        others, weights = candidates.boxes[voters], candidates.scores[voters]
        share = overlap(boxes[rows], others)
        place = np.where(share > np.float32(VOTE_OVERLAP), share * share * share * weights, np.float32(0))
        total = place.sum(axis=1, keepdims=True)  # a box without area does not even overlap itself
        moved = np.where(total > 0, place @ others / np.maximum(total, np.float32(1e-12)), boxes[rows])
        share = overlap(moved, others)
        opinions = np.where(share > np.float32(AGREE_OVERLAP), weights, np.float32(0))
        total = opinions.sum(axis=1)
        agreement = (opinions * share).sum(axis=1) / np.maximum(total, np.float32(1e-12))
        better = np.triu(overlap(moved, moved), 1).max(axis=0)
        factor = np.where(total > 0, agreement, np.float32(1)) * np.exp(-(better * better) / np.float32(DECAY))
        boxes[rows], scores[rows] = moved, scores[rows] * np.round(factor * STEPS) / STEPS
    order = np.argsort(-scores, kind="stable")
    return Detections(boxes[order], scores[order], detections.labels[order])


def _overlap(boxes: np.ndarray, others: np.ndarray, beta: float | None = None) -> np.ndarray:
    """IoU of boxes (..., 4) with (N, 4) -> (..., N), less the centre term if `beta` is given.

    Two empty boxes do not overlap, and neither do boxes whose areas are no finite number.
    """
    size, sizes = boxes[..., 2:] - boxes[..., :2], others[:, 2:] - others[:, :2]
    inner = np.minimum(boxes[..., 2:], others[:, 2:]) - np.maximum(boxes[..., :2], others[:, :2])
    with np.errstate(over="ignore", invalid="ignore"):
        shared = inner.clip(min=0).prod(axis=-1)
        union = size.prod(axis=-1) + sizes.prod(axis=-1) - shared
        iou = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    if beta is None:
        return iou
    outer = np.maximum(boxes[..., 2:], others[:, 2:]) - np.minimum(boxes[..., :2], others[:, :2])
    diagonal = np.square(outer).sum(axis=-1)
    distance = np.square((boxes[..., :2] + boxes[..., 2:] - others[:, :2] - others[:, 2:]) / 2).sum(axis=-1)
    return iou - np.divide(distance, diagonal, out=np.zeros_like(iou), where=diagonal > 0) ** beta
