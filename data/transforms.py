"""From a decoded image to the network input: resize, random affine, colour, flips; ten crops of one at evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from utils.augment_config import AugmentConfig
from utils.boxes import Letterbox, clip

if TYPE_CHECKING:
    from torch import Tensor

FILL = 114
"""Grey level around letterboxed and augmented images."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """An image in memory with its labels.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (N, 4) float32 xyxy pixels of this image; labels (N,) int64; crowd (N,) bool.
        weights: (N,) float32 or None, as in Targets.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    weights: np.ndarray | None = None


def resize_image(
    image: np.ndarray, letterbox: Letterbox, size: tuple[int, int], *, mode: str = "letterbox"
) -> np.ndarray:
    """The network input of an image: bilinear resize, then grey on the sides, or the sides cut off.

    Args:
        image: (H, W, 3) uint8 RGB.
        letterbox: the plan for this image and size (`utils.boxes.plan_resize`).
        size: (height, width) of the result, which is uint8 RGB too.
        mode: 'crop' (classifiers) shrinks by averaging, as `data.classification` does in training.
    """
    height = round(letterbox.height * letterbox.scale_y)
    width = round(letterbox.width * letterbox.scale_x)
    top, left = int(letterbox.pad_y), int(letterbox.pad_x)
    if image.shape[:2] != (height, width):
        mean = mode == "crop" and height < image.shape[0]
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if mean else cv2.INTER_LINEAR)
    if height > size[0] or width > size[1]:
        image = image[-top : -top + size[0], -left : -left + size[1]]
    if image.shape[:2] == tuple(size):
        return np.ascontiguousarray(image)
    canvas = np.full((*size, 3), FILL, np.uint8)
    canvas[top : top + height, left : left + width] = image
    return canvas


def random_place(item: Labelled, size: tuple[int, int], config: AugmentConfig, rng: np.random.Generator) -> Labelled:
    """One image at a random position and scale in an input of `size` (height, width)."""
    height, width = item.image.shape[:2]
    if config.geometry == "jitter":
        matrix = jitter_matrix((height, width), size, config.jitter, rng)
    else:
        matrix = affine_matrix((width / 2, height / 2), size, config, rng)
    return warp(item, matrix, size, config)


def jitter_matrix(
    shape: tuple[int, int],
    size: tuple[int, int],
    jitter: float,
    rng: np.random.Generator,
    *,
    keep: tuple[bool, bool] | None = None,
) -> np.ndarray:
    """(2, 3) map of darknet's jitter: cut or widen each side of the input, stretch the rest to fill it.

    See docs/networks.md, Geometric and colour augmentation.

    Args:
        shape: (height, width) of the image, which lies in the middle of the input.
        size: (height, width) of the input.
        jitter: largest share of the input that is cut or added at a side.
        keep: a corner, (right, bottom), that stays in place: the cut of its two sides moves to the opposite ones.
    """
    cut = rng.uniform(-jitter, jitter, (2, 2))  # x and y; left or top, right or bottom
    if keep is not None:
        for axis, last in enumerate(keep):
            cut[axis, int(not last)] += cut[axis, int(last)]
            cut[axis, int(last)] = 0
    sides = np.array(size[::-1])
    low, scale = cut[:, 0] * sides, 1 / (1 - cut.sum(axis=1))
    margin = (sides - np.array(shape[::-1])) / 2
    return np.column_stack((np.diag(scale), (margin - low) * scale))


def affine_matrix(
    centre: tuple[float, float], size: tuple[int, int], config: AugmentConfig, rng: np.random.Generator
) -> np.ndarray:
    """(2, 3) map from pixels of the image to pixels of the result: rotate, scale, shear and shift.

    Args:
        centre: (x, y) in pixels of the image; it lands near the middle of the result.
        size: (height, width) of the result.
    """
    height, width = size
    angle = math.radians(rng.uniform(-config.degrees, config.degrees))
    factor = rng.uniform(1 - config.scale, 1 + config.scale)
    shear_x, shear_y = (math.tan(math.radians(a)) for a in rng.uniform(-config.shear, config.shear, 2))
    shift_x, shift_y = rng.uniform(0.5 - config.translate, 0.5 + config.translate, 2)
    rotation = factor * np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    linear = np.array([[1, shear_x], [shear_y, 1]]) @ rotation
    offset = np.array([shift_x * width, shift_y * height]) - linear @ np.array(centre)
    return np.column_stack((linear, offset))


