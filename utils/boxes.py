"""Box formats, pairwise IoU, and the map to and from the network input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from utils.choices import PADDED, RESIZES

if TYPE_CHECKING:
    from torch import Tensor

Array = TypeVar("Array", np.ndarray, "Tensor")

FILL = 114
"""Grey level around letterboxed and augmented images."""


@dataclass(frozen=True)
class Letterbox:
    """The map from an original image to the network input: scale each axis, then shift.

    Args:
        scale_x, scale_y: network pixels per original pixel; equal for letterbox, not for stretch.
        pad_x, pad_y: network pixels left of and above the image.
        height, width: pixels of the original image.

    >>> letterbox = plan_resize(240, 320, (416, 416), "letterbox")  # made larger by 1.3, 52 grey rows above and below
    >>> letterbox.scale_x, letterbox.scale_y, letterbox.pad_x, letterbox.pad_y
    (1.3, 1.3, 0.0, 52.0)
    >>> inside = letterbox.apply(np.array([[100.0, 50.0, 200.0, 120.0]]))
    >>> inside.tolist()
    [[130.0, 117.0, 260.0, 208.0]]
    >>> letterbox.invert(inside).tolist()
    [[100.0, 50.0, 200.0, 120.0]]
    """

    scale_x: float
    scale_y: float
    pad_x: float
    pad_y: float
    height: int
    width: int

    def apply(self, boxes: Array) -> Array:
        """(N, 4) float xyxy pixels of the original image -> of the network input."""
        scale, pad = self._vectors(boxes)
        return boxes * scale + pad

    def invert(self, boxes: Array, *, clipped: bool = True) -> Array:
        """(N, 4) float xyxy pixels of the network input -> of the original image, cut to it if `clipped`."""
        scale, pad = self._vectors(boxes)
        boxes = (boxes - pad) / scale
        return clip(boxes, self.height, self.width) if clipped else boxes

    def _vectors(self, boxes: Array) -> tuple[Array, Array]:
        scale = (self.scale_x, self.scale_y, self.scale_x, self.scale_y)
        pad = (self.pad_x, self.pad_y, self.pad_x, self.pad_y)
        if isinstance(boxes, np.ndarray):
            return np.array(scale, boxes.dtype), np.array(pad, boxes.dtype)
        return boxes.new_tensor(scale), boxes.new_tensor(pad)


def plan_resize(
    height: int, width: int, size: tuple[int, int], mode: str, *, shape: tuple[int, int] | None = None
) -> Letterbox:
    """How an image of height x width pixels goes into `size` (height, width).

    Args:
        mode: 'letterbox' keeps the aspect and centres the image; 'corner' keeps it and puts the image into the top left
            corner, its sides rounded down, as YOLOX does; 'stretch' fills the input (darknet's default); 'crop' keeps
            the aspect, fills the input and cuts off what is over, alike on both sides (classifiers): the pads are then
            0 or less.
        shape: (height, width) of the input where it is less than `size`, as of `least_shape`. The image has the same
            scale then, and less padding.
    """
    if mode == "stretch":
        return Letterbox(size[1] / width, size[0] / height, 0.0, 0.0, height, width)
    if mode not in RESIZES:
        raise ValueError(f"resize mode '{mode}' is unknown; expected one of {', '.join(RESIZES)}")
    scales = (size[0] / height, size[1] / width)
    scale = min(scales) if mode in PADDED else max(scales)
    to_whole = math.floor if mode == "corner" else round
    inner_height, inner_width = max(to_whole(height * scale), 1), max(to_whole(width * scale), 1)
    shape = shape or size
    pad_x, pad_y = (shape[1] - inner_width) // 2, (shape[0] - inner_height) // 2
    if mode == "corner":
        pad_x = pad_y = 0
    return Letterbox(inner_width / width, inner_height / height, float(pad_x), float(pad_y), height, width)


def least_shape(
    height: int, width: int, size: tuple[int, int], stride: int, mode: str = "letterbox"
) -> tuple[int, int]:
    """The smallest (height, width) of whole strides that holds an image letterboxed into `size`, or in its corner.

    >>> least_shape(432, 768, (416, 416), 32)
    (256, 416)
    """
    letterbox = plan_resize(height, width, size, mode)
    inner = round(height * letterbox.scale_y), round(width * letterbox.scale_x)
    return -(-inner[0] // stride) * stride, -(-inner[1] // stride) * stride


def clip(boxes: Array, height: float, width: float) -> Array:
    """(..., 4) float xyxy pixels, cut to an image of height x width; a box outside becomes empty at the edge."""
    limit = (width, height, width, height)
    if isinstance(boxes, np.ndarray):
        return np.clip(boxes, 0, np.array(limit, boxes.dtype))
    return boxes.clamp(min=0).minimum(boxes.new_tensor(limit))


def xyxy_to_xywh(boxes: Array) -> Array:
    """(..., 4) corners -> (left, top, width, height), COCO's order."""
    return _joined(boxes[..., :2], boxes[..., 2:] - boxes[..., :2])


def xywh_to_xyxy(boxes: Array) -> Array:
    """(..., 4) (left, top, width, height) -> corners."""
    return _joined(boxes[..., :2], boxes[..., :2] + boxes[..., 2:])


def xyxy_to_cxcywh(boxes: Array) -> Array:
    """(..., 4) corners -> (centre x, centre y, width, height)."""
    return _joined((boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2])


def cxcywh_to_xyxy(boxes: Array) -> Array:
    """(..., 4) (centre x, centre y, width, height) -> corners."""
    return _joined(boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2)


def _joined(first: Array, second: Array) -> Array:
    """Two halves (..., 2) as (..., 4)."""
    if isinstance(first, np.ndarray):
        return np.concatenate((first, second), axis=-1)
    import torch

    return torch.cat((first, second), dim=-1)


def centres_and_sides(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(..., 4) xyxy -> centre x, centre y, width and height, each (...)."""
    left, top, right, bottom = boxes.unbind(dim=-1)
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top


def box_iou(boxes: Array, others: Array) -> Array:
    """IoU of each box with each other one.

    Args:
        boxes: (N, 4) float xyxy; others: (M, 4), same unit and type.
    Returns:
        (N, M) in [0, 1]; NaN for two boxes without area.
    """
    sides = _smaller(boxes[:, None, 2:], others[None, :, 2:]) - _larger(boxes[:, None, :2], others[None, :, :2])
    sides = sides.clip(min=0)
    overlap = sides[..., 0] * sides[..., 1]
    areas, other_areas = ((each[:, 2] - each[:, 0]) * (each[:, 3] - each[:, 1]) for each in (boxes, others))
    return overlap / (areas[:, None] + other_areas - overlap)


def _smaller(values: Array, others: Array) -> Array:
    return np.minimum(values, others) if isinstance(values, np.ndarray) else values.minimum(others)


def _larger(values: Array, others: Array) -> Array:
    return np.maximum(values, others) if isinstance(values, np.ndarray) else values.maximum(others)


def aligned_iou(boxes: Tensor, others: Tensor, *, eps: float = 1e-7) -> Tensor:
    """IoU of each box with the one in its place.

    Args:
        boxes, others: (..., 4) float xyxy in one unit; broadcast against each other.
        eps: added to the union, so that two empty boxes have 0.
    Returns:
        (...) in [0, 1].
    """
    left, top, right, bottom = boxes.unbind(dim=-1)
    other_left, other_top, other_right, other_bottom = others.unbind(dim=-1)
    width = (right.minimum(other_right) - left.maximum(other_left)).clamp(min=0)
    overlap = width * (bottom.minimum(other_bottom) - top.maximum(other_top)).clamp(min=0)
    areas = (right - left) * (bottom - top) + (other_right - other_left) * (other_bottom - other_top)
    return overlap / (areas - overlap + eps)


def shape_iou(sizes: Tensor, others: Tensor) -> Tensor:
    """IoU of boxes that share a centre, from their sizes alone (darknet's anchor match).

    Args:
        sizes: (N, 2) float width and height; others: (M, 2), same unit.
    Returns:
        (N, M) in [0, 1].
    """
    overlap = sizes[:, None].minimum(others[None]).prod(dim=-1)
    return overlap / (sizes.prod(dim=-1)[:, None] + others.prod(dim=-1)[None] - overlap)
