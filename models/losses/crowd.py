"""Predictions that are not to be called background: those in crowd regions, and those that overlap an object enough."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from models.assigners.points import PointAssignment
from utils.boxes import aligned_iou
from utils.structures import Targets

COVERED = 0.5
"""A box lies in a crowd region from more than this share of its area on."""

CHUNK = 64
"""Targets that are compared with the predictions of their images at a time, to bound the memory."""


def in_crowd(boxes: Tensor, crowd: Targets) -> Tensor:
    """(B, N) bool: which boxes lie in a region of their image, by the share of the box's area, as COCO matches crowds.

    Args:
        boxes: (B, N, 4) xyxy pixels.
        crowd: the regions, on the device of `boxes`.
    """
    return _meet(boxes, crowd, _covered_share, above=COVERED)


def overlaps_object(boxes: Tensor, objects: Targets, thresh: float) -> Tensor:
    """(B, N) bool: which boxes have an IoU above `thresh` with an object of their image; arguments as in `in_crowd`."""
    return _meet(boxes, objects, _iou, above=thresh)


def background_weight(boxes: Tensor, crowd: Targets, positives: PointAssignment) -> Tensor | None:
    """(B, N, 1): 0 where a prediction lies in a crowd region and answers for no object; None without crowds.

    Args:
        boxes, crowd: as in `in_crowd`.
    """
    if not len(crowd):
        return None
    places = (positives.image, positives.point)
    answers = boxes.new_zeros(boxes.shape[:2])
    answers.index_put_(places, positives.positive.to(boxes.dtype), accumulate=True)
    return ((answers > 0) | ~in_crowd(boxes, crowd)).to(boxes.dtype)[..., None]


def _meet(boxes: Tensor, targets: Targets, measure: Callable[[Tensor, Tensor], Tensor], *, above: float) -> Tensor:
    """(B, N) bool: which boxes have one target in their image for which `measure` is above a limit.

    In chunks of targets, not image by image, so that nobody has to know how many each image has.
    """
    found = boxes.new_zeros(boxes.shape[:2])
    pairs = zip(targets.boxes.to(boxes.dtype).split(CHUNK), targets.image_index.split(CHUNK), strict=True)
    for regions, images in pairs:
        meets = measure(boxes[images], regions[:, None]) > above
        found.index_add_(0, images, meets.to(found.dtype))
    return found > 0


def _covered_share(boxes: Tensor, regions: Tensor) -> Tensor:
    """(...) the share of each box's area that lies in a region; (..., 4) xyxy, broadcast against each other."""
    left, top, right, bottom = boxes.unbind(dim=-1)
    region_left, region_top, region_right, region_bottom = regions.unbind(dim=-1)
    width = (right.minimum(region_right) - left.maximum(region_left)).clamp(min=0)
    height = (bottom.minimum(region_bottom) - top.maximum(region_top)).clamp(min=0)
    return width * height / ((right - left) * (bottom - top)).clamp(min=1e-6)


def _iou(boxes: Tensor, others: Tensor) -> Tensor:
    return aligned_iou(boxes, others, eps=0)
