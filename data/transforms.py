"""From a decoded image to the network input: resize, random affine, colour, flips; ten crops of one at evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from utils.augment_config import AugmentConfig
from utils.boxes import FILL, Letterbox, clip

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 160
"""Rows of an image whose colours are changed at a time, so that they stay in the processor's cache."""


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
    factor = rng.uniform(1 - config.size_change, 1 + config.size_change)
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
    image = np.full((*size, 3), FILL, np.uint8)
    boxes = move_boxes(item.boxes, draw_(image, item.image, matrix))
    return keep_visible(replace(item, image=image, boxes=boxes), config)


def move_boxes(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(N, 4) xyxy boxes around what (N, 4) xyxy boxes become by a (2, 3) affine map, or by (N, 2, 3), one for each."""
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    corners = corners @ matrix[..., :2].swapaxes(-1, -2) + matrix[..., None, :, 2]
    return np.concatenate((corners.min(axis=1), corners.max(axis=1)), axis=1)


def moved_origin(matrix: np.ndarray, x: float, y: float) -> np.ndarray:
    """The same (2, 3) map, from pixels that are counted from (x, y)."""
    return matrix + np.array([[0, 0, matrix[0, 0] * x + matrix[0, 1] * y], [0, 0, matrix[1, 0] * x + matrix[1, 1] * y]])


def draw_(target: np.ndarray, image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Draw an image through an affine map into `target`; what it does not cover stays.

    Args:
        target: (H, W, 3) uint8, changed in place; image: (h, w, 3) uint8.
        matrix: (2, 3), from pixels of the image to pixels of the target, edges at whole numbers.
    Returns:
        The map that was taken. Without rotation and shear the image is resized from whole pixels to whole pixels, which
        is twice as fast: then the map differs from `matrix` by at most half a pixel of the image or of the target.
    """
    (scale_x, over, offset_x), (down, scale_y, offset_y) = matrix.tolist()
    if over == down == 0 < min(scale_x, scale_y):
        x, own_x, scale_x, offset_x = _whole_pixels(image.shape[1], target.shape[1], scale_x, offset_x)
        y, own_y, scale_y, offset_y = _whole_pixels(image.shape[0], target.shape[0], scale_y, offset_y)
        if x.start < x.stop and y.start < y.stop:
            size = x.stop - x.start, y.stop - y.start
            cv2.resize(image[own_y, own_x], size, dst=target[y, x], interpolation=cv2.INTER_LINEAR)
        return np.array([[scale_x, 0, offset_x], [0, scale_y, offset_y]])
    # OpenCV counts from pixel centres, boxes count from pixel edges: half a pixel apart. A pixel more on each side
    # leaves no gap between images that touch.
    linear, half = matrix[:, :2], np.array([0.5, 0.5])
    hull = move_boxes(np.array([[0, 0, image.shape[1], image.shape[0]]]), matrix)[0]
    x1, y1, x2, y2 = np.concatenate((np.floor(hull[:2] - 1), np.ceil(hull[2:] + 1))).astype(int).tolist()
    x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, target.shape[1]), min(y2, target.shape[0])
    if x1 < x2 and y1 < y2:
        centred = np.column_stack((linear, matrix[:, 2] + linear @ (half - 1) - half - (x1, y1)))
        wider = cv2.copyMakeBorder(image, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
        part, mode = target[y1:y2, x1:x2], cv2.BORDER_TRANSPARENT
        cv2.warpAffine(wider, centred, (x2 - x1, y2 - y1), dst=part, flags=cv2.INTER_LINEAR, borderMode=mode)
    return matrix


def _whole_pixels(length: int, room: int, scale: float, offset: float) -> tuple[slice, slice, float, float]:
    """Along one axis: what an image of `length` pixels covers of a target of `room` pixels, which part of it is seen
    there, and scale and offset of that.
    """
    start, stop = round(offset), round(scale * length + offset)
    first = 0 if start >= 0 else min(round(-offset / scale), length - 1)
    last = length if stop <= room else max(round((room - offset) / scale), first + 1)
    start, stop = max(start, 0), min(stop, room)
    if start >= stop:
        return slice(start, start), slice(first, last), scale, offset
    scale = (stop - start) / (last - first)
    return slice(start, stop), slice(first, last), scale, start - scale * first


def keep_visible(item: Labelled, config: AugmentConfig) -> Labelled:
    """Boxes clipped to the (H, W) of the image, without those that have too little left (min_area, min_side)."""
    clipped, keep = visible(item.boxes, item.image.shape, config)
    return Labelled(item.image, clipped.astype(np.float32), item.labels[keep], item.crowd[keep])


def visible(boxes: np.ndarray, size: tuple[int, ...], config: AugmentConfig) -> tuple[np.ndarray, np.ndarray]:
    """What is left of (N, 4) boxes in an image of `size` (height, width, ...).

    Returns:
        (K, 4) clipped boxes, those with enough left; (N,) bool, which they are.
    """
    clipped = clip(boxes, size[0], size[1])
    sides = clipped[:, 2:] - clipped[:, :2]
    whole = boxes[:, 2:] - boxes[:, :2]
    enough = sides[:, 0] * sides[:, 1] > config.min_area * (whole[:, 0] * whole[:, 1])
    keep = enough & (sides.min(axis=1) > config.min_side)
    return clipped[keep], keep


def random_flips(item: Labelled, config: AugmentConfig, rng: np.random.Generator) -> Labelled:
    """The image or its mirror image, left-right and upside-down, and its boxes in the pixels of that."""
    boxes, (height, width) = item.boxes, item.image.shape[:2]
    left_right, upside_down = rng.random(2) < (config.flip_lr, config.flip_ud)
    if left_right:
        boxes = np.stack((width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]), axis=1)
    if upside_down:
        boxes = np.stack((boxes[:, 0], height - boxes[:, 3], boxes[:, 2], height - boxes[:, 1]), axis=1)
    if not (left_right or upside_down):
        return item
    sides = -1 if left_right and upside_down else int(left_right)  # as OpenCV counts them
    return replace(item, image=cv2.flip(item.image, sides), boxes=boxes)


