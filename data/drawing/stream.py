"""Random whole numbers that never change: NumPy promises no fixed stream for its distributions, this generator does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")

_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


class Stream:
    """SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), seeded with the numbers of a key.

    State i is a fixed step after state i - 1, so that a whole array of numbers can be made at once.
    """

    def __init__(self, *key: int) -> None:
        self._state = 0
        for part in key:
            self._state += part
            self._state = self.raw()

    def raw(self) -> int:
        """All 64 bits random."""
        self._state = (self._state + _STEP) % 2**64
        mixed = (self._state ^ (self._state >> 30)) * _FIRST % 2**64
        mixed = (mixed ^ (mixed >> 27)) * _SECOND % 2**64
        return mixed ^ (mixed >> 31)

    def raws(self, count: int) -> np.ndarray:
        """(count,) uint64: the next `count` of raw()."""
        mixed = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_STEP)  # unsigned arrays wrap at 2**64
        mixed += np.uint64(self._state)
        self._state = (self._state + count * _STEP) % 2**64
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(_FIRST)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(_SECOND)
        return mixed ^ (mixed >> np.uint64(31))

    def below(self, limit: int) -> int:
        """0 <= number < limit."""
        return self.raw() * limit >> 64

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
        """(height, width) int32, each 0 <= number < limit; limit at most 2**31."""
        high = self.raws(height * width) >> np.uint64(32)
        return (high * np.uint64(limit) >> np.uint64(32)).astype(np.int32).reshape(height, width)
