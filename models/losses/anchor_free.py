"""AnchorFreeLoss: raw maps and targets -> box, distribution and class terms."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from models.assigners.points import PointAssignment, SimOTAAssigner, TaskAlignedAssigner
from models.heads.anchor_free import AnchorFreeHead
from models.losses.crowd import in_crowd
from models.losses.iou import BOX_LOSSES
from utils.dist import sum_over_ranks
from utils.schema import build
from utils.structures import Targets

POINT_ASSIGNERS = {"task_aligned": TaskAlignedAssigner, "simota": SimOTAAssigner}
ONE_TO_ONE = {"task_aligned": {"top_k": 1}, "simota": {"candidates": 1}}
"""With these arguments an assigner gives an object one positive, or none where another object takes that point."""


class AnchorFreeLoss(nn.Module):
    """Box loss and distribution focal loss on positives, and cross-entropy of classes against the target scores.

    All terms are weighted by the target scores of the positives and divided by their sum over the whole batch and all
    ranks (TOOD, arXiv:2108.07755; distribution focal loss: arXiv:2006.04388). Predictions
    whose box lies in a crowd region are not trained as background.

    The maps of one-to-one branches get the same loss again, with terms of their own. Their positives come from what
    those branches predict, by the same rule, but with one positive per object (arXiv:2405.14458).

    Args:
        head: the head whose raw maps are scored.
        assigner: mapping {type: task_aligned | simota, ...}.
        box: 'ciou', 'diou', 'giou' or 'iou'.
        box_gain, distribution_gain, class_gain: weights of the terms.
    """

    def __init__(
        self,
        *,
        head: AnchorFreeHead,
        assigner: dict | None = None,
        box: Literal["ciou", "diou", "giou", "iou"] = "ciou",
        box_gain: float = 7.5,
        distribution_gain: float = 1.5,
        class_gain: float = 0.5,
    ) -> None:
        super().__init__()
        self.head = head
        spec = assigner or {"type": "task_aligned"}
        self.assigner = build(POINT_ASSIGNERS, spec, where="loss.assigner")
        self.one_to_one_assigner = build(POINT_ASSIGNERS, {**spec, **ONE_TO_ONE[spec["type"]]}, where="loss.assigner")
        self.box = box
        self.gains = {"box": box_gain, "distribution": distribution_gain, "class": class_gain}

    def forward(self, raw_maps: list[Tensor], targets: Targets) -> dict[str, Tensor]:
        """The weighted terms 'box', 'distribution' and 'class'; the loss is their sum.

        Of a head with one-to-one branches also 'box_one_to_one', 'distribution_one_to_one' and 'class_one_to_one'.

        Args:
            raw_maps: (B, 4 * bins + C, h, w) a level, as the head gives them in training mode.
            targets: objects of the batch, boxes (N, 4) xyxy pixels of the network input.
        """
        levels = len(self.head.strides)
        terms = self._terms(raw_maps[:levels], targets, self.assigner)
        if self.head.one_to_one:
            more = self._terms(raw_maps[levels:], targets, self.one_to_one_assigner)
            terms |= {f"{name}_one_to_one": value for name, value in more.items()}
        return terms

    def _terms(
        self, raw_maps: list[Tensor], targets: Targets, assigner: TaskAlignedAssigner | SimOTAAssigner
    ) -> dict[str, Tensor]:
        """The terms of one pair of branches.

        Args:
            raw_maps: (B, 4 * bins + C, h, w) a level.
        """
        raw_maps = [raw.float() for raw in raw_maps]
        sides, logits = self.head.flatten(raw_maps)
        points, strides = self.head.points(raw_maps)
        boxes = self.head.decode_boxes(sides, points, strides)
        objects = targets.select(~targets.crowd)
        positives = assigner(objects, boxes.detach(), logits.detach().sigmoid(), points, strides)
        total = sum_over_ranks(positives.score.sum()).clamp(min=1)

        wanted = torch.zeros_like(logits)
        wanted[positives.image, positives.point, objects.labels[positives.target]] = positives.score
        weight = self._background_weight(boxes.detach(), targets, positives)
        classes = binary_cross_entropy_with_logits(logits, wanted, weight=weight, reduction="sum")
        cells = (positives.image, positives.point)
        goals = objects.boxes[positives.target]
        overlap = BOX_LOSSES[self.box](_with_area(boxes[cells]), goals)
        distribution = self._distribution_loss(sides[cells], goals, points[positives.point], strides[positives.point])
        sums = {
            "box": (overlap * positives.score).sum(),
            "distribution": (distribution * positives.score).sum(),
            "class": classes,
        }
        return {name: value * (self.gains[name] / total) for name, value in sums.items()}

    def background(self, raw_maps: list[Tensor]) -> Tensor:
        """() the class loss of images without any object, summed over all predictions, before gains.

        Args:
            raw_maps: as the head gives them in either mode.
        """
        _, logits = self.head.flatten([raw.float() for raw in raw_maps])
        return binary_cross_entropy_with_logits(logits, torch.zeros_like(logits), reduction="sum")

    def _distribution_loss(self, sides: Tensor, goals: Tensor, points: Tensor, strides: Tensor) -> Tensor:
        """(P,) cross-entropy of each side's distribution against the two distances next to the true one.

        Args:
            sides: (P, 4, bins) logits.
            goals: (P, 4) xyxy pixels; points, strides: (P, 2) and (P,) pixels.
        """
        last = self.head.bins - 1
        if last == 0:
            return sides.sum(dim=(1, 2)) * 0
        distances = torch.cat((points - goals[:, :2], goals[:, 2:] - points), dim=1) / strides[:, None]
        distances = distances.clamp(0, last - 0.01)
        low = distances.long()
        share = distances - low
        flat, low = sides.flatten(0, 1), low.flatten()
        below, above = cross_entropy(flat, low, reduction="none"), cross_entropy(flat, low + 1, reduction="none")
        loss = below.view_as(share) * (1 - share) + above.view_as(share) * share
        return loss.mean(dim=1)

    @staticmethod
    def _background_weight(boxes: Tensor, targets: Targets, positives: PointAssignment) -> Tensor | None:
        """(B, N, 1): 0 where a prediction lies in a crowd region and answers for no object; None without crowds."""
        if not bool(targets.crowd.any()):
            return None
        weight = boxes.new_ones(boxes.shape[:2])
        crowd = targets.select(targets.crowd)
        for image in crowd.image_index.unique().tolist():
            regions = crowd.boxes[crowd.image_index == image]
            weight[image][in_crowd(boxes[image], regions)] = 0
        weight[positives.image, positives.point] = 1
        return weight[..., None]


def _with_area(boxes: Tensor, *, least: float = 0.1) -> Tensor:
    """(P, 4) xyxy boxes with sides of at least `least` pixels, gradients as if nothing had been moved.

    A box without area has no finite gradient in CIoU.
    """
    missing = (least - (boxes[:, 2:] - boxes[:, :2])).clamp(min=0).detach() / 2
    return boxes + torch.cat((-missing, missing), dim=1)
