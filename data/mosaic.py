"""Augmentations of several samples: mosaic and mixup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from data.transforms import (
    FILL,
    Labelled,
    affine_matrix,
    draw_,
    jitter_matrix,
    keep_visible,
    move_boxes,
    moved_origin,
    random_flips,
    random_hsv,
    random_place,
    visible,
    warp,
)
from utils.augment_config import AugmentConfig

CROSSING = {"canvas": (0.25, 0.75), "quadrants": (0.2, 0.8)}
"""By mosaic_type, the smallest and largest share of width and height at which the four images meet."""


def draw_crossing(config: AugmentConfig, rng: np.random.Generator) -> tuple[float, float]:
    """Where the images of a mosaic meet: x and y as shares of width and height."""
    x, y = rng.uniform(*CROSSING[config.mosaic_type], 2).tolist()
    return x, y


def mosaic(
    items: Sequence[Labelled],
    crossing: tuple[float, float],
    size: tuple[int, int],
    config: AugmentConfig,
    rng: np.random.Generator,
) -> Labelled:
    """Four images around a crossing on a canvas of twice the size, seen through a random affine map.

    After YOLOv4's mosaic (arXiv:2004.10934), with the crossing at 25 to 75 % of the canvas.

    Args:
        items: top left, top right, bottom left, bottom right.
        crossing: x and y as shares of the canvas (`draw_crossing`).
        size: (height, width) of the result.
    Returns:
        (height, width, 3) uint8 with the boxes of all four in its pixels.
    """
    height, width = size
    cross_x, cross_y = int(crossing[0] * 2 * width), int(crossing[1] * 2 * height)
    matrix = affine_matrix((width, height), size, config, rng)
    image, maps, boxes = np.full((height, width, 3), FILL, np.uint8), [], []
    for quarter, item in enumerate(items):
        # The corner that touches the crossing: bottom right of the first image, bottom left of the second, ...
        left = cross_x - item.image.shape[1] if quarter in (0, 2) else cross_x
        top = cross_y - item.image.shape[0] if quarter in (0, 1) else cross_y
        x, y = max(left, 0), max(top, 0)  # where it begins on the canvas; what lies beyond is left out
        part = item.image[y - top : 2 * height - top, x - left : 2 * width - left]
        maps.append(moved_origin(draw_(image, part, moved_origin(matrix, x, y)), -x, -y))
        boxes.append(item.boxes + np.array([left, top, left, top], np.float32))
    # Boxes are clipped to the canvas first: a crop that is wider would give boxes over grey.
    whole, keep = visible(np.concatenate(boxes), (2 * height, 2 * width), config)
    moved = move_boxes(whole, np.repeat(maps, [len(own) for own in boxes], axis=0)[keep])
    labels, crowd = (np.concatenate([getattr(item, name) for item in items])[keep] for name in ("labels", "crowd"))
    return keep_visible(Labelled(image, moved, labels, crowd), config)


def quadrants(
    items: Sequence[Labelled],
    crossing: tuple[float, float],
    size: tuple[int, int],
    config: AugmentConfig,
    rng: np.random.Generator,
) -> Labelled:
    """Darknet's mosaic: four images, each augmented to full size by itself, fill a quadrant each.

    See docs/networks.md, Mixing images.
    The quadrants meet at 20 to 80 % of width and height, and each shows the part of its image that is next to the
    others. With geometry 'jitter', in half of the cases that part starts at the image's own corner. Grey beside an
    image is avoided if possible. Boxes are clipped to their quadrant.

    Args:
        items, crossing, size: as in `mosaic`, and so is the result.
    """
    height, width = size
    cut_x, cut_y = int(crossing[0] * width), int(crossing[1] * height)
    image, parts = np.empty((height, width, 3), np.uint8), []
    for quarter, item in enumerate(items):
        inner = (quarter in (0, 2), quarter in (0, 1))  # the quadrants' common point is at its right, at its bottom
        item = random_flips(item, config, rng)
        matrix = _quadrant_matrix(item, inner, size, config, rng)
        low, high = _extent(item.image.shape[:2], matrix)
        item = warp(item, matrix, size, config)
        begin = np.array([0 if inner[0] else cut_x, 0 if inner[1] else cut_y])
        end = np.array([cut_x if inner[0] else width, cut_y if inner[1] else height])
        source = _source_corner(end - begin, np.array([width, height]), inner, low, high)
        part = _cut(item, source, end - begin, config)
        image[begin[1] : end[1], begin[0] : end[0]] = random_hsv(part.image, config, rng)
        parts.append(replace(part, boxes=part.boxes + np.tile(begin, 2).astype(np.float32)))
    return _with_objects(image, parts)


def random_variant(item: Labelled, size: tuple[int, int], config: AugmentConfig, rng: np.random.Generator) -> Labelled:
    """One image mirrored, placed and coloured at random in an input of `size` (height, width), as in `quadrants`."""
    item = random_place(random_flips(item, config, rng), size, config, rng)
    return replace(item, image=random_hsv(item.image, config, rng))


def _quadrant_matrix(
    item: Labelled, inner: tuple[bool, bool], size: tuple[int, int], config: AugmentConfig, rng: np.random.Generator
) -> np.ndarray:
    height, width = item.image.shape[:2]
    if config.geometry == "affine":
        return affine_matrix((width / 2, height / 2), size, config, rng)
    keep = inner if rng.random() < 0.5 else None
    return jitter_matrix((height, width), size, config.jitter, rng, keep=keep)


def _extent(shape: tuple[int, int], matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest (x, y) of an image (height, width) after an affine map."""
    height, width = shape
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]]) @ matrix[:, :2].T + matrix[:, 2]
    return corners.min(axis=0), corners.max(axis=0)


