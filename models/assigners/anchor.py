"""Assigns objects to anchors: by the overlap of shapes, as darknet does, or by the ratio of sides."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from utils.boxes import shape_iou, xyxy_to_cxcywh
from utils.structures import Targets


@dataclass(frozen=True, eq=False)
class Assignment:
    """Positives of one level: prediction (image, anchor, row, column) is to find object `target`; all (P,) int64."""

    image: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor
    target: Tensor

    def __len__(self) -> int:
        return len(self.image)


class AnchorIoUAssigner:
    """Darknet's rule (docs/networks.md, Targets and losses, items 3 and 4).

    An object belongs to the cell of its centre. Over all levels the anchor with the best shape IoU is positive, and so
    is every other anchor whose shape IoU is above `iou_thresh`.

    Example: a 50 x 50 object and anchors 10 x 13 (IoU 0.05), 62 x 45 (0.75), 59 x 119 (0.36). With iou_thresh 1 only
    the second is positive, with 0.213 (YOLOv4) the second and the third.

    Args:
        iou_thresh: 1 turns the additional anchors off (YOLOv3).
    """

    def __init__(self, *, iou_thresh: float = 0.213) -> None:
        if not 0 < iou_thresh <= 1:
            raise ValueError(f"iou_thresh: expected a number in (0, 1], found {iou_thresh}")
        self.iou_thresh = iou_thresh

    def __call__(
        self, targets: Targets, anchors: list[Tensor], strides: tuple[int, ...], map_sizes: list[tuple[int, int]]
    ) -> list[Assignment]:
        """One Assignment a level.

        Args:
            targets: objects, without crowd regions; boxes (N, 4) xyxy pixels of the network input.
            anchors: (A, 2) width and height in pixels for each level.
            strides: pixels a cell of each level.
            map_sizes: (rows, columns) of each level.
        """
        boxes = xyxy_to_cxcywh(targets.boxes)
        overlap = shape_iou(boxes[:, 2:], torch.cat(anchors))
        positive = overlap > self.iou_thresh
        if len(targets):
            positive[torch.arange(len(targets), device=boxes.device), overlap.argmax(dim=1)] = True
        result, first = [], 0
        for level_anchors, stride, map_size in zip(anchors, strides, map_sizes, strict=True):
            objects, anchor = positive[:, first : first + len(level_anchors)].nonzero(as_tuple=True)
            cells = (boxes[objects, :2] / stride).long()
            result.append(_locate(targets, objects, anchor, cells, map_size))
            first += len(level_anchors)
        return result


class AnchorRatioAssigner:
    """Every anchor whose width and height differ from the object's by less than a factor is positive, at every level.

    An object unlike all anchors has the one that is least unlike it.

    With `neighbours` the two cells nearest to the centre (one beside, one above or below) are positive as well; the
    head's centres must then reach half a cell beyond their own (scale_xy of at least 2).

    Example: factor 4 and a 50 x 50 object: anchors 13 x 13 to 199 x 199 are positive; at stride 8 an object with its
    centre at (83, 46), cell (10, 5) at fractions (0.375, 0.75), is also given to cells (9, 5) and (10, 6).

    Args:
        scale_xy: of the head, one a level.
        factor: largest ratio between a side and the anchor's, either way.
        neighbours: give each object to three cells instead of one; null: where scale_xy allows it.
    """

    def __init__(self, *, scale_xy: tuple[float, ...], factor: float = 4.0, neighbours: bool | None = None) -> None:
        if factor <= 1:
            raise ValueError(f"factor: expected a number above 1, found {factor}")
        reach = min(scale_xy) >= 2
        if neighbours and not reach:
            raise ValueError(
                f"neighbours: a neighbouring cell reaches the object's centre only with scale_xy of at least 2, and "
                f"the head has {scale_xy}; set head.scale_xy to 2, or neighbours to false"
            )
        self.factor = factor
        self.neighbours = reach if neighbours is None else neighbours

    def __call__(
        self, targets: Targets, anchors: list[Tensor], strides: tuple[int, ...], map_sizes: list[tuple[int, int]]
    ) -> list[Assignment]:
        """One Assignment a level; arguments as in AnchorIoUAssigner."""
        boxes = xyxy_to_cxcywh(targets.boxes)
        ratio = boxes[:, None, 2:] / torch.cat(anchors)
        misfit = torch.maximum(ratio, 1 / ratio).amax(dim=-1)
        least, nearest = misfit.min(dim=1, keepdim=True)
        # A box without area, whose misfit is infinite, has none.
        positive = misfit < self.factor
        positive.scatter_(1, nearest, least.isfinite())
        result = []
        for own, stride, map_size in zip(
            positive.split(list(map(len, anchors)), dim=1), strides, map_sizes, strict=True
        ):
            objects, anchor = own.nonzero(as_tuple=True)
            centres = boxes[objects, :2] / stride
            cells = centres.long()
            if self.neighbours:
                objects, anchor, cells = _with_neighbours(objects, anchor, cells, centres - cells, map_size)
            result.append(_locate(targets, objects, anchor, cells, map_size))
        return result


def _locate(targets: Targets, objects: Tensor, anchor: Tensor, cells: Tensor, map_size: tuple[int, int]) -> Assignment:
    """The assignment of `objects` (P,) to `anchor` (P,) in `cells` (P, 2: column, row), kept inside the map."""
    height, width = map_size
    column, row = cells[:, 0].clamp(0, width - 1), cells[:, 1].clamp(0, height - 1)
    return Assignment(targets.image_index[objects], anchor, row, column, objects)


def _with_neighbours(
    objects: Tensor, anchor: Tensor, cells: Tensor, fraction: Tensor, map_size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """The same assignments and, for each, the nearer cell beside and the nearer cell above or below, if in the map.

    Args:
        objects, anchor: (P,) indices; cells: (P, 2) column and row.
        fraction: (P, 2) where the centre lies in its cell, x and y in [0, 1).
    """
    limit = cells.new_tensor((map_size[1], map_size[0]))
    direction = torch.where(fraction < 0.5, -1, 1)
    indices, moved = [torch.arange(len(cells), device=cells.device)], [cells]
    for axis in (0, 1):
        neighbour = cells.clone()
        neighbour[:, axis] += direction[:, axis]
        inside = ((neighbour >= 0) & (neighbour < limit)).all(dim=1).nonzero()[:, 0]
        indices.append(inside)
        moved.append(neighbour[inside])
    index = torch.cat(indices)
    return objects[index], anchor[index], torch.cat(moved)
