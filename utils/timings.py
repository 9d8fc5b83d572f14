"""Where the time of a frame goes: seconds by stage, from whichever thread a stage runs in."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

STAGES = ("read", "prepare", "inference", "postprocess", "draw", "encode")
"""A frame is decoded, resized, seen by the network; its boxes are chosen and drawn, and the drawing is written."""

_KEPT = 10_000
"""Newest frames whose times are kept, so that a stream of a week needs no more memory than one of an hour."""


class Timings:
    """Seconds a frame by stage, by the clock. Any thread may add and read.

    >>> timings = Timings()
    >>> for seconds in (0.010, 0.012, 0.011, 0.030):
    ...     timings.add("inference", seconds)
    >>> timings.stages()
    ['inference']
    >>> f"{timings.percentile('inference', 50):.3f} {timings.percentile('inference', 95):.3f}"
    '0.012 0.030'
    >>> print(timings)
    inference 12.0/30.0
    """

    def __init__(self, stages: Sequence[str] = STAGES) -> None:
        self._seconds = {stage: deque[float](maxlen=_KEPT) for stage in stages}

    def __str__(self) -> str:
        pairs = ((stage, *(1000 * self.percentile(stage, percent) for percent in (50, 95))) for stage in self.stages())
        return ", ".join(f"{stage} {middle:.1f}/{late:.1f}" for stage, middle, late in pairs)

    def add(self, stage: str, seconds: float, *, frames: int = 1) -> None:
        """Note what a stage took; of a batch of several frames each has its share."""
        self._seconds[stage].extend([seconds / frames] * frames)

    @contextmanager
    def measure(self, stage: str, *, frames: int = 1) -> Iterator[None]:
        """Note how long the block takes; nothing where it raises."""
        begin = time.perf_counter()
        yield
        self.add(stage, time.perf_counter() - begin, frames=frames)

    def stages(self) -> list[str]:
        """Those that have been measured, in their order."""
        return [stage for stage, seconds in self._seconds.items() if seconds]

    def percentile(self, stage: str, percent: float) -> float:
        """Seconds that `percent` of 100 of the newest frames do not exceed.

        Raises:
            ValueError: a stage that was not measured.
        """
        ranked = sorted(self._seconds[stage].copy())
        if not ranked:
            raise ValueError(f"stage '{stage}' was not measured")
        return ranked[min(int(len(ranked) * percent / 100), len(ranked) - 1)]
