"""Assigns objects to points by the predictions themselves: task-aligned and SimOTA assignment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy

from models.assigners.conflicts import settle
from utils.boxes import aligned_iou, centres_and_sides
from utils.structures import Targets

CHUNK = 256
"""Objects that are compared with the predictions of their images at a time: a pair of the two takes some 30 bytes.

A multiple of 32: the SIMD loops of a CPU then begin and end where those over all objects would, and no bit differs.
"""

LEAST_SCORE = 0.1
"""Target of an object's best positive at least; a box that meets nothing, with an IoU of 0, would have no weight."""

NO_MATCH = 1e-30
"""An alignment up to this is none: IoUs below 1e-5."""


class PointAssignment(NamedTuple):
    """Positives of a batch, among as many candidates of each object, so that nobody has to count them on a device.

    Args:
        image: (P,) position in the batch.
        point: (P,) index of the prediction; an (image, point) pair occurs once among the positives.
        target: (P,) index into Targets.
        score: (P,) in [0, 1], the score that the prediction should have; 0 of what is not positive.
        positive: (P,) bool, whether the candidate is one.
    """

    image: Tensor
    point: Tensor
    target: Tensor
    score: Tensor
    positive: Tensor


class TaskAlignedAssigner:
    """The points whose prediction is best at class and box together (TOOD, Feng et al., arXiv:2108.07755).

    A point is a candidate when it lies in the object; its alignment is score^alpha * IoU^beta, the best `top_k` of an
    object are positive, and a point wanted by several objects goes to the one with the highest IoU. The target score is
    the alignment, scaled so that an object's best positive has the object's best IoU as its target, at least 0.1. An
    object that no candidate overlaps has the nearest point that nobody else wants.

    Example: top_k 1, an object whose centre cell has score 0.25 and IoU 0.8 and whose neighbour has 0.81 and 0.7:
    alignments 0.5 * 0.262 = 0.131 and 0.9 * 0.118 = 0.106, so the centre cell is positive with target score 0.8.

    Args:
        top_k: positives of an object.
        alpha, beta: exponents of score and IoU.
        least_side: objects narrower than this many strides of the finest level are widened to it when candidates are
            looked for, so that none is without.
        one_to_one: of its `top_k` points an object keeps one, as `settle` says.
    """

    def __init__(
        self,
        *,
        top_k: int = 10,
        alpha: float = 0.5,
        beta: float = 6.0,
        least_side: float = 1.0,
        one_to_one: bool = False,
    ) -> None:
        if top_k < 1 or alpha < 0 or beta < 0:
            raise ValueError(f"expected top_k of at least 1, alpha and beta of at least 0: {top_k}, {alpha}, {beta}")
        self.top_k = top_k
        self.alpha = alpha
        self.beta = beta
        self.least_side = least_side
        self.one_to_one = one_to_one

    @torch.no_grad()
    def __call__(
        self, targets: Targets, boxes: Tensor, logits: Tensor, points: Tensor, strides: Tensor
    ) -> PointAssignment:
        """The positives of a batch.

        Args:
            targets: M objects on the device, boxes (M, 4) xyxy pixels of the network input.
            boxes, logits: (B, N, 4) xyxy pixels and (B, N, C) of the classes, as predicted.
            points, strides: (N, 2) x and y of the points and (N,) their strides, in pixels.
        """
        if not len(targets):
            return _none(boxes)
        columns, least = _columns(boxes), self.least_side * strides.min()
        parts = [self._candidates(some, columns, logits, points, least) for some in _chunks(targets)]
        best, iou, point = (torch.cat(each) for each in zip(*parts, strict=True))
        lost = best[:, :1] <= NO_MATCH
        claims, merit = lost | (best > NO_MATCH), torch.where(lost, best, iou)
        positive = settle(claims, merit, point, targets.image_index, boxes.shape, lost=lost, one_to_one=self.one_to_one)
        best, iou = best * positive, iou * positive
        peak = best.amax(dim=1, keepdim=True).clamp(min=torch.finfo(best.dtype).tiny)
        score = best / peak * iou.amax(dim=1, keepdim=True).clamp(min=LEAST_SCORE)
        return _assignment(targets, point, score, positive, one_to_one=self.one_to_one)

    def _candidates(
        self, targets: Targets, columns: Tensor, logits: Tensor, points: Tensor, least: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(M, k) alignment, IoU and point of the best candidates of each object, best first, the nearest points last.

        The alignment of a point that is no candidate is its nearness, at most `NO_MATCH`.

        Args:
            columns: from `_columns`; least: () pixels, as of `_inside_and_offset`.
        """
        iou = _overlaps(targets, columns)
        wanted = logits[targets.image_index, :, targets.labels].sigmoid()
        alignment = wanted.pow(self.alpha) * iou.pow(self.beta)
        inside, offset = _inside_and_offset(targets.boxes, points, least=least)
        alignment = (alignment * inside).maximum(NO_MATCH / (1 + offset))
        best, point = alignment.topk(min(self.top_k, alignment.shape[1]), dim=1)
        return best, iou.gather(1, point), point


class SimOTAAssigner:
    """The points of least cost, their number by the predictions (YOLOX, Ge et al., arXiv:2107.08430).

    An object gets k positives, where k is the sum of its `candidates` best IoUs, rounded down, at least 1: the points
    in the box or near its centre with the least class loss + `iou_gain` * -log IoU; points in both come first. A point
    wanted by several objects goes to the one with the least cost. The target score is the IoU, at least 0.1. Of an
    object that no box overlaps a near point costs less than a far one.

    Args:
        candidates: number of IoUs that are summed.
        iou_gain: weight of the box in the cost.
        radius: a point is near the centre within this many strides of its level, along both axes.
        one_to_one: an object keeps one of the `candidates` points of least cost, as `settle` says.
    """

    def __init__(
        self, *, candidates: int = 10, iou_gain: float = 3.0, radius: float = 2.5, one_to_one: bool = False
    ) -> None:
        if candidates < 1 or radius <= 0:
            raise ValueError(f"expected candidates of at least 1 and a radius above 0: {candidates}, {radius}")
        self.candidates = candidates
        self.iou_gain = iou_gain
        self.radius = radius
        self.one_to_one = one_to_one

    @torch.no_grad()
    def __call__(
        self, targets: Targets, boxes: Tensor, logits: Tensor, points: Tensor, strides: Tensor
    ) -> PointAssignment:
        """The positives of a batch; arguments as in TaskAlignedAssigner."""
        if not len(targets):
            return _none(boxes)
        columns, scores = _columns(boxes), logits.sigmoid().float()
        negative = binary_cross_entropy(scores, torch.zeros_like(scores), reduction="none")
        classes = scores, negative, negative.sum(dim=2)
        parts = [self._candidates(some, columns, classes, points, strides) for some in _chunks(targets)]
        claims, cost, iou, point = (torch.cat(each) for each in zip(*parts, strict=True))
        lost = iou.amax(dim=1, keepdim=True) == 0
        claims |= lost & (cost < torch.inf)
        positive = settle(claims, -cost, point, targets.image_index, boxes.shape, lost=lost, one_to_one=self.one_to_one)
        return _assignment(targets, point, iou.clamp(min=LEAST_SCORE) * positive, positive, one_to_one=self.one_to_one)

    def _candidates(
        self,
        targets: Targets,
        columns: Tensor,
        classes: tuple[Tensor, Tensor, Tensor],
        points: Tensor,
        strides: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(M, k) whether an object wants each of its cheapest points, their cost, their IoU, and which they are.

        Args:
            columns: from `_columns`; classes: as of `_class_cost`.
        """
        inside, offset = _inside_and_offset(targets.boxes, points, least=strides.new_zeros(()))
        near = offset < self.radius * strides
        # An object between the points still has the nearest one.
        near |= torch.zeros_like(near).scatter_(1, offset.argmin(dim=1, keepdim=True), True)
        possible = inside | near
        iou = _overlaps(targets, columns) * possible
        cost = self._class_cost(targets, *classes) - self.iou_gain * (iou + 1e-8 / (1 + offset)).log()
        cost = cost + 1e5 * ~(inside & near)
        cost = cost.masked_fill(~possible, torch.inf)
        most = min(self.candidates, iou.shape[1])  # no IoU is above 1
        least, point = cost.topk(most, dim=1, largest=False)
        overlap = iou.gather(1, point)
        if self.one_to_one:
            return least < torch.inf, least, overlap, point
        count = iou.topk(most, dim=1).values.sum(dim=1).int().clamp(min=1)
        count = count.minimum(possible.sum(dim=1).int())
        claims = torch.arange(most, device=cost.device) < count[:, None]
        return claims, least, overlap, point

    @staticmethod
    def _class_cost(targets: Targets, scores: Tensor, negative: Tensor, all_negative: Tensor) -> Tensor:
        """(M, N) cross-entropy of each prediction's classes against each object of its image.

        Args:
            scores: (B, N, C) in [0, 1]; negative: (B, N, C) cross-entropy of each against 0; all_negative: (B, N) its
                sum over the classes.
        """
        mine = scores[targets.image_index, :, targets.labels]
        positive = binary_cross_entropy(mine, torch.ones_like(mine), reduction="none")
        negative = negative[targets.image_index, :, targets.labels]
        return all_negative[targets.image_index] - negative + positive


def _none(boxes: Tensor) -> PointAssignment:
    """No positives at all, on the device of `boxes`."""
    nothing = torch.zeros(0, dtype=torch.int64, device=boxes.device)
    return PointAssignment(nothing, nothing, nothing, boxes.new_zeros(0), nothing.bool())


def _assignment(
    targets: Targets, point: Tensor, score: Tensor, positive: Tensor, *, one_to_one: bool
) -> PointAssignment:
    """The k candidates of each object, (M, k), in one list; with `one_to_one` the one that it keeps alone."""
    if one_to_one:
        kept = positive.int().argmax(dim=1, keepdim=True)
        point, score, positive = (part.gather(1, kept) for part in (point, score, positive))
    image = targets.image_index[:, None].expand_as(point).flatten()
    target = torch.arange(len(point), device=point.device)[:, None].expand_as(point).flatten()
    return PointAssignment(image, point.flatten(), target, score.flatten(), positive.flatten())


def _chunks(targets: Targets) -> Iterator[Targets]:
    """At most `CHUNK` objects at a time.

    In chunks of objects, not image by image, so that a GPU need not wait for their counts.
    """
    for start in range(0, len(targets), CHUNK):
        yield targets.select(slice(start, start + CHUNK))


def _columns(boxes: Tensor) -> Tensor:
    """(B, 4, N) of boxes (B, N, 4): all left sides, all tops, ...; a CPU reads them twice as fast."""
    return boxes.mT.contiguous()


def _overlaps(targets: Targets, columns: Tensor) -> Tensor:
    """(M, N) IoU of each object with each prediction of its image, 0 for predictions that are no boxes."""
    objects = targets.boxes.to(columns.dtype)[:, None]
    return aligned_iou(objects, columns[targets.image_index].mT).nan_to_num(0.0).clamp(0, 1)


def _inside_and_offset(boxes: Tensor, points: Tensor, *, least: Tensor) -> tuple[Tensor, Tensor]:
    """(M, N) whether a point lies in a box, its border included, and its distance to the centre along the longer axis.

    Args:
        least: () pixels; a narrower box is widened to it.
    """
    x, y, width, height = (part[:, None] for part in centres_and_sides(boxes))
    column, row = points.mT.contiguous()
    across, along = (column - x).abs(), (row - y).abs()
    half_width, half_height = (width / 2).clamp(min=least / 2), (height / 2).clamp(min=least / 2)
    return (across <= half_width) & (along <= half_height), across.maximum(along)
