"""Box regression losses for aligned pairs of boxes; none of them asks the device how many boxes meet."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from utils.boxes import aligned_iou, centres_and_sides

EPS = 1e-7
"""Added to what is divided by, so that boxes without area have a finite loss."""


def iou_loss(boxes: Tensor, others: Tensor) -> Tensor:
    """(N,) 1 - IoU (Yu et al., arXiv:1608.01471, without the logarithm); no gradient where boxes do not meet.

    Args:
        boxes, others: (N, 4) xyxy in one unit.
    """
    return 1 - aligned_iou(boxes, others)


def squared_iou_loss(boxes: Tensor, others: Tensor) -> Tensor:
    """(N,) 1 - IoU^2 (YOLOX); where boxes do not meet, the DIoU loss, as the square would have no gradient.

    Args:
        boxes, others: (N, 4) xyxy in one unit.
    """
    distant, iou = _distance_loss_and_iou(boxes, others)
    return torch.where(iou > 0, 1 - iou**2, distant)


def generalized_iou_loss(boxes: Tensor, others: Tensor) -> Tensor:
    """(N,) 1 - IoU + the share of the enclosing box that neither fills (GIoU, Rezatofighi et al., arXiv:1902.09630).

    Args:
        boxes, others: (N, 4) xyxy in one unit.
    """
    overlap, union = _overlap_and_union(boxes, others)
    width, height = _enclosing(boxes, others)
    enclosing = width * height
    return 1 - overlap / (union + EPS) + (enclosing - union) / (enclosing + EPS)


def distance_iou_loss(boxes: Tensor, others: Tensor) -> Tensor:
    """(N,) 1 - IoU + the squared distance of the centres, in diagonals (DIoU, Zheng et al., arXiv:1911.08287).

    Args:
        boxes, others: (N, 4) xyxy in one unit.
    """
    return _distance_loss_and_iou(boxes, others)[0]


def complete_iou_loss(boxes: Tensor, others: Tensor) -> Tensor:
    """(N,) the DIoU loss + the mismatch of aspects (CIoU, Zheng et al., arXiv:1911.08287).

    Args:
        boxes, others: (N, 4) xyxy in one unit.
    Returns:
        No gradient passes through the weight of the mismatch.
    """
    loss, iou = _distance_loss_and_iou(boxes, others)
    _, _, width, height = centres_and_sides(boxes)
    _, _, other_width, other_height = centres_and_sides(others)
    mismatch = 4 / math.pi**2 * (torch.atan(other_width / other_height) - torch.atan(width / height)) ** 2
    weight = (mismatch / (1 - iou + mismatch + EPS)).detach()
    return loss + weight * mismatch


BOX_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "iou": iou_loss,
    "giou": generalized_iou_loss,
    "diou": distance_iou_loss,
    "ciou": complete_iou_loss,
}
"""(N, 4) predicted and target xyxy in one unit -> (N,) loss; 'mse' works on raw values and lives in AnchorLoss."""


def with_area(boxes: Tensor, *, least: float = 0.1) -> Tensor:
    """(P, 4) xyxy boxes with sides of at least `least` pixels, gradients as if nothing had been moved.

    A box without area has no finite gradient in CIoU.
    """
    missing = (least - (boxes[:, 2:] - boxes[:, :2])).clamp(min=0).detach() / 2
    return boxes + torch.cat((-missing, missing), dim=1)


def _distance_loss_and_iou(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    overlap, union = _overlap_and_union(boxes, others)
    iou = overlap / (union + EPS)
    width, height = _enclosing(boxes, others)
    x, y, _, _ = centres_and_sides(boxes)
    other_x, other_y, _, _ = centres_and_sides(others)
    distance = (x - other_x) ** 2 + (y - other_y) ** 2
    return 1 - iou + distance / (width**2 + height**2 + EPS), iou


def _overlap_and_union(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) areas; of boxes that do not meet the overlap has no gradient."""
    left, top, right, bottom = boxes.unbind(dim=-1)
    other_left, other_top, other_right, other_bottom = others.unbind(dim=-1)
    width = right.minimum(other_right) - left.maximum(other_left)
    height = bottom.minimum(other_bottom) - top.maximum(other_top)
    overlap = torch.where((width > 0) & (height > 0), width * height, 0)
    union = (right - left) * (bottom - top) + (other_right - other_left) * (other_bottom - other_top) - overlap
    return overlap, union


def _enclosing(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) width and height of the smallest box around each pair."""
    left, top, right, bottom = boxes.unbind(dim=-1)
    other_left, other_top, other_right, other_bottom = others.unbind(dim=-1)
    return right.maximum(other_right) - left.minimum(other_left), bottom.maximum(other_bottom) - top.minimum(other_top)
