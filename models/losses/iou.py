"""Box regression losses for aligned pairs of boxes, on torchvision's IoU losses."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

from utils.boxes import aligned_iou


def iou_loss(boxes: Tensor, others: Tensor) -> Tensor:
    """(N,) 1 - IoU (Yu et al., arXiv:1608.01471, without the logarithm); no gradient where boxes do not meet.

    Args:
        boxes, others: (N, 4) xyxy in one unit.
    """
    return 1 - aligned_iou(boxes, others)


BOX_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "iou": iou_loss,
    "giou": generalized_box_iou_loss,
    "diou": distance_box_iou_loss,
    "ciou": complete_box_iou_loss,
}
"""(N, 4) predicted and target xyxy in one unit -> (N,) loss; 'mse' works on raw values and lives in AnchorLoss."""
