"""The steps from boxes and scores to detections where a model gives tensors, as `models.suppression` has them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models import suppression
from utils.boxes import box_iou
from utils.structures import Detections


def find_candidates(
    boxes: Tensor, scores: Tensor, conf_thres: float, classes: np.ndarray | None, *, limit: int
) -> list[Detections]:
    """As `models.suppression.find_candidates`, which does it for tensors on the CPU: NumPy sorts faster there.

    Args:
        boxes: (B, N, 4) xyxy pixels.
        scores: (B, N, C) in [0, 1].
    """
    if boxes.device.type != "cpu":
        return find_on_device(boxes, scores, conf_thres, classes, limit=limit)
    arrays = boxes.detach().float().numpy(), scores.detach().float().numpy()
    return suppression.find_candidates(*arrays, conf_thres, classes, limit=limit)


def find_on_device(
    boxes: Tensor, scores: Tensor, conf_thres: float, classes: np.ndarray | None, *, limit: int
) -> list[Detections]:
    """The same, chosen on the tensors' device and copied from it once a batch."""
    wanted = None if classes is None else torch.from_numpy(classes).to(scores.device)
    labels = torch.arange(scores.shape[2], device=scores.device) if wanted is None else wanted
    parts = [_candidates(*image, conf_thres, wanted, labels, limit) for image in zip(boxes, scores, strict=True)]
    if not parts:
        return []
    rows = torch.cat(parts).cpu().numpy()
    ends = np.cumsum([len(part) for part in parts])[:-1]
    return [
        Detections(part[:, :4].copy(), part[:, 4].copy(), part[:, 5].astype(np.int64)) for part in np.split(rows, ends)
    ]


def _candidates(
    boxes: Tensor, scores: Tensor, conf_thres: float, wanted: Tensor | None, labels: Tensor, limit: int
) -> Tensor:
    """(K, 6) float32 rows of one image: box, score, label (exact up to 2**24)."""
    if wanted is not None:
        scores = scores[:, wanted]
    usable = boxes.isfinite().all(dim=1, keepdim=True)
    pairs = ((scores > conf_thres) & usable).flatten().nonzero().squeeze(1)
    values = scores.flatten()[pairs]
    if len(pairs) > limit:  # cut first: sorting a million scores takes longer than all the rest
        lowest = values.topk(limit, sorted=False).values.min()
        above, equal = values > lowest, values == lowest
        keep = above | (equal & (equal.cumsum(0) <= limit - above.sum()))
        pairs, values = pairs[keep], values[keep]
    values, order = values.float().sort(descending=True, stable=True)
    rows, columns = pairs[order] // scores.shape[1], pairs[order] % scores.shape[1]
    return torch.cat((boxes[rows].float(), values[:, None], labels[columns, None].float()), dim=1)


@functools.cache
def nms() -> Callable[[Tensor, Tensor, float], Tensor]:
    """torchvision's operator, from its library alone: importing the package takes as long as all of torch.

    (N, 4) boxes, (N,) scores and the IoU -> (K,) int64 rows kept, best score first.
    """
    if not hasattr(torch.ops.torchvision, "nms"):
        package = find_spec("torchvision")
        folders = [Path(folder) for folder in (package and package.submodule_search_locations) or ()]
        libraries = [path for folder in folders for suffix in (".so", ".pyd") for path in folder.glob(f"_C*{suffix}")]
        with contextlib.suppress(OSError):  # of another build than torch, or where its own libraries are not found
            for library in libraries:
                torch.ops.load_library(library)
    if not hasattr(torch.ops.torchvision, "nms"):
        import torchvision  # noqa: F401  it knows better where its library is, or says what is wrong with it
    return torch.ops.torchvision.nms


def suppress_by_iou(candidates: Detections, iou_thres: float, *, limit: int) -> np.ndarray:
    """As `models.suppression.suppress_by_iou`, by torchvision."""
    count = 8 * limit
    while True:
        best = candidates.labels[:count]
        kept = [best[:0]]
        for label in np.unique(best):
            # Class by class: batched_nms shifts classes apart, which costs precision where coordinates are large.
            rows = np.flatnonzero(best == label)
            boxes, scores = torch.from_numpy(candidates.boxes[rows]), torch.from_numpy(candidates.scores[rows])
            kept.append(rows[nms()(boxes, scores, iou_thres).numpy()])
        best_kept = np.sort(np.concatenate(kept))
        if len(best_kept) >= limit or count >= len(candidates):
            return best_kept[:limit]
        count *= 4


def vote(detections: Detections, candidates: Detections) -> Detections:
    """As `models.suppression.vote`; overlaps by torch, which is faster."""

    def overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
        shared = box_iou(torch.from_numpy(boxes), torch.from_numpy(others))
        return shared.nan_to_num_(0.0).numpy()  # two boxes without area do not overlap

    return suppression.vote(detections, candidates, overlap=overlap)
