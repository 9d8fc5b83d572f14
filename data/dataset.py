"""Sample -> image and targets. All randomness of a training sample is a function of (seed, epoch, index)."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from data.images import read_image
from data.mosaic import mixup, mosaic
from data.transforms import (
    Labelled,
    keep_visible,
    random_affine,
    random_flips,
    random_hsv,
    resize_image,
    warp,
)
from utils.boxes import Letterbox, plan_resize
from utils.structures import LabelledImages
from utils.training.config import AugmentConfig

logger = logging.getLogger(__name__)

MIXUP_STREAM = 1_000_003
"""Added to the epoch for the second image of a mixup, so that it is not the augmentation of the first."""


class Request(NamedTuple):
    """What the sampler asks of a training set: this image, augmented as of this epoch, at this size.

    Args:
        repeat: how often the image came before in this epoch (a last batch is filled from the start).
    """

    epoch: int
    index: int
    size: tuple[int, int]
    mix: bool
    repeat: int = 0


class Item(NamedTuple):
    """One element of a batch before collation; tensors as in Batch."""

    image: torch.Tensor
    boxes: torch.Tensor
    labels: torch.Tensor
    crowd: torch.Tensor
    image_id: int
    path: str
    letterbox: Letterbox | None


class TrainDataset(Dataset):
    """Augmented images.

    Args:
        images: the training split.
        config: what to vary.
        image_size: base (height, width) of the input; images are read at this size before augmentation.
        resize: 'letterbox' or 'stretch'; the aspect that images have at inference.
        seed: of the run.
    """

    def __init__(
        self, images: LabelledImages, config: AugmentConfig, *, image_size: tuple[int, int], resize: str, seed: int
    ) -> None:
        self.images = images
        self.config = config
        self.image_size = image_size
        self.resize = resize
        self.seed = seed
        self.pipeline = None
        if config.albumentations:
            from data.pipeline import AlbumentationsPipeline  # the library takes a second or two to import

            self.pipeline = AlbumentationsPipeline(config.albumentations)
        self.cache: list[np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def fill_cache(self, *, limit_bytes: int) -> None:
        """Keep all images in memory at the base size, if they fit into `limit_bytes`; changes speed only."""
        needed = sum(3 * np.prod(self._inner_size(index)) for index in range(len(self)))
        if needed > limit_bytes:
            return
        with ThreadPoolExecutor() as pool:
            self.cache = list(pool.map(self._read, range(len(self))))
        logger.info("Training images in memory: %d, %.0f MB", len(self), needed / 1e6)

    def __getitem__(self, request: Request) -> Item:
        """The augmented image that `request` names."""
        item = self._augment(request)
        sample = self.images.samples[request.index]
        return _to_item(item, sample.image_id, str(sample.path), None)

    def _augment(self, request: Request) -> Labelled:
        config = self.config
        rng = self._generator(request.epoch, request)
        item = self._compose(request, rng)
        if request.mix and rng.random() < config.mixup:
            partner = request._replace(index=int(rng.integers(len(self))))
            other = self._generator(request.epoch + MIXUP_STREAM, partner)
            item = mixup(item, self._compose(partner, other), rng)
        item = self._run_pipeline(item, request.size, rng)
        item = random_flips(item, config, rng)
        return Labelled(random_hsv(item.image, config, rng), item.boxes, item.labels, item.crowd)

    def _generator(self, epoch: int, request: Request) -> np.random.Generator:
        return np.random.default_rng((self.seed, epoch, request.index, request.repeat))

    def _compose(self, request: Request, rng: np.random.Generator) -> Labelled:
        """One image or four, through the random affine map, at the size that is asked for."""

        def load(index: int) -> Labelled:
            return self._load(index, request.size)

        if request.mix and rng.random() < self.config.mosaic:
            return mosaic(load, request.index, len(self), request.size, self.config, rng)
        item = load(request.index)
        height, width = item.image.shape[:2]
        return random_affine(item, (width / 2, height / 2), request.size, self.config, rng)

    def _run_pipeline(self, item: Labelled, size: tuple[int, int], rng: np.random.Generator) -> Labelled:
        if self.pipeline is None:
            return item
        item = self.pipeline(item, rng)
        if item.image.shape[:2] == tuple(size):
            return keep_visible(item, self.config)
        box = plan_resize(*item.image.shape[:2], size, self.resize)
        matrix = np.array([[box.scale_x, 0, box.pad_x], [0, box.scale_y, box.pad_y]])
        return warp(item, matrix, size, self.config)

    def _load(self, index: int, size: tuple[int, int]) -> Labelled:
        """An image with its labels, resized as for an input of `size` but without the grey sides."""
        sample = self.images.samples[index]
        image = self.cache[index] if self.cache is not None else self._read(index)
        box = plan_resize(sample.height, sample.width, size, self.resize)
        height, width = round(sample.height * box.scale_y), round(sample.width * box.scale_x)
        if image.shape[:2] != (height, width):
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        boxes = (sample.boxes * (box.scale_x, box.scale_y, box.scale_x, box.scale_y)).astype(np.float32)
        return Labelled(image, boxes, sample.labels, sample.crowd)

    def _inner_size(self, index: int) -> tuple[int, int]:
        sample = self.images.samples[index]
        box = plan_resize(sample.height, sample.width, self.image_size, self.resize)
        return round(sample.height * box.scale_y), round(sample.width * box.scale_x)

    def _read(self, index: int) -> np.ndarray:
        """The decoded image at the base size."""
        sample = self.images.samples[index]
        image = read_image(sample.path)
        check_size(image, sample.height, sample.width, str(sample.path))
        height, width = self._inner_size(index)
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


class EvalDataset(Dataset):
    """Images as at inference, with the map back to the original.

    Args:
        images: the split to evaluate.
        image_size: (height, width) of the network input.
        resize: 'letterbox' or 'stretch'.
    """

    def __init__(self, images: LabelledImages, *, image_size: tuple[int, int], resize: str) -> None:
        self.images = images
        self.image_size = image_size
        self.resize = resize

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Item:
        """The image at `index`; its boxes are in pixels of the network input."""
        sample = self.images.samples[index]
        image = read_image(sample.path)
        check_size(image, sample.height, sample.width, str(sample.path))
        letterbox = plan_resize(*image.shape[:2], self.image_size, self.resize)
        boxes = letterbox.apply(sample.boxes).astype(np.float32)
        item = Labelled(resize_image(image, letterbox, self.image_size), boxes, sample.labels, sample.crowd)
        return _to_item(item, sample.image_id, str(sample.path), letterbox)


def check_size(image: np.ndarray, height: int, width: int, path: str) -> None:
    """Refuse an image whose size is not the one that its labels were made for.

    Raises:
        ValueError: with both sizes and the likely cause.
    """
    if image.shape[:2] != (height, width):
        raise ValueError(
            f"{path}: the labels say {width} x {height} pixels, the upright image has "
            f"{image.shape[1]} x {image.shape[0]}; correct width and height in the annotation file (if the two are "
            "swapped, the boxes were drawn on the image without its EXIF rotation)"
        )


def _to_item(item: Labelled, image_id: int, path: str, letterbox: Letterbox | None) -> Item:
    image = torch.from_numpy(np.ascontiguousarray(item.image)).permute(2, 0, 1)
    return Item(
        image,
        torch.from_numpy(np.ascontiguousarray(item.boxes, np.float32)),
        torch.from_numpy(item.labels),
        torch.from_numpy(item.crowd),
        image_id,
        path,
        letterbox,
    )
