"""Splits of a classifier that are on no disk, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.structures import LabelledImages, Sample


def whole_images(labels: Sequence[int], *, names: tuple[str, ...]) -> LabelledImages:
    """Images 1, 2, ... of 60 x 80 pixels, one label each."""
    box = np.array([[0.0, 0.0, 80.0, 60.0]])
    samples = tuple(
        Sample(Path(f"{number}.jpg"), number, 60, 80, box, np.array([label]), np.zeros(1, bool))
        for number, label in enumerate(labels, start=1)
    )
    return LabelledImages(samples, names, tuple(range(1, len(names) + 1)), {}, task="classify")
