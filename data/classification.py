"""A classifier's training images: a random crop in random colours, alone or mixed from several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np

from data.dataset import Request, TrainDataset
from data.mosaic import paste
from data.transforms import Labelled, change_hsv
from utils.augment_config import ClassifyAugment
from utils.boxes import FILL

BLUR_KERNEL = 15
"""Pixels of the network input; darknet's for blur=1 (docs/networks.md, Mixing images)."""


class Part(NamedTuple):
    """A part of a mixed image: its box, xyxy in pixels, and the weight of its label; the weights add up to 1."""

    box: tuple[int, int, int, int]
    share: float


class ClassifyDataset(TrainDataset):
    """Augmented images of a classifier; as for detectors, a function of (seed, epoch, index).

    Images are read with a shorter side of at most `config.classify.short_side`, with or without the cache.
    """

    interpolation = cv2.INTER_AREA

    def _augment(self, request: Request) -> Labelled:
        config, rng = self.config.classify, self._generator(request.epoch, request)
        items = [self._crop(request.index, request.size, rng)]
        if not (request.mix and config.mix):
            return items[0]
        kind = config.mix[int(rng.integers(len(config.mix)))]
        parts = draw_parts(kind, request.size, config, rng)
        while len(items) < len(parts):
            items.append(self._crop(int(rng.integers(len(self))), request.size, rng))
        return mix(items, parts, blend=kind == "mixup")

    def _crop(self, index: int, size: tuple[int, int], rng: np.random.Generator) -> Labelled:
        """One image, cropped and coloured at random, at the requested (height, width)."""
        config = self.config.classify
        index, image = self.image_at(index)
        image = random_crop(image, size, config, rng)
        if self.pipeline is not None:
            without_boxes = Labelled(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool))
            image = self.pipeline(without_boxes, rng).image
            if image.shape[:2] != tuple(size):
                image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
        left_right, upside_down, blurred = rng.random(3)
        image = image[:, ::-1] if left_right < config.flip_lr else image
        image = image[::-1] if upside_down < config.flip_ud else image
        image = random_colour(np.ascontiguousarray(image), config, rng)
        if blurred < config.blur:
            image = cv2.GaussianBlur(image, (BLUR_KERNEL, BLUR_KERNEL), 0)
        return whole(image, int(self.images.samples[index].labels[0]))

    def _inner_size(self, index: int) -> tuple[int, int]:
        """(height, width) that an image is kept at."""
        sample = self.images.samples[index]
        largest = self.config.classify.short_side[1] * max(self.image_size)
        scale = min(largest / min(sample.height, sample.width), 1.0)
        return max(round(sample.height * scale), 1), max(round(sample.width * scale), 1)


def whole(image: np.ndarray, label: int) -> Labelled:
    """An (H, W, 3) uint8 image that shows one class: one box, all of it."""
    height, width = image.shape[:2]
    box = np.array([[0, 0, width, height]], np.float32)
    return Labelled(image, box, np.array([label], np.int64), np.zeros(1, bool), np.ones(1, np.float32))


def random_factor(least: float, rng: np.random.Generator) -> float:
    """Darknet's rand_scale: a factor between `least` and 1, inverted in half of the cases."""
    factor = rng.uniform(least, 1)
    return float(factor if rng.random() < 0.5 else 1 / factor)


