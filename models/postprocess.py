"""From a model's boxes and scores to detections: threshold, non-maximum suppression, the best few; top classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou
from torchvision.ops import nms as torchvision_nms

from utils.structures import Detections

NMS_KINDS = ("default", "greedynms", "diounms", "vote", "none")

VOTE_OVERLAP = 0.65
"""IoU from which on a box has a say in where a detection lies, for 'vote'; measured: docs/experiments.md."""


def postprocess(
    boxes: Tensor,
    scores: Tensor,
    *,
    conf_thres: float,
    iou_thres: float,
    max_det: int,
    nms: str = "default",
    beta_nms: float = 0.6,
    classes: Sequence[int] | None = None,
    max_candidates: int = 30000,
) -> list[Detections]:
    """The detections of a batch, in main memory, best score first.

    Every class of a box counts by itself, as in darknet and in COCO's evaluation. Equal scores keep the order of boxes,
    then classes. A box that is not finite is left out.

    Args:
        boxes: (B, N, 4) xyxy pixels of the network input.
        scores: (B, N, C) in [0, 1].
        conf_thres: a (box, class) counts when its score is above this.
        iou_thres: a detection falls when a better one of its class overlaps it by more than this.
        max_det: detections kept in one image.
        nms: the overlap: 'default' is IoU; 'greedynms' and 'diounms' subtract a term that grows with the distance of
            the centres (darknet's box.c, spec 4.4). 'vote' suppresses like 'default' and then moves each detection to
            the mean of all boxes of its class that overlap it by more than 0.65, itself included, weighted by score
            times IoU (box voting, Gidaris and Komodakis, arXiv:1505.01749). 'none' suppresses nothing: the best
            `max_det` above the threshold, for models that find each object once.
        beta_nms: exponent of that term for 'diounms'; darknet fixes it at 0.6 for 'greedynms'.
        classes: zero-based classes to keep; None keeps all.
        max_candidates: best (box, class) pairs of an image that enter the suppression.
    Returns:
        B detections with boxes in pixels of the network input.
    Raises:
        ValueError: an unknown `nms`, or a number out of its range.
    """
    if nms not in NMS_KINDS:
        raise ValueError(f"nms: '{nms}' is unknown; expected one of {', '.join(NMS_KINDS)}")
    if not (0 <= conf_thres <= 1 and 0 <= iou_thres <= 1):
        raise ValueError(f"conf_thres {conf_thres} and iou_thres {iou_thres}: expected numbers from 0 to 1")
    if max_det < 1 or max_candidates < 1:
        raise ValueError(f"max_det {max_det} and max_candidates {max_candidates}: expected whole numbers from 1")
    beta = {"greedynms": 0.6, "diounms": beta_nms}.get(nms)
    wanted = None if classes is None else torch.as_tensor(sorted(set(classes)), dtype=torch.int64, device=scores.device)
    found = []
    for image_boxes, image_scores in zip(boxes, scores, strict=True):
        candidates = _candidates(image_boxes, image_scores, conf_thres, wanted, max_candidates)
        if nms == "none":
            kept = torch.arange(len(candidates))[:max_det]
        elif beta is None:
            kept = _torchvision_nms(candidates, iou_thres, limit=max_det)
        else:
            rows = suppress(candidates.boxes.numpy(), candidates.labels.numpy(), iou_thres, beta=beta, limit=max_det)
            kept = torch.from_numpy(rows)
        detections = candidates.select(kept)
        found.append(_voted(detections, candidates) if nms == "vote" else detections)
    return found


def top_classes(
    probabilities: Tensor,
    sizes: Sequence[tuple[int, int]],
    *,
    most: int = 5,
    conf_thres: float = 0.0,
    classes: Sequence[int] | None = None,
) -> list[Detections]:
    """What a classifier found, in the form of a detector's: the likeliest classes, each with a box around the image.

    Args:
        probabilities: (B, C).
        sizes: (height, width) of each image, for its boxes.
        most: classes of an image; conf_thres: their least probability; classes: to choose from, None for all.
    Returns:
        B detections, in main memory, likeliest class first; of equal ones the one with the lower number.
    """
    wanted = torch.arange(probabilities.shape[1]) if classes is None else torch.tensor(sorted(set(classes)))
    scores, order = probabilities.float().cpu()[:, wanted].sort(dim=1, descending=True, stable=True)
    found = []
    for (height, width), row, places in zip(sizes, scores[:, :most], order[:, :most], strict=True):
        box = torch.tensor([0.0, 0.0, width, height]).repeat(len(row), 1)
        found.append(Detections(box, row, wanted[places]).select(row >= conf_thres))
    return found


def _torchvision_nms(candidates: Detections, iou_thres: float, *, limit: int) -> Tensor:
    """The first `limit` indices kept by non-maximum suppression within each class, ascending.

    A candidate falls by better ones alone. So the best few are tried first, and more only while too few of them stand:
    the same result, where most of thousands of candidates are never looked at.
    """
    count = 8 * limit
    while True:
        best = candidates.labels[:count]
        # Class by class: batched_nms shifts classes apart, which costs precision where coordinates are large.
        rows = [(best == label).nonzero()[:, 0] for label in best.unique()]
        kept = [row[torchvision_nms(candidates.boxes[row], candidates.scores[row], iou_thres)] for row in rows]
        found = torch.cat([candidates.labels[:0], *kept]).sort().values
        if len(found) >= limit or count >= len(candidates):
            return found[:limit]
        count *= 4


def _voted(detections: Detections, candidates: Detections) -> Detections:
    """Each detection moved to the weighted mean of the candidates of its class around it; scores stay."""
    boxes = detections.boxes.clone()
    for label in detections.labels.unique():
        rows, voters = detections.labels == label, candidates.labels == label
        overlap = box_iou(detections.boxes[rows], candidates.boxes[voters])
        weights = (overlap * candidates.scores[voters]).masked_fill_(overlap <= VOTE_OVERLAP, 0.0)
        total = weights.sum(dim=1, keepdim=True)  # a box without area does not even overlap itself
        means = weights @ candidates.boxes[voters] / total.clamp(min=1e-12)
        boxes[rows] = torch.where(total > 0, means, boxes[rows])
    return Detections(boxes, detections.scores, detections.labels)


def suppress(
    boxes: np.ndarray, labels: np.ndarray, iou_thres: float, *, beta: float | None = None, limit: int | None = None
) -> np.ndarray:
    """Greedy non-maximum suppression within each class, of candidates sorted by score; for darknet's distance kinds.

    It goes through all classes at once in the order of the scores and stops at `limit`, which gives exactly the first
    `limit` of what suppression class by class keeps. So the cost grows with the detections wanted, not with the square
    of the candidates, and no class is shifted aside (which costs precision where coordinates are large).

    Args:
        boxes: (N, 4) xyxy, best score first.
        labels: (N,) class of each.
        iou_thres: a box falls when its overlap with a kept box of its class is above this.
        beta: None compares IoU; a number compares IoU - (d / c) ** beta, where d is the squared distance of the centres
            and c the squared diagonal of the box around both.
        limit: boxes to keep; None keeps all that stand.
    Returns:
        (K,) int64 indices of the boxes kept, ascending.
    """
    boxes = boxes.astype(np.float64)
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
        falls = _overlap(boxes[position], boxes[others], beta) > iou_thres
        alive[others[falls]] = False
        rivals[label] = others[~falls]
        kept.append(position)
        position += 1
    return np.array(kept, dtype=np.int64)


def _overlap(box: np.ndarray, others: np.ndarray, beta: float | None) -> np.ndarray:
    """IoU of one box (4,) with (N, 4), less the centre term if `beta` is given; two empty boxes do not overlap."""
    size, sizes = box[2:] - box[:2], others[:, 2:] - others[:, :2]
    inner = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = inner.clip(min=0).prod(axis=1)
    union = size.prod() + sizes.prod(axis=1) - shared
    iou = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    if beta is None:
        return iou
    outer = np.maximum(box[2:], others[:, 2:]) - np.minimum(box[:2], others[:, :2])
    diagonal = np.square(outer).sum(axis=1)
    distance = np.square((box[:2] + box[2:] - others[:, :2] - others[:, 2:]) / 2).sum(axis=1)
    return iou - np.divide(distance, diagonal, out=np.zeros_like(iou), where=diagonal > 0) ** beta


def _candidates(boxes: Tensor, scores: Tensor, conf_thres: float, wanted: Tensor | None, limit: int) -> Detections:
    """Every (box, class) of one image above the threshold, at most `limit`, best first, in main memory."""
    labels = torch.arange(scores.shape[1], device=scores.device) if wanted is None else wanted
    if wanted is not None:
        scores = scores[:, wanted]
    usable = boxes.isfinite().all(dim=1, keepdim=True)
    chosen = ((scores > conf_thres) & usable).flatten().nonzero().squeeze(1)
    values = scores.flatten()[chosen]
    if len(chosen) > limit:  # cut first: sorting a million scores takes longer than all the rest
        lowest = values.topk(limit, sorted=False).values.min()
        above, equal = values > lowest, values == lowest
        keep = above | (equal & (equal.cumsum(0) <= limit - above.sum()))
        chosen, values = chosen[keep], values[keep]
    values, order = values.float().sort(descending=True, stable=True)
    rows, columns = chosen[order] // scores.shape[1], chosen[order] % scores.shape[1]
    return Detections(boxes[rows].float(), values, labels[columns]).cpu()
