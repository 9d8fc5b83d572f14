"""Assigns objects to points by the predictions themselves: task-aligned and SimOTA assignment."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy

from utils.boxes import aligned_iou
from utils.structures import Targets


class PointAssignment(NamedTuple):
    """Positives of a batch.

    Args:
        image: (P,) position in the batch.
        point: (P,) index of the prediction; an (image, point) pair occurs once.
        target: (P,) index into Targets.
        score: (P,) in [0, 1], the score that the prediction should have.
    """

    image: Tensor
    point: Tensor
    target: Tensor
    score: Tensor


class TaskAlignedAssigner:
    """The points whose prediction is best at class and box together (TOOD, Feng et al., arXiv:2108.07755).

    A point is a candidate when it lies in the object; its alignment is score^alpha * IoU^beta, the best `top_k` of an
    object are positive, and a point wanted by several objects goes to the one with the highest IoU. The target score is
    the alignment, scaled so that an object's best positive has the object's best IoU as its target.

    Example: top_k 1, an object whose centre cell has score 0.25 and IoU 0.8 and whose neighbour has 0.81 and 0.7:
    alignments 0.5 * 0.262 = 0.131 and 0.9 * 0.118 = 0.106, so the centre cell is positive with target score 0.8.

    Args:
        top_k: positives of an object.
        alpha, beta: exponents of score and IoU.
        least_side: objects narrower than this many strides of the finest level are widened to it when candidates are
            looked for, so that none is without.
    """

    def __init__(self, *, top_k: int = 10, alpha: float = 0.5, beta: float = 6.0, least_side: float = 1.0) -> None:
        if top_k < 1 or alpha < 0 or beta < 0:
            raise ValueError(f"expected top_k of at least 1, alpha and beta of at least 0: {top_k}, {alpha}, {beta}")
        self.top_k = top_k
        self.alpha = alpha
        self.beta = beta
        self.least_side = least_side

    @torch.no_grad()
    def __call__(
        self, targets: Targets, boxes: Tensor, scores: Tensor, points: Tensor, strides: Tensor
    ) -> PointAssignment:
        """The positives of a batch.

        Args:
            targets: M objects, boxes (M, 4) xyxy pixels of the network input.
            boxes, scores: (B, N, 4) xyxy pixels and (B, N, C) probabilities, as predicted.
            points, strides: (N, 2) x and y of the points and (N,) their strides, in pixels.
        """
        if not len(targets):
            return _none(boxes)
        iou = _overlaps(targets, boxes)
        inside = _inside(targets.boxes, points, least=self.least_side * float(strides.min()))
        wanted = scores[targets.image_index, :, targets.labels]
        alignment = wanted.pow(self.alpha) * iou.pow(self.beta) * inside
        best, points_of_best = alignment.topk(min(self.top_k, alignment.shape[1]), dim=1)
        positive = torch.zeros_like(inside).scatter_(1, points_of_best, best > 0)
        positive = _one_object_a_point(positive, iou, targets.image_index, len(boxes))
        alignment, iou = alignment * positive, iou * positive
        peak = alignment.amax(dim=1, keepdim=True).clamp(min=torch.finfo(alignment.dtype).tiny)
        score = alignment / peak * iou.amax(dim=1, keepdim=True)
        target, point = positive.nonzero(as_tuple=True)
        return PointAssignment(targets.image_index[target], point, target, score[target, point])


class SimOTAAssigner:
    """The points of least cost, their number by the predictions (YOLOX, Ge et al., arXiv:2107.08430).

    An object gets k positives, where k is the sum of its `candidates` best IoUs, rounded down, at least 1: the points
    in the box or near its centre with the least class loss + `iou_gain` * -log IoU; points in both come first. A point
    wanted by several objects goes to the one with the least cost. The target score is the IoU.

    Args:
        candidates: number of IoUs that are summed.
        iou_gain: weight of the box in the cost.
        radius: a point is near the centre within this many strides of its level, along both axes.
    """

    def __init__(self, *, candidates: int = 10, iou_gain: float = 3.0, radius: float = 2.5) -> None:
        if candidates < 1 or radius <= 0:
            raise ValueError(f"expected candidates of at least 1 and a radius above 0: {candidates}, {radius}")
        self.candidates = candidates
        self.iou_gain = iou_gain
        self.radius = radius

    @torch.no_grad()
    def __call__(
        self, targets: Targets, boxes: Tensor, scores: Tensor, points: Tensor, strides: Tensor
    ) -> PointAssignment:
        """The positives of a batch; arguments as in TaskAlignedAssigner."""
        if not len(targets):
            return _none(boxes)
        inside = _inside(targets.boxes, points, least=0.0)
        centres = (targets.boxes[:, :2] + targets.boxes[:, 2:]) / 2
        offset = (points - centres[:, None]).abs().amax(dim=2)
        near = offset < self.radius * strides
        # An object between the points still has the nearest one.
        near |= torch.zeros_like(near).scatter_(1, offset.argmin(dim=1, keepdim=True), True)
        possible = inside | near
        iou = _overlaps(targets, boxes) * possible
        cost = self._class_cost(targets, scores) - self.iou_gain * (iou + 1e-8).log()
        cost = cost + 1e5 * ~(inside & near)
        cost = cost.masked_fill(~possible, torch.inf)
        count = iou.topk(min(self.candidates, iou.shape[1]), dim=1).values.sum(dim=1).int().clamp(min=1)
        count = count.minimum(possible.sum(dim=1).int())
        most = int(count.max())
        cheapest = cost.topk(most, dim=1, largest=False).indices
        taken = torch.arange(most, device=cost.device) < count[:, None]
        positive = torch.zeros_like(inside).scatter_(1, cheapest, taken)
        positive = _one_object_a_point(positive, -cost, targets.image_index, len(boxes))
        target, point = positive.nonzero(as_tuple=True)
        return PointAssignment(targets.image_index[target], point, target, iou[target, point])

    @staticmethod
    def _class_cost(targets: Targets, scores: Tensor) -> Tensor:
        """(M, N) cross-entropy of each prediction's classes against each object of its image."""
        scores = scores.float()
        negative = binary_cross_entropy(scores, torch.zeros_like(scores), reduction="none")
        mine = scores[targets.image_index, :, targets.labels]
        all_negative = negative.sum(dim=2)[targets.image_index]
        positive = binary_cross_entropy(mine, torch.ones_like(mine), reduction="none")
        return all_negative - negative[targets.image_index, :, targets.labels] + positive


