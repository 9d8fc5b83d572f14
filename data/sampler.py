"""Which images the batches of a training are made of, at which size: a sampler with a position."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass

import numpy as np
from torch.utils.data import Sampler

from data.dataset import Request
from data.sizes import SizePlan


@dataclass(eq=False)
class TrainSampler(Sampler[list[Request]]):
    """Batches of one epoch after another: which images, at which size; a pure function of (seed, epoch, batch).

    The order is a permutation of all images; the last batch is filled from its start, so that all batches are full.
    Every rank takes its share of the same global batch; where batches grow, shares may differ by one image.

    Args:
        count: images in the set.
        batch_size: of all ranks together; must be a multiple of `world_size`.
        sizes: of the images, and how batches grow where they are small.
        mix_epochs: epochs with mosaic and mixup.
        mix_share: share of the batches of those epochs that may be mixed.
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
        """Go on with batch `start` of `epoch`."""
        self.epoch = epoch
        self.start = start
        self.sides, self.images = self._epoch(epoch)

    def images_in(self, start: int, stop: int) -> int:
        """Images in the batches from `start` up to `stop` of the current epoch, over all ranks."""
        return int(self.images[start:stop].sum())

    def total_steps(self, epochs: int) -> int:
        """Optimizer updates in a training of `epochs`."""
        dynamic = self.sizes.dynamic
        batches = [len(self._epoch(epoch)[1]) if dynamic else self.batches for epoch in range(epochs)]
        return sum(-(-number // self.sizes.accumulate) for number in batches)

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        return self.sizes.epoch(epoch, count=self.count, batch_size=self.batch_size)

    def __len__(self) -> int:
        return self.batches - self.start

    def __iter__(self) -> Iterator[list[Request]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.count)
        begin = self.images_in(0, self.start)
        for batch in range(self.start, self.batches):
            (height, width), mix = self.sides[batch].tolist(), self.is_mixed(batch)
            end = begin + int(self.images[batch])
            positions, begin = range(begin, end)[self.rank :: self.world_size], end
            yield [
                Request(self.epoch, int(order[position % self.count]), (height, width), mix, position // self.count)
                for position in positions
            ]

    def is_mixed(self, batch: int) -> bool:
        """Whether a batch of the current epoch may have images made of several."""
        if self.epoch >= self.mix_epochs or self.mix_share >= 1:
            return self.epoch < self.mix_epochs
        return bool(np.random.default_rng((self.seed, self.epoch, batch, 2)).random() < self.mix_share)
