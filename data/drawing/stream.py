"""Random whole numbers that never change: NumPy promises no fixed stream for its distributions, this generator does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Stream:
    """SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), seeded with the numbers of a key.

    State i is a fixed step after state i - 1, so that a whole array of numbers is made at once.
    """

    _STEP = 0x9E3779B97F4A7C15
    _MASK = (1 << 64) - 1

    def __init__(self, *key: int) -> None:
        self._state = 0
        for part in key:
            self._state = (self._state + part) & self._MASK
            self._state = int(self.raw(1)[0])

    def raw(self, count: int) -> np.ndarray:
        """(count,) uint64, all 64 bits random."""
        steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(self._STEP)  # wraps, as it should
        mixed = steps + np.full(count, self._state, dtype=np.uint64)
        self._state = (self._state + count * self._STEP) & self._MASK
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))

    def below(self, limit: int) -> int:
        """0 <= number < limit."""
        return int(self.raw(1)[0]) * limit >> 64

    def between(self, low: int, high: int) -> int:
        """low <= number <= high."""
        return low + self.below(high - low + 1)

    def chance(self, percent: int) -> bool:
        """True so many times in a hundred."""
        return self.below(100) < percent

    def pick(self, items: Sequence[T]) -> T:
        """One of the items, each as likely."""
        return items[self.below(len(items))]

    def grid(self, height: int, width: int, limit: int) -> np.ndarray:
        """(height, width) int64, each 0 <= number < limit; limit at most 2**31."""
        raw = (self.raw(height * width) >> np.uint64(33)).astype(np.int64)
        return (raw * limit >> 31).reshape(height, width)