def _none(boxes: Tensor) -> PointAssignment:
    """No positives at all, on the device of `boxes`."""
    nothing = torch.zeros(0, dtype=torch.int64, device=boxes.device)
    return PointAssignment(nothing, nothing, nothing, boxes.new_zeros(0))


def _overlaps(targets: Targets, boxes: Tensor) -> Tensor:
    """(M, N) IoU of each object with each prediction of its image, 0 for predictions that are no boxes.

    In chunks of objects, not image by image, so that a GPU need not wait for their counts.
    """
    pairs = zip(targets.boxes.to(boxes.dtype).split(256), targets.image_index.split(256), strict=True)
    overlaps = [aligned_iou(objects[:, None], boxes[images]) for objects, images in pairs]
    return torch.cat(overlaps).nan_to_num(0.0).clamp(0, 1)


def _inside(boxes: Tensor, points: Tensor, *, least: float) -> Tensor:
    """(M, N) whether a point lies in a box, its border included, made at least `least` pixels wide and high."""
    centres, half = (boxes[:, :2] + boxes[:, 2:]) / 2, ((boxes[:, 2:] - boxes[:, :2]) / 2).clamp(min=least / 2)
    return ((points - centres[:, None]).abs() <= half[:, None]).all(dim=2)


def _one_object_a_point(positive: Tensor, merit: Tensor, image_index: Tensor, batch: int) -> Tensor:
    """(M, N) `positive`, each point of an image left to the object with the highest merit, the first of equals."""
    merit = merit.masked_fill(~positive, -torch.inf)
    index = image_index[:, None].expand_as(merit)
    best = merit.new_full((batch, merit.shape[1]), -torch.inf).scatter_reduce(0, index, merit, reduce="amax")
    wins = positive & (merit == best[image_index])
    order = torch.arange(len(merit), device=merit.device)[:, None].expand_as(merit)
    order = order.masked_fill(~wins, len(merit))
    first = order.new_full((batch, merit.shape[1]), len(merit)).scatter_reduce(0, index, order, reduce="amin")
    return wins & (order == first[image_index])
