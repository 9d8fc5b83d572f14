"""How large the images of each batch are, and how many of them it has: pure functions of (seed, epoch, batch)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

LAST_LARGE_STEPS = 100
"""Steps at the end that darknet trains at the largest size, so that batch normalisation knows it."""


@dataclass(frozen=True)
class SizePlan:
    """The input size of every batch of a training.

    Args:
        image_size: base (height, width).
        stride: sizes are multiples of this.
        multi_scale, kind, steps: see AugmentConfig (multi_scale, multi_scale_type, multi_scale_steps).
        accumulate: batches of a step.
        dynamic: batches grow where sizes are small.
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

    def epoch(self, epoch: int, *, count: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """What the batches of an epoch are, so that they hold `count` images together.

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
        """What the base size is multiplied by, for each batch."""
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
