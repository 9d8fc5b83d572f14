"""Sample -> image and targets. All randomness of a training sample is a function of (seed, epoch, position)."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from data.images import image_size, tell
from data.items import Item, collate, to_item
from data.mosaic import draw_crossing, mixup, mosaic, quadrants, random_variant
from data.sample_reader import SampleReader
from data.transforms import (
    FILL,
    Labelled,
    keep_visible,
    random_flips,
    random_hsv,
    random_place,
    resize_image,
    warp,
)
from utils.augment_config import AugmentConfig
from utils.boxes import plan_resize
from utils.log import tracked
from utils.structures import Batch, LabelledImages, Sample
from utils.text import printable
from utils.torchrun import launched_rank

logger = logging.getLogger(__name__)

MIXUP_STREAM = 1_000_003
"""Added to the epoch for the second image of a mixup, so that it is not the augmentation of the first."""

RECENT_BYTES = 192 * 1024 * 1024
"""Most memory for images that are kept for those that they are mixed with: a block of the sampler at 640 px."""

MOST_IN_A_ROW = 20
"""If this many images in a row cannot be read, the cause is not single files."""

GO_ON = (
    "; --resume goes on only with the files that the run began with, a new run takes any; or train without such "
    "files: --set bad_images=skip (for --resume: bad_images: skip in the run's config.yaml)"
)
PUT_BACK = "; put it back, and --resume goes on exactly; a new run leaves it out"
REPLACED = (
    "; --resume goes on only with the files that the run began with; or train anew without such files: "
    "--set bad_images=skip"
)
"""Remedies for a file that stops a training: a damaged one; a missing one; and one of another size, or without any,
which would be another data set for --resume."""


@dataclass(frozen=True)
class Request:
    """What the sampler requests from a training set: an image, augmented as in this epoch, at this size.

    Args:
        repeat: how often the image has occurred before in this epoch (the last batch is filled from the start).
        partners: images to mix it with: three for its mosaic, one for mixup, and three for the mosaic of that one.
    """

    epoch: int
    index: int
    size: tuple[int, int]
    mix: bool
    repeat: int = 0
    partners: tuple[int, ...] = ()


@dataclass(eq=False, repr=False)
class TrainDataset(Dataset):
    """Augmented images.

    Args:
        images: the training split.
        config: the augmentation.
        image_size: base (height, width) of the input; images are read at this size before augmentation.
        resize: 'letterbox' or 'stretch'; the aspect that images have at inference.
        seed: of the run.
        bad_images: if a file cannot be read, 'stop' raises, 'skip' takes the next image instead.
    """

    images: LabelledImages
    config: AugmentConfig
    _: KW_ONLY
    image_size: tuple[int, int]
    resize: str
    seed: int
    bad_images: Literal["stop", "skip"] = "stop"

    interpolation = cv2.INTER_LINEAR
    """Of images that are read."""

    def __post_init__(self) -> None:
        self.problems: list[str] = []
        self.notes: list[str] = []
        """What the image that is being made has to say: see Item."""
        self.recent: dict[tuple[int, tuple[int, int]], tuple[Labelled, list[str], list[str]]] = {}
        """By index and size, the images that were read last, with the problems and notes of their files."""
        self.recent_bytes = 0
        self.reader = SampleReader(fast=True)
        self.pipeline = None
        if self.config.albumentations:
            from data.pipeline import AlbumentationsPipeline  # the library takes a second or two to import

            self.pipeline = AlbumentationsPipeline(self.config.albumentations)
        self.cache: list[np.ndarray | str] | None = None
        """The images at the base size, or why one cannot be read."""

    def __len__(self) -> int:
        return len(self.images)

    def fill_cache(self, *, limit_bytes: int) -> None:
        """Keep all images in memory at the base size, if they fit into `limit_bytes`; changes speed only."""
        needed = sum(3 * np.prod(self._inner_size(index)) for index in range(len(self)))
        if needed > limit_bytes:
            return
        with ThreadPoolExecutor() as pool:
            parts, quiet = pool.map(self._read_all, self._by_file()), launched_rank() != 0
            images = (image for part in parts for image in part)
            self.cache = list(tracked(images, len(self), "Reading the training images", quiet=quiet))
        tell(sorted(self.notes))
        self.notes.clear()
        logger.info("Training images in memory: %d, %.0f MB", len(self), needed / 1e6)

    def __getstate__(self) -> dict[str, Any]:
        """Without images: if loader processes are not forked, each would get a copy of them all."""
        return {**self.__dict__, "cache": None, "recent": {}, "recent_bytes": 0}

    def __getitem__(self, request: Request) -> Item:
        """The augmented image that `request` names; its boxes are in pixels of the network input."""
        return self._item(request, None)

    def __getitems__(self, requests: list[Request]) -> Batch:
        """The batch of several requests for one size, as `collate` makes it of single items, but without a copy."""
        images = torch.empty((len(requests), 3, *requests[0].size), dtype=torch.uint8)
        places = zip(requests, images.numpy(), strict=True)
        return collate([self._item(request, planes) for request, planes in places], images)

    def _item(self, request: Request, planes: np.ndarray | None) -> Item:
        item = self._augment(request)
        problem, notes = "\n".join(self.problems), tuple(self.notes)
        self.problems.clear()
        self.notes.clear()
        return to_item(item, self.images.samples[request.index], None, problem, notes, planes=planes)

    def _augment(self, request: Request) -> Labelled:
        config = self.config
        rng = self._generator(request.epoch, request)
        item = self._compose(request, rng)
        if request.mix and rng.random() < config.mixup:
            partner = replace(request, index=request.partners[3], partners=request.partners[4:])
            other = self._generator(request.epoch + MIXUP_STREAM, partner)
            item = mixup(item, self._compose(partner, other), rng)
        item = self._run_pipeline(item, request.size, rng)
        if config.mosaic_type == "quadrants":  # already applied to each image
            return item
        item = random_flips(item, config, rng)
        return replace(item, image=random_hsv(item.image, config, rng))

    def _generator(self, epoch: int, request: Request) -> np.random.Generator:
        return np.random.default_rng((self.seed, epoch, request.index, request.repeat))

    def _compose(self, request: Request, rng: np.random.Generator) -> Labelled:
        """One image or a mosaic of four, through the random affine map, at the requested size."""
        each_alone = self.config.mosaic_type == "quadrants"
        if request.mix and rng.random() < self.config.mosaic:
            items = [self._load(index, request.size) for index in (request.index, *request.partners[:3])]
            join = quadrants if each_alone else mosaic
            return join(items, draw_crossing(self.config, rng), request.size, self.config, rng)
        vary = random_variant if each_alone else random_place
        return vary(self._load(request.index, request.size), request.size, self.config, rng)

    def _run_pipeline(self, item: Labelled, size: tuple[int, int], rng: np.random.Generator) -> Labelled:
        if self.pipeline is None:
            return item
        item = self.pipeline(item, rng)
        if item.image.shape[:2] == tuple(size):
            return keep_visible(item, self.config)
        height, width = item.image.shape[:2]
        box = plan_resize(height, width, size, self.resize)
        matrix = np.array([[box.scale_x, 0, box.pad_x], [0, box.scale_y, box.pad_y]])
        return warp(item, matrix, size, self.config)

    def _load(self, index: int, size: tuple[int, int]) -> Labelled:
        """An image with its labels, resized for an input of `size`, without the grey sides.

        Images of one block follow each other, so the last ones are kept.
        """
        known = self.recent.pop((index, size), None)
        if known is None:
            before = len(self.problems), len(self.notes)
            item = self._sized(index, size)
            known = item, self.problems[before[0] :], self.notes[before[1] :]
            self.recent_bytes += item.image.nbytes
        else:
            self.problems += known[1]
            self.notes += known[2]
        self.recent[index, size] = known
        while self.recent_bytes > RECENT_BYTES and len(self.recent) > 1:
            oldest, _, _ = self.recent.pop(next(iter(self.recent)))
            self.recent_bytes -= oldest.image.nbytes
        return known[0]

    def _sized(self, index: int, size: tuple[int, int]) -> Labelled:
        index, image = self.image_at(index)
        sample = self.images.samples[index]
        box = plan_resize(sample.height, sample.width, size, self.resize)
        height, width = round(sample.height * box.scale_y), round(sample.width * box.scale_x)
        image = _resized(image, (height, width), cv2.INTER_LINEAR)
        boxes = (sample.boxes * (box.scale_x, box.scale_y, box.scale_x, box.scale_y)).astype(np.float32)
        return Labelled(image, boxes, sample.labels, sample.crowd)

    def image_at(self, index: int) -> tuple[int, np.ndarray]:
        """An image at the base size, and its index; with `bad_images: skip` it may be one of the next images.

        Returns:
            The index, and the (H, W, 3) uint8 RGB image.
        Raises:
            ValueError: it cannot be read; with 'skip', the images after it cannot either.
        """
        for _ in range(MOST_IN_A_ROW):
            image = self.cache[index] if self.cache is not None else self._read_or_problem(index)
            if not isinstance(image, str):
                return index, image
            self.problems.append(image)
            index = self._next_file(index)
        raise ValueError(f"{self.problems[-1]}; the {MOST_IN_A_ROW - 1} images before it cannot be read either")

    def _next_file(self, index: int) -> int:
        """The first index behind `index` that is of another file: all tiles of one that cannot be read are lost."""
        samples = self.images.samples
        several = (index + step for step in range(1, len(self)) if samples.tiles is not None)
        others = (other % len(self) for other in several if samples.path(other % len(self)) != samples.path(index))
        return next(others, (index + 1) % len(self))

    def _by_file(self) -> Iterator[list[int]]:
        """The indices of all images; those of tiles of one file together."""
        samples = self.images.samples
        if samples.tiles is None:
            return ([index] for index in range(len(self)))
        return (list(part) for _, part in itertools.groupby(range(len(self)), key=samples.path))

    def _read_all(self, indices: list[int]) -> list[np.ndarray | str]:
        return [self._read_or_problem(index) for index in indices]

    def _read_or_problem(self, index: int) -> np.ndarray | str:
        """The image at the base size, or why it cannot be read if that is no reason to stop."""
        try:
            return self._read(index)
        except ValueError as error:
            if self.bad_images == "stop":
                raise ValueError(_with_remedy(error, self.images.samples[index])) from None
            return str(error)

    def _inner_size(self, index: int) -> tuple[int, int]:
        sample = self.images.samples[index]
        box = plan_resize(sample.height, sample.width, self.image_size, self.resize)
        return round(sample.height * box.scale_y), round(sample.width * box.scale_x)

    def _read(self, index: int) -> np.ndarray:
        """The decoded image at the base size."""
        sample = self.images.samples[index]
        size, notes = self._inner_size(index), list[str]()
        image = self.reader.read(sample, notes)
        self.notes += _named(notes, sample)
        return np.ascontiguousarray(_resized(image, size, self.interpolation))


@dataclass(eq=False, repr=False)
class EvalDataset(Dataset):
    """Images as at inference, with the map back to the original.

    Args:
        images: the split to evaluate.
        image_size: (height, width) of the network input.
        resize: 'letterbox', 'stretch' or 'crop'.
        bad_images: if a file cannot be read, 'stop' raises, 'skip' takes a grey image instead. None raises too, without
            naming this key: there is no recipe.
    """

    images: LabelledImages
    _: KW_ONLY
    image_size: tuple[int, int]
    resize: str
    bad_images: Literal["stop", "skip"] | None = None

    def __post_init__(self) -> None:
        self.reader = SampleReader(fast=False)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, request: int | tuple[int, tuple[int, int]]) -> Item:
        """The image at an index, perhaps in an input of less padding; its boxes are in pixels of the network input.

        Args:
            request: the index, or that and the (height, width) of the input (`plan_resize` has it as `shape`).
        """
        index, shape = request if isinstance(request, tuple) else (request, self.image_size)
        sample, problem, notes = self.images.samples[index], "", list[str]()
        try:
            image = self.reader.read(sample, notes)
        except ValueError as error:
            if self.bad_images == "stop":
                raise ValueError(_with_remedy(error, sample)) from None
            if self.bad_images is None:
                raise
            image, problem = np.full((sample.height, sample.width, 3), FILL, np.uint8), str(error)
        height, width = image.shape[:2]
        letterbox = plan_resize(height, width, self.image_size, self.resize, shape=shape)
        boxes = letterbox.apply(sample.boxes).astype(np.float32)
        image = resize_image(image, letterbox, shape, mode=self.resize)
        item = Labelled(image, boxes, sample.labels, sample.crowd)
        return to_item(item, sample, letterbox, problem, _named(notes, sample))


def _resized(image: np.ndarray, size: tuple[int, int], interpolation: int) -> np.ndarray:
    """An image at another (height, width); the image itself if that is its own."""
    return image if image.shape[:2] == size else cv2.resize(image, size[::-1], interpolation=interpolation)


def _named(notes: list[str], sample: Sample) -> tuple[str, ...]:
    """What is wrong with the file of a sample that is used all the same, with its name."""
    return tuple(f"{printable(sample.path)}: {note}" for note in notes)


def _with_remedy(error: ValueError, sample: Sample) -> str:
    if not sample.path.exists():
        return f"{error}{PUT_BACK}"
    try:
        as_before = image_size(sample.path) == sample.file_size
    except ValueError:
        as_before = False
    return f"{error}{GO_ON if as_before else REPLACED}"