def random_crop(
    image: np.ndarray, size: tuple[int, int], config: ClassifyAugment, rng: np.random.Generator
) -> np.ndarray:
    """A part of an image at a random scale, aspect, angle and position, as an image of `size` (height, width).

    A smaller image is centred, with grey around it.

    Args:
        image: (H, W, 3) uint8 RGB.
    Returns:
        (height, width, 3) uint8 RGB.
    """
    aspect = random_factor(config.aspect, rng)
    short = rng.uniform(*config.short_side) * min(size)
    angle = math.radians(rng.uniform(-config.degrees, config.degrees))
    offset_x, offset_y = rng.uniform(-0.5, 0.5, 2)
    height, width = image.shape[:2]
    scale = short / min(height, width * aspect)
    inner_height, inner_width = max(round(height * scale), 1), max(round(width * aspect * scale), 1)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    image = cv2.resize(image, (inner_width, inner_height), interpolation=method)
    # Offset of the image's centre from that of the result.
    shift_x, shift_y = (
        offset * max(inner - side, 0)
        for offset, inner, side in ((offset_x, inner_width, size[1]), (offset_y, inner_height, size[0]))
    )
    if angle == 0:
        canvas = np.full((*size, 3), FILL, np.uint8)
        left, top = round((size[1] - inner_width) / 2 + shift_x), round((size[0] - inner_height) / 2 + shift_y)
        paste(canvas, image, left, top)
        return canvas
    linear = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    half = np.array([inner_width - 1, inner_height - 1]) / 2  # OpenCV counts from pixel centres
    middle = np.array([size[1] - 1, size[0] - 1]) / 2
    offset = middle + linear @ (np.array([shift_x, shift_y]) - half)
    matrix = np.column_stack((linear, offset))
    return cv2.warpAffine(image, matrix, size[::-1], flags=cv2.INTER_LINEAR, borderValue=(FILL,) * 3)


def random_colour(image: np.ndarray, config: ClassifyAugment, rng: np.random.Generator) -> np.ndarray:
    """An (H, W, 3) uint8 RGB image, its hue shifted around the colour circle, saturation and value times a factor."""
    shift = rng.uniform(-config.hue, config.hue) * 180  # OpenCV's hue has half degrees
    saturation, exposure = random_factor(config.saturation, rng), random_factor(config.exposure, rng)
    if shift == 0 and saturation == exposure == 1:
        return image
    return change_hsv(image, np.rint(np.arange(256) + shift) % 180, saturation, exposure)


def draw_parts(
    kind: Literal["mixup", "cutmix", "mosaic"], size: tuple[int, int], config: ClassifyAugment, rng: np.random.Generator
) -> list[Part]:
    """How several images of `size` (height, width) make one: a part for each, the first for the image itself.

    'mixup' blends two whole images (arXiv:1710.09412; darknet half and half). 'cutmix' pastes a part of the second in
    its place in the first (arXiv:1905.04899). 'mosaic' joins four around a point at 20 to 80 % of each side,
    each cut to its quadrant.
    """
    height, width = size
    if kind == "mixup":
        share = 0.5 if config.mixup_beta is None else float(rng.beta(config.mixup_beta, config.mixup_beta))
        return [Part((0, 0, width, height), share), Part((0, 0, width, height), 1 - share)]
    if kind == "cutmix":
        cut_height, cut_width = (int(rng.uniform(0.3, 0.8) * side) for side in size)
        top, left = int(rng.integers(height - cut_height + 1)), int(rng.integers(width - cut_width + 1))
        share = cut_height * cut_width / (height * width)
        box = (left, top, left + cut_width, top + cut_height)
        return [Part((0, 0, width, height), 1 - share), Part(box, share)]
    x, y = int(rng.uniform(0.2, 0.8) * width), int(rng.uniform(0.2, 0.8) * height)
    boxes = ((0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height))
    return [Part((x1, y1, x2, y2), (x2 - x1) * (y2 - y1) / (height * width)) for x1, y1, x2, y2 in boxes]


def mix(items: Sequence[Labelled], parts: Sequence[Part], *, blend: bool) -> Labelled:
    """One image from several of one size, with the labels of all.

    Args:
        items: (H, W, 3) uint8 images of one class each.
        parts: one for each item, in the order in which they are laid on each other.
        blend: add images up by their shares (mixup), instead of pasting each into its box.
    """
    if blend:
        first, second = (item.image * part.share for item, part in zip(items, parts, strict=True))
        image = (first + second + 0.5).astype(np.uint8)
    else:
        image = np.empty_like(items[0].image)
        for item, part in zip(items, parts, strict=True):
            x1, y1, x2, y2 = part.box
            image[y1:y2, x1:x2] = item.image[y1:y2, x1:x2]
    boxes = np.array([part.box for part in parts], np.float32)
    labels = np.concatenate([item.labels for item in items])
    shares = np.array([part.share for part in parts], np.float32)
    return Labelled(image, boxes, labels, np.zeros(len(items), bool), shares)
