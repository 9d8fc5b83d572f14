"""The images of each training batch, and their size and number: pure functions of (seed, epoch, batch)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Literal

import numpy as np
from torch.utils.data import Sampler

from data.dataset import Request
from utils.boxes import least_shape

BLOCK = 128
"""Positions of an epoch in a row whose images are mixed with each other.

A process that makes the samples of a block decodes each of its images once. Each image is in the four corners of four
mosaics of its block, and so it is seen whole and equally often. With blocks of 16 the pictures of a batch are too much
alike: AP on chess, 20 epochs at 160 px, two seeds, was 0.03 lower than with blocks of 128.
"""

TOGETHER = 4
"""Most tiles of a picture in one block: it is decoded once for them, and a block still has tiles of 32 pictures.

Only pictures of many tiles, which take long to decode, have theirs together: one for every `TILES_FOR_ONE` of them. On
hit_uav_mini (6 tiles a picture), four together cost 0.003 AP (684 steps, two seeds), which is within the noise.
"""

TILES_FOR_ONE = 8

PARTNERS = 7
"""Other images that one sample may need: see Request."""

SAMPLE_ORDER = 3
"""Version of the order of images and partners; it goes up when another release gives other samples for a seed."""

LAST_LARGE_STEPS = 100
"""Steps at the end that darknet trains at the largest size, so that batch normalisation knows it."""


@dataclass(eq=False)
class TrainSampler(Sampler[list[Request]]):
    """The batches of an epoch, as requests for images of a size; a pure function of (seed, epoch, batch).

    The order is a permutation of all images; with `repeats` it has as many, some of them several times and others not.
    The last batch is filled from its start, so that all batches are full.
    Every rank takes its share of the same global batch, whose images follow each other; where batches grow, shares may
    differ by one image.

    Args:
        count: images in the set.
        batch_size: of all ranks together; must be a multiple of `world_size`.
        sizes: of the images, and how batches grow when images are small.
        mix_epochs: epochs with mosaic and mixup.
        mix_share: share of the batches of those epochs that may be mixed.
        files: (count,) a number of each image's file, where images are tiles: few of a file are in one block.
        repeats: (count,) how often images are shown, compared with each other (data/balance.py); None: each once.
    """

    count: int
    _: KW_ONLY
    batch_size: int
    sizes: SizePlan
    mix_epochs: int
    mix_share: float = 1.0
    seed: int
    rank: int = 0
    world_size: int = 1
    files: np.ndarray | None = None
    repeats: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.batch_size % self.world_size:
            share = f"{self.world_size} processes; use a multiple of {self.world_size}"
            raise ValueError(f"batch size {self.batch_size} cannot be split over {share}")
        self.set_position(0)

    @property
    def batches(self) -> int:
        """Batches in the whole of the current epoch."""
        return len(self.images)

    def set_position(self, epoch: int, start: int = 0) -> None:
        """Continue with batch `start` of `epoch`."""
        self.epoch = epoch
        self.start = start
        self.times = self._times(epoch)
        self.sides, self.images = self._epoch(epoch)

    def images_in(self, start: int, stop: int) -> int:
        """Images in the batches from `start` up to `stop` of the current epoch, over all ranks."""
        return int(self.images[start:stop].sum())

    def total_steps(self, epochs: int) -> int:
        """Optimizer updates in a training of `epochs`."""
        batches = [len(self._epoch(epoch)[1]) if self.sizes.dynamic else self.batches for epoch in range(epochs)]
        return sum(-(-number // self.sizes.accumulate) for number in batches)

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        return self.sizes.epoch(epoch, count=self.count, batch_size=self.batch_size)

    def _times(self, epoch: int) -> np.ndarray:
        """(count,) how often each image is in an epoch, `count` together: `repeats`, rounded up or down by chance.

        Systematic sampling: the images lie in a row in a random order, each as long as it is to be shown often, and
        one is taken at every whole number.
        """
        if self.repeats is None or not self.count:
            return np.ones(self.count, int)
        rng = np.random.default_rng((self.seed, epoch, 0, 4))
        order = rng.permutation(self.count)
        ends = np.cumsum(self.repeats[order])
        ends = np.floor(ends * (self.count / ends[-1]) + rng.random())
        ends[-1] = self.count
        times = np.empty(self.count, int)
        times[order] = np.diff(ends, prepend=0)
        return times

    def __len__(self) -> int:
        return self.batches - self.start

    def __iter__(self) -> Iterator[list[Request]]:
        order, repeats = self._order()
        end = self.images_in(0, self.start)
        for batch in range(self.start, self.batches):
            (height, width), mix = self.sides[batch].tolist(), self.is_mixed(batch)
            begin, images = end, int(self.images[batch])
            end = begin + images
            first, last = (begin + images * rank // self.world_size for rank in (self.rank, self.rank + 1))
            yield [
                Request(self.epoch, int(order[place % len(order)]), (height, width), mix, int(repeats[place]), partners)
                for place, partners in zip(range(first, last), self._partners(order, first, last), strict=True)
            ]

    def _order(self) -> tuple[np.ndarray, np.ndarray]:
        """The images of the epoch in their order, and for each place of its batches how often its image came before."""
        shown = np.repeat(np.arange(self.count), self.times)
        copies = np.arange(len(shown)) - np.repeat(self.times.cumsum() - self.times, self.times)
        mixed = self._mixed(shown)
        places = np.arange(self.images_in(0, self.batches))
        chosen = mixed[places % len(mixed)]
        return shown[mixed], copies[chosen] + places // len(mixed) * self.times[shown[chosen]]

    def _mixed(self, shown: np.ndarray) -> np.ndarray:
        """A permutation of the positions of `shown`, which are images of an epoch."""
        rng, count = np.random.default_rng((self.seed, self.epoch)), len(shown)
        order = rng.permutation(count)
        if self.files is None:
            return order
        files = self.files[shown[order]]
        by_file = np.argsort(files, kind="stable")
        rank = np.arange(count) - np.searchsorted(files[by_file], files[by_file])  # of each image in its file
        together = min(max(count // (TILES_FOR_ONE * int((rank == 0).sum())), 1), TOGETHER)
        few = np.cumsum(rank % together == 0) - 1  # that stay together, by number
        order = order[by_file][np.argsort(rng.permutation(count)[few], kind="stable")]
        return order[np.lexsort((rng.random(count), np.arange(count) // BLOCK))]

    def _partners(self, order: np.ndarray, first: int, last: int) -> Iterator[tuple[int, ...]]:
        """The partners of the images at the positions from `first` to `last`: so many places further in their blocks.

        How many is drawn for each block; an image at its end goes on at its beginning.
        """
        length = min(BLOCK, len(order))
        for block in range(first // length, -(-last // length)):
            begin = block * length
            turns = np.random.default_rng((self.seed, self.epoch, block, 3)).permutation(np.arange(1, length))
            steps = np.resize(turns, PARTNERS) if length > 1 else np.zeros(PARTNERS, int)
            for place in range(max(first - begin, 0), min(last - begin, length)):
                yield tuple(order[(begin + (place + steps) % length) % len(order)].tolist())

    def is_mixed(self, batch: int) -> bool:
        """Whether a batch of the current epoch may have images made of several."""
        if self.epoch >= self.mix_epochs or self.mix_share >= 1:
            return self.epoch < self.mix_epochs
        return bool(np.random.default_rng((self.seed, self.epoch, batch, 2)).random() < self.mix_share)


@dataclass(frozen=True)
class SizePlan:
    """The input size of every batch of a training.

    Args:
        image_size: base (height, width).
        stride: sizes are multiples of this.
        multi_scale, kind, steps: see AugmentConfig (multi_scale, multi_scale_type, multi_scale_steps).
        accumulate: batches of a step.
        dynamic: batches of small images have more of them.
        epochs: of the training; the last steps of the last one are large (darknet).
        seed: of the run.
    """

    image_size: tuple[int, int]
    stride: int
    multi_scale: float = 0.0
    kind: Literal["uniform", "darknet"] = "uniform"
    steps: int = 0
    accumulate: int = 1
    dynamic: bool = False
    epochs: int = 0
    seed: int = 0

    @property
    def largest(self) -> tuple[int, int]:
        """The largest (height, width) there can be."""
        height, width = self._sides(np.array([1 + self.multi_scale]))[0].tolist()
        return height, width

    @property
    def smallest(self) -> tuple[int, int]:
        """The smallest (height, width) there can be."""
        factor = 1 - self.multi_scale if self.kind == "uniform" else 1 / (1 + self.multi_scale)
        height, width = self._sides(np.array([factor]))[0].tolist()
        return height, width

    def epoch(self, epoch: int, *, count: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """The sizes of the batches of an epoch, which hold `count` images together.

        The last batch may reach beyond `count`; it is filled from the start of the epoch.

        Args:
            batch_size: images in a batch of the largest size; with `dynamic` off, in every batch.
        Returns:
            (N, 2) height and width of each batch, and (N,) its images.
        """
        most = -(-count // batch_size)
        sides = self._sides(self._factors(epoch, most))
        if self.kind == "darknet" and epoch == 0:
            sides[: self.accumulate * max(self.steps, 1)] = self.largest
        images = self._images(sides, batch_size)
        tail = LAST_LARGE_STEPS * self.accumulate if self.kind == "darknet" and epoch == self.epochs - 1 else 0
        drawn = int(np.searchsorted(images.cumsum(), count - tail * batch_size)) + 1 if count > tail * batch_size else 0
        large = max(-(-(count - int(images[:drawn].sum())) // batch_size), 0)
        sides = np.concatenate((sides[:drawn], np.tile(self.largest, (large, 1))))
        return sides, np.concatenate((images[:drawn], np.full(large, batch_size)))

    def _factors(self, epoch: int, batches: int) -> np.ndarray:
        """(N,) factors of the base size, one a batch."""
        rng = np.random.default_rng((self.seed, epoch, 0, 1))
        if self.kind == "uniform":
            factors = 1 + rng.uniform(-1, 1, batches) * self.multi_scale
        else:
            factors = rng.uniform(1, 1 + self.multi_scale, batches) ** rng.choice((-1, 1), batches)
        return factors[np.arange(batches) // (self.accumulate * self.steps)] if self.steps else factors

    def _sides(self, factors: np.ndarray) -> np.ndarray:
        """(N, 2) heights and widths; darknet's are a stride larger, but never above the base for factors below 1."""
        base = np.array(self.image_size)
        if not self.multi_scale:
            return np.tile(base, (len(factors), 1))
        more = int(self.kind == "darknet")
        sides = np.maximum(np.rint(factors[:, None] * base / self.stride).astype(int) + more, 1) * self.stride
        beyond = (factors < 1) & (sides > base).any(axis=1)
        return np.where(more and beyond[:, None], base, sides)

    def _images(self, sides: np.ndarray, batch_size: int) -> np.ndarray:
        """Images of each batch: as many pixels as in one of the largest size, less a fifth where that is still more."""
        if not self.dynamic:
            return np.full(len(sides), batch_size)
        grown = batch_size * np.prod(self.largest) // sides.prod(axis=1)
        less = (grown * 0.8).astype(int)
        return np.where(less > batch_size, less, grown)


def least_padding(
    sizes: np.ndarray, image_size: tuple[int, int], stride: int, batch_size: int, resize: str = "letterbox"
) -> list[list[tuple[int, tuple[int, int]]]]:
    """All images in batches of one shape each with little padding: those of like aspects are together.

    Args:
        sizes: (N, 2) height and width of the images.
        image_size, stride, resize: as in `least_shape`.
    Returns:
        For each batch the index of every image with the (height, width) of the batch's inputs.
    """
    order = np.argsort(sizes[:, 0] / sizes[:, 1], kind="stable")
    batches = []
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size].tolist()
        shapes = [least_shape(int(height), int(width), image_size, stride, resize) for height, width in sizes[chosen]]
        shape = (max(height for height, _ in shapes), max(width for _, width in shapes))
        batches.append([(index, shape) for index in chosen])
    return batches