def warp(item: Labelled, matrix: np.ndarray, size: tuple[int, int], config: AugmentConfig) -> Labelled:
    """Image and boxes through an affine map.

    Args:
        matrix: (2, 3), from pixels of the image to pixels of the result, edges at whole numbers.
        size: (height, width) of the result.
    """
    # OpenCV counts from pixel centres, boxes count from pixel edges: half a pixel apart.
    linear, half = matrix[:, :2], np.array([0.5, 0.5])
    centred = np.column_stack((linear, matrix[:, 2] + linear @ half - half))
    image = cv2.warpAffine(item.image, centred, (size[1], size[0]), flags=cv2.INTER_LINEAR, borderValue=(FILL,) * 3)
    corners = item.boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2) @ linear.T + matrix[:, 2]
    moved = np.concatenate((corners.min(axis=1), corners.max(axis=1)), axis=1)
    return keep_visible(replace(item, image=image, boxes=moved), config)


def keep_visible(item: Labelled, config: AugmentConfig) -> Labelled:
    """Boxes clipped to the (H, W) of the image, without those that have too little left (min_area, min_side)."""
    height, width = item.image.shape[:2]
    clipped = clip(item.boxes, height, width)
    sides = clipped[:, 2:] - clipped[:, :2]
    whole = np.prod(item.boxes[:, 2:] - item.boxes[:, :2], axis=1)
    keep = (sides > config.min_side).all(axis=1) & (np.prod(sides, axis=1) > config.min_area * whole)
    return Labelled(item.image, clipped[keep].astype(np.float32), item.labels[keep], item.crowd[keep])


def random_flips(item: Labelled, config: AugmentConfig, rng: np.random.Generator) -> Labelled:
    """The image or its mirror image, left-right and upside-down, and its boxes in the pixels of that."""
    image, boxes = item.image, item.boxes
    height, width = image.shape[:2]
    left_right, upside_down = rng.random(2)
    if left_right < config.flip_lr:
        image, boxes = image[:, ::-1], np.stack((width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]), 1)
    if upside_down < config.flip_ud:
        image, boxes = image[::-1], np.stack((boxes[:, 0], height - boxes[:, 3], boxes[:, 2], height - boxes[:, 1]), 1)
    return replace(item, image=np.ascontiguousarray(image), boxes=boxes)


def random_hsv(image: np.ndarray, config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """An (H, W, 3) uint8 RGB image, its hue, saturation and value changed within their limits (see AugmentConfig)."""
    limits = np.array((config.hue, config.saturation, config.value))
    drawn = rng.uniform(-1, 1, 3)
    if not limits.any():
        return image
    factors, turn = 1 + drawn * limits, 0.0
    if config.colour == "darknet":
        factors = (1 + np.abs(drawn) * limits) ** np.sign(drawn)
        factors[0], turn = 1.0, 180 * drawn[0] * limits[0]  # OpenCV's hue has half degrees
    return change_hsv(image, (np.arange(256) * factors[0] + turn) % 180, factors[1], factors[2])


def change_hsv(image: np.ndarray, hue: np.ndarray, saturation: float, value: float) -> np.ndarray:
    """An (H, W, 3) uint8 RGB image with other hues, its saturation and value times a factor.

    Args:
        hue: (256,) the new hue of each, in half degrees, as OpenCV counts them.
    """
    levels = np.arange(256)
    tables = (hue, np.clip(levels * saturation, 0, 255), np.clip(levels * value, 0, 255))
    channels = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
    changed = [cv2.LUT(channel, table.astype(np.uint8)) for channel, table in zip(channels, tables, strict=True)]
    return cv2.cvtColor(cv2.merge(changed), cv2.COLOR_HSV2RGB)


def ten_crop_size(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the images that crops of `size` are cut from."""
    height, width = size
    return height + height // 8, width + width // 8


def ten_crops(images: Tensor, size: tuple[int, int]) -> Tensor:
    """The four corners and the centre of each image, and their mirror images.

    Args:
        images: (B, 3, H, W) of any type; size: (height, width) of a crop, at most that.
    Returns:
        (B * 10, 3, height, width), the ten of an image together.
    """
    import torch  # all else here is NumPy, and inference on exported files does without torch

    height, width = size
    bottom, right = images.shape[2] - height, images.shape[3] - width
    corners = ((0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2))
    crops = torch.stack([images[:, :, y : y + height, x : x + width] for y, x in corners], dim=1)
    return torch.cat((crops, crops.flip(-1)), dim=1).flatten(0, 1)
