"""DecoupledLoss: YOLOX's loss, raw maps and targets -> box, objectness and class terms."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from models.assigners.points import SimOTAAssigner
from models.heads.decoupled import DecoupledHead
from models.losses.crowd import background_weight
from models.losses.iou import BOX_LOSSES, EPS, squared_iou_loss, with_area
from models.losses.pick import pick
from utils.boxes import xyxy_to_cxcywh
from utils.dist import sum_over_ranks
from utils.schema import build
from utils.structures import Targets


class DecoupledLoss(nn.Module):
    """YOLOX's loss (Ge et al., arXiv:2107.08430): SimOTA chooses the positives, and their number divides all terms.

    Boxes of positives by 1 - IoU^2 (by DIoU where they do not meet the object's), objectness of all cells by
    cross-entropy against 1 and 0, classes of positives by cross-entropy against the IoU, which counts as at least 0.1.
    What SimOTA takes for a score is the root of objectness times class probability. Predictions whose box lies in a
    crowd region are not trained as background.

    Args:
        head: the head whose raw maps are scored.
        assigner: the keys of SimOTAAssigner.
        box: 'squared_iou', or a box loss of the other heads.
        box_gain, objectness_gain, class_gain: weights of the terms.
        l1_gain: weight of a fourth term, the distance between the raw box and that of the object, summed over its four
            values. YOLOX has it at 1 for its last epochs, without mosaic.
    """

    def __init__(
        self,
        *,
        head: DecoupledHead,
        assigner: dict | None = None,
        box: Literal["squared_iou", "ciou", "diou", "giou", "iou"] = "squared_iou",
        box_gain: float = 5.0,
        objectness_gain: float = 1.0,
        class_gain: float = 1.0,
        l1_gain: float = 0.0,
    ) -> None:
        super().__init__()
        self.head = head
        spec = {"type": "simota", **(assigner or {})}
        self.assigner = build({"simota": SimOTAAssigner}, spec, where="loss.assigner", one_to_one=False)
        self.box = box
        self.gains = {"box": box_gain, "objectness": objectness_gain, "class": class_gain, "l1": l1_gain}

    def forward(self, raw_maps: list[Tensor], targets: Targets) -> dict[str, Tensor]:
        """The weighted terms 'box', 'objectness' and 'class', and 'l1' where it has a weight; the loss is their sum.

        Args:
            raw_maps: (B, 5 + C, h, w) a level.
            targets: objects of the batch, on the host; boxes (N, 4) xyxy pixels of the network input.
        """
        raw_maps = [raw.float() for raw in raw_maps]
        # Prediction by prediction in memory, as maps in channels_last are.
        values = torch.cat([raw.permute(0, 2, 3, 1).flatten(1, 2) for raw in raw_maps], dim=1)
        cells, strides = self.head.cells(raw_maps)
        crowd, objects = (targets.select(rows).to(values.device) for rows in (targets.crowd, ~targets.crowd))
        boxes = self.head.decode_boxes(values.detach()[..., :4], cells, strides)
        points = (cells + 0.5) * strides[:, None]
        positives = self.assigner(objects, boxes, _joint_logits(values.detach()), points, strides)
        chosen = positives.positive.to(values.dtype)
        total = sum_over_ranks(chosen.sum()).clamp(min=1)

        found, objectness = pick(values, (positives.image, positives.point), slice(4, 5))
        goals, mine = objects.boxes[positives.target], found[:, :4]
        cells, strides = cells[positives.point], strides[positives.point]
        predicted = torch.where(chosen[:, None] > 0, self.head.decode_boxes(mine, cells, strides), goals)
        wanted = torch.zeros_like(found[:, 5:]).scatter(
            1, objects.labels[positives.target, None], positives.score[:, None].to(found.dtype)
        )
        classes = binary_cross_entropy_with_logits(found[:, 5:], wanted, reduction="none").sum(dim=1)
        # Cross-entropy against a target t is softplus(x) - t * x, and t is 0 but for the positives.
        weight = background_weight(boxes, crowd, positives)
        background = softplus(objectness) if weight is None else softplus(objectness) * weight
        sums = {
            "box": (self._box_loss(predicted, goals) * chosen).sum(),
            "objectness": background.sum() - (found[:, 4] * chosen).sum(),
            "class": (classes * chosen).sum(),
        }
        if self.gains["l1"]:
            sums["l1"] = (self._distance(mine, goals, cells, strides) * chosen).sum()
        return {name: value * (self.gains[name] / total) for name, value in sums.items()}

    def background(self, raw_maps: list[Tensor]) -> Tensor:
        """() the objectness loss of images without any object, summed over all predictions, before gains."""
        return torch.stack([softplus(raw[:, 4].float()).sum() for raw in raw_maps]).sum()

    def _box_loss(self, boxes: Tensor, goals: Tensor) -> Tensor:
        """(P,) of (P, 4) xyxy pixels each."""
        if self.box == "squared_iou":
            return squared_iou_loss(boxes, goals)
        return BOX_LOSSES[self.box](with_area(boxes), goals)

    @staticmethod
    def _distance(values: Tensor, goals: Tensor, cells: Tensor, strides: Tensor) -> Tensor:
        """(P,) of raw boxes (P, 4), their goals (P, 4) xyxy pixels, and cells (P, 2) and strides (P,)."""
        goals = xyxy_to_cxcywh(goals) / strides[:, None]
        wanted = torch.cat((goals[:, :2] - cells, (goals[:, 2:] + EPS).log()), dim=1)
        return (values - wanted).abs().sum(dim=1)


def _joint_logits(values: Tensor) -> Tensor:
    """(B, N, 5 + C) predictions -> (B, N, C) logits of the root of objectness times class probability."""
    return (values[..., 4:5].sigmoid() * values[..., 5:].sigmoid()).sqrt().logit(eps=1e-6)