def random_hsv(image: np.ndarray, config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """An (H, W, 3) uint8 RGB image, its hue, saturation and value changed within their limits (see AugmentConfig)."""
    limits = np.array((config.hue, config.saturation, config.value))
    drawn = rng.uniform(-1, 1, 3)
    if not limits.any():
        return image
    if config.colour == "darknet":
        factors = (1 + np.abs(drawn) * limits) ** np.sign(drawn)
        turn = 180 * drawn[0] * limits[0]  # OpenCV's hue has half degrees
        return change_hsv(image, (np.arange(256) + turn) % 180, factors[1], factors[2])
    turn, saturation, value = (drawn * limits).tolist()
    return change_colour(image, turn / 2, 1 + saturation, 1 + value)


def change_colour(image: np.ndarray, turn: float, saturation: float, value: float) -> np.ndarray:
    """An (H, W, 3) uint8 RGB image, its hue turned, its saturation and value (as in HSV) times a factor.

    Takes half the time of the way there and back. With V the largest of a pixel's channels, a channel c of its HSV
    colour with other S and V is V' - S'/S V'/V (V - c). Where the value would be above 255, it is 255, and the
    saturation is a little larger than asked for.

    Args:
        turn: share of the colour circle, positive from red to green.
    """
    thirds = round(3 * turn)  # a third of the circle makes the red green, the green blue
    angle = math.tan(2 * math.pi * (turn - thirds / 3))
    # A channel mixed with its neighbour on the circle turns hues by up to a sixth, and takes some saturation with it.
    share = abs(angle) / (math.sqrt(0.75) + 1.5 * abs(angle))
    contrast = saturation * value / math.hypot(1 - 1.5 * share, math.sqrt(0.75) * share)
    following = -1 if angle > 0 else 1
    changed, memory = np.empty_like(image), np.empty((8, ROWS, image.shape[1]), np.uint8)
    for top in range(0, len(image), ROWS):
        strip = changed[top : top + ROWS]
        *parts, largest, values = list(memory[:, : len(strip)])
        first, mixed = parts[:3], parts[3:]
        cv2.split(image[top : top + ROWS], first)
        channels = [first[(place - thirds) % 3] for place in range(3)]
        cv2.convertScaleAbs(_largest(channels, largest), dst=values, alpha=value)
        if share:
            for place, channel in enumerate(channels):
                other = channels[(place + following) % 3]
                cv2.addWeighted(channel, 1 - share, other, share, 0, dst=mixed[place])
            channels = mixed
            _largest(channels, largest)
        for channel in channels:
            cv2.subtract(largest, channel, dst=channel)
            cv2.convertScaleAbs(channel, dst=channel, alpha=contrast)
            cv2.subtract(values, channel, dst=channel)
        cv2.merge(channels, dst=strip)
    return changed


def change_hsv(image: np.ndarray, hue: np.ndarray, saturation: float, value: float) -> np.ndarray:
    """An (H, W, 3) uint8 RGB image with other hues, its saturation and value times a factor.

    Args:
        hue: (256,) the new hue of each, in half degrees, as OpenCV counts them.
    """
    table, changed = hue.astype(np.uint8), np.empty_like(image)
    for top in range(0, len(image), ROWS):
        hues, saturations, values = cv2.split(cv2.cvtColor(image[top : top + ROWS], cv2.COLOR_RGB2HSV))
        channels = (
            cv2.LUT(hues, table),
            cv2.convertScaleAbs(saturations, alpha=saturation),
            cv2.convertScaleAbs(values, alpha=value),
        )
        cv2.cvtColor(cv2.merge(channels), cv2.COLOR_HSV2RGB, dst=changed[top : top + ROWS])
    return changed


def _largest(channels: list[np.ndarray], result: np.ndarray) -> np.ndarray:
    cv2.max(channels[0], channels[1], dst=result)
    return cv2.max(result, channels[2], dst=result)


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
