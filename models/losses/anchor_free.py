"""AnchorFreeLoss: raw maps and targets -> box, distribution and class terms."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from models.assigners.points import SimOTAAssigner, TaskAlignedAssigner
from models.heads.anchor_free import AnchorFreeHead
from models.losses.crowd import background_weight
from models.losses.iou import BOX_LOSSES, with_area
from models.losses.pick import pick
from utils.dist import sum_over_ranks
from utils.schema import build
from utils.structures import Targets

POINT_ASSIGNERS = {"task_aligned": TaskAlignedAssigner, "simota": SimOTAAssigner}
ONE_TO_ONE = {"task_aligned": {"top_k": 7}, "simota": {"candidates": 7}}
"""The points among which an object finds its one positive; that of several, as others may take the best."""


class AnchorFreeLoss(nn.Module):
    """Box loss and distribution focal loss on positives, and cross-entropy of classes against the target scores.

    All terms are weighted by the target scores of the positives and divided by their sum over the whole batch and all
    ranks (TOOD, arXiv:2108.07755; distribution focal loss: arXiv:2006.04388). Predictions
    whose box lies in a crowd region are not trained as background.

    The maps of one-to-one branches get the same loss again, with terms of their own. Their positives come from what
    those branches predict, by the same rule, but with one positive per object (arXiv:2405.14458): of its best seven
    points the best that no other object takes.

    Args:
        head: the head whose raw maps are scored.
        assigner: mapping {type: task_aligned | simota, ...}.
        box: 'ciou', 'diou', 'giou' or 'iou'.
        box_gain, distribution_gain, class_gain: weights of the terms.
        one_to_many: of a head with one-to-one branches the weights of the other branches' terms at the start and at the
            end of the training, which change linearly in between; null: 1.
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
        one_to_many: list[float] | None = None,
    ) -> None:
        super().__init__()
        if one_to_many is not None and (len(one_to_many) != 2 or min(one_to_many) < 0):
            raise ValueError(f"one_to_many: expected two numbers of at least 0, start and end, found {one_to_many}")
        if one_to_many is not None and not head.one_to_one:
            raise ValueError(
                "one_to_many: the head has no one-to-one branches; leave this key out, or set head.one_to_one to true"
            )
        self.head = head
        self.one_to_many = one_to_many or [1.0, 1.0]
        self.progress = 0.0
        spec = assigner or {"type": "task_aligned"}
        self.assigner = build(POINT_ASSIGNERS, spec, where="loss.assigner", one_to_one=False)
        self.one_to_one_assigner = build(
            POINT_ASSIGNERS, {**spec, **ONE_TO_ONE[spec["type"]]}, where="loss.assigner", one_to_one=True
        )
        self.box = box
        self.gains = {"box": box_gain, "distribution": distribution_gain, "class": class_gain}

    def begin_batch(self, *, index: int, count: int, progress: float) -> None:
        """Take note of the progress of the training, in [0, 1]; of a training that is resumed it is what it was."""
        self.progress = progress

    def forward(self, raw_maps: list[Tensor], targets: Targets) -> dict[str, Tensor]:
        """The weighted terms 'box', 'distribution' and 'class'; the loss is their sum.

        Of a head with one-to-one branches also 'box_one_to_one', 'distribution_one_to_one' and 'class_one_to_one'.

        Args:
            raw_maps: (B, 4 * bins + C, h, w) a level, as the head gives them in training mode.
            targets: objects of the batch, on the host; boxes (N, 4) xyxy pixels of the network input.
        """
        levels = len(self.head.strides)
        terms = self._terms(raw_maps[:levels], targets, self.assigner)
        if self.head.one_to_one:
            start, end = self.one_to_many
            weight = start + (end - start) * self.progress
            terms = {name: value * weight for name, value in terms.items()}
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
        # Prediction by prediction in memory, as maps in channels_last are.
        values = torch.cat([raw.permute(0, 2, 3, 1).flatten(1, 2) for raw in raw_maps], dim=1)
        points, strides = self.head.points(raw_maps)
        crowd, objects = (targets.select(rows).to(values.device) for rows in (targets.crowd, ~targets.crowd))
        boxes, logits = self._predicted(values.detach(), points, strides)
        positives = assigner(objects, boxes, logits, points, strides)
        weight = background_weight(boxes, crowd, positives)
        total = sum_over_ranks(positives.score.sum()).clamp(min=1)

        places, for_boxes = (positives.image, positives.point), 4 * self.head.bins
        found, logits = pick(values, places, slice(for_boxes, None))
        # Cross-entropy against a target t is softplus(x) - t * x, and t is 0 but for the class of a positive.
        background = softplus(logits) if weight is None else softplus(logits) * weight
        own = found[:, for_boxes:].gather(1, objects.labels[positives.target, None]).squeeze(1)
        goals, mine = objects.boxes[positives.target], found[:, :for_boxes].unflatten(1, (4, -1))
        points, strides = points[positives.point], strides[positives.point]
        predicted = torch.where(positives.positive[:, None], self.head.decode_boxes(mine, points, strides), goals)
        overlap = BOX_LOSSES[self.box](with_area(predicted), goals)
        distribution = self._distribution_loss(mine, goals, points, strides)
        sums = {
            "box": (overlap * positives.score).sum(),
            "distribution": (distribution * positives.score).sum(),
            "class": background.sum() - (own * positives.score).sum(),
        }
        return {name: value * (self.gains[name] / total) for name, value in sums.items()}

    def _predicted(self, values: Tensor, points: Tensor, strides: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, 4) xyxy pixels and (B, N, C) class logits, of (B, N, 4 * bins + C) values."""
        sides, logits = values.split((4 * self.head.bins, self.head.num_classes), dim=2)
        return self.head.decode_boxes(sides.unflatten(2, (4, self.head.bins)), points, strides), logits

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
        shares, places = torch.stack((1 - share, share), dim=2), torch.stack((low, low + 1), dim=2)
        return -(sides.log_softmax(dim=2).gather(2, places) * shares).sum(dim=2).mean(dim=1)
