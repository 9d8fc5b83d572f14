"""Augmentations of several samples: mosaic and mixup."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from data.transforms import FILL, Labelled, keep_visible, random_affine
from utils.training.config import AugmentConfig


def mosaic(
    load: Callable[[int], Labelled],
    index: int,
    count: int,
    size: tuple[int, int],
    config: AugmentConfig,
    rng: np.random.Generator,
) -> Labelled:
    """Four images around a random crossing on a canvas of twice the size, then a random affine crop of `size` (h, w).

    The other three images are drawn from all `count`. After YOLOv4's mosaic (arXiv:2004.10934), with the crossing at
    25 to 75 % of the canvas.
    """
    height, width = size
    canvas = np.full((2 * height, 2 * width, 3), FILL, np.uint8)
    cross_x = int(rng.uniform(0.25, 0.75) * 2 * width)
    cross_y = int(rng.uniform(0.25, 0.75) * 2 * height)
    others = rng.integers(count, size=3)
    boxes, labels, crowd = [], [], []
    for place, which in enumerate((index, *others.tolist())):
        item = load(which)
        inner_height, inner_width = item.image.shape[:2]
        # The corner that touches the crossing: bottom right of the first image, bottom left of the second, ...
        left = cross_x - inner_width if place in (0, 2) else cross_x
        top = cross_y - inner_height if place in (0, 1) else cross_y
        paste(canvas, item.image, left, top)
        boxes.append(item.boxes + np.array([left, top, left, top], np.float32))
        labels.append(item.labels)
        crowd.append(item.crowd)
    whole = Labelled(canvas, np.concatenate(boxes), np.concatenate(labels), np.concatenate(crowd))
    # What the canvas cuts off must not come back as a box over grey when the crop is wider than the canvas.
    return random_affine(keep_visible(whole, config), (width, height), size, config, rng)


def paste(canvas: np.ndarray, image: np.ndarray, left: int, top: int) -> None:
    """Copy the part of `image` that falls on the canvas, its corner at (left, top)."""
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + image.shape[1], canvas.shape[1]), min(top + image.shape[0], canvas.shape[0])
    if x0 < x1 and y0 < y1:
        canvas[y0:y1, x0:x1] = image[y0 - top : y1 - top, x0 - left : x1 - left]


def mixup(first: Labelled, second: Labelled, rng: np.random.Generator) -> Labelled:
    """Two images of one size blended near half and half, with the boxes of both (arXiv:1710.09412, detection form)."""
    share = rng.beta(32.0, 32.0)
    image = (first.image * share + second.image * (1 - share)).astype(np.uint8)
    return Labelled(
        image,
        np.concatenate((first.boxes, second.boxes)),
        np.concatenate((first.labels, second.labels)),
        np.concatenate((first.crowd, second.crowd)),
    )
