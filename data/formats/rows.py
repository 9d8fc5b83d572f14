"""What a reader of labels collects: images, rows of objects, and problems with the action taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from utils.structures import LabelProblem

LEFT_OUT = "left out"
CLIPPED = "clipped to the image"
KEPT = "kept"
SUSPECT = "kept, worth a look"
BACKGROUND = "kept as images without objects"
OUTLINES = "read as their boxes"
COMPLETED = "width times height is taken"
NOTES = frozenset({KEPT, SUSPECT, BACKGROUND, OUTLINES, COMPLETED})
"""Actions of a LabelProblem that is worth reporting but not an error: `labels: error` accepts it."""


@dataclass(frozen=True, eq=False)
class Rows:
    """The objects of a split as they are in the files, before any check.

    Args:
        image_index: (M,) int64 position in the list of images.
        labels: (M,) int64 zero-based class index.
        boxes: (M, 4) float64 xyxy pixels of the upright image; anything, NaN and inverted boxes too.
        crowd: (M,) bool.
        where: file and line of row i, for messages.
    """

    image_index: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    crowd: np.ndarray
    where: Callable[[int], str]


@dataclass(frozen=True, eq=False)
class ImageTable:
    """The images of a split: path, id and (height, width) of each; a size of None is not known yet."""

    paths: Sequence[Path]
    ids: Sequence[int]
    sizes: Sequence[tuple[int, int] | None]


@dataclass(eq=False)
class Problems:
    """The list of problems while a split is being read.

    Args:
        thorough: also list what is used but looks wrong, as `data.doctor` does.
    """

    thorough: bool = False
    entries: list[LabelProblem] = field(default_factory=list)

    def add(self, where: object, what: str, action: str = LEFT_OUT) -> None:
        """One more problem; the arguments are those of LabelProblem."""
        self.entries.append(LabelProblem(str(where), what, action))


def show_box(box: np.ndarray) -> str:
    """The (4,) numbers of a box for a message."""
    return "[" + ", ".join(f"{value:.6g}" for value in box) + "]"