def _source_corner(
    part: np.ndarray, whole: np.ndarray, inner: tuple[bool, bool], low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """First (x, y) that a quadrant of size `part` shows of an image that lies from `low` to `high` in `whole`."""
    last = np.array(inner)
    grey = np.where(last, whole - high, low).clip(0)  # beside the image, next to the common point
    return np.where(last, whole - part - grey, grey).clip(0, whole - part).round().astype(int)


def _cut(item: Labelled, corner: np.ndarray, part: np.ndarray, config: AugmentConfig) -> Labelled:
    """The part of an item that begins at `corner` (x, y) and measures `part` (width, height)."""
    (x, y), (width, height) = corner, part
    boxes = item.boxes - np.tile(corner, 2).astype(np.float32)
    return keep_visible(Labelled(item.image[y : y + height, x : x + width], boxes, item.labels, item.crowd), config)


def paste(canvas: np.ndarray, image: np.ndarray, left: int, top: int) -> None:
    """Copy the part of `image` that falls on the canvas, its corner at (left, top).

    Args:
        canvas: (H, W, 3) uint8, changed in place; image: (h, w, 3) uint8.
    """
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + image.shape[1], canvas.shape[1]), min(top + image.shape[0], canvas.shape[0])
    if x0 < x1 and y0 < y1:
        canvas[y0:y1, x0:x1] = image[y0 - top : y1 - top, x0 - left : x1 - left]


def mixup(first: Labelled, second: Labelled, rng: np.random.Generator) -> Labelled:
    """Two (H, W, 3) uint8 images blended near half and half, with the boxes of both (arXiv:1710.09412)."""
    share = rng.beta(32.0, 32.0)
    image = (first.image * share + second.image * (1 - share)).astype(np.uint8)
    return _with_objects(image, (first, second))


def _with_objects(image: np.ndarray, parts: Sequence[Labelled]) -> Labelled:
    """An image with the objects of all parts, whose boxes are already in its pixels."""
    columns = zip(*((part.boxes, part.labels, part.crowd) for part in parts), strict=True)
    return Labelled(image, *map(np.concatenate, columns))
