"""What a reader of labels collects: images, rows of objects, and problems with the action taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from utils.packed import Packed
from utils.structures import LabelProblem
from utils.text import shorten

LEFT_OUT = "left out"
IMAGE_LEFT_OUT = "its image is left out"
STOPS = "the run stops (unreadable: run)"
REPAIRED = "repaired"
CLIPPED = "clipped to the image"
KEPT = "kept"
SUSPECT = "kept, worth a look"
BACKGROUND = "kept as images without objects"
OUTLINES = "read as their boxes"
KEYPOINTS = "the boxes are taken"
COMPLETED = "width times height is taken"
LISTED = "each is listed"
MATCHED = "matched by name"
NO_CLASS = "no class"
NOT_USED = "not used"
NEEDED = "training needs one"
NOTES = frozenset(
    {KEPT, LISTED, SUSPECT, BACKGROUND, OUTLINES, KEYPOINTS, COMPLETED, MATCHED, NO_CLASS, NOT_USED, NEEDED}
)
"""Actions of a LabelProblem that is worth reporting but not an error: `labels: error` accepts it."""
UNDERSTOOD = frozenset({OUTLINES, KEYPOINTS, COMPLETED, MATCHED, NO_CLASS, NOT_USED})
"""Those of them that say how something was read that is right as it is."""
SUMMED = {IMAGE_LEFT_OUT: "left out with their images", STOPS: "that stop the run"}
"""Actions that read differently behind a number."""


@dataclass(frozen=True, eq=False)
class Rows:
    """The objects of a split as they are in the files, before any check.

    Args:
        image_index: (M,) int64 position in the list of images.
        labels: (M,) int64 zero-based class index.
        boxes: (M, 4) float64 xyxy pixels of the upright image; anything, NaN and inverted boxes too.
        crowd: (M,) bool.
        where: file and line of row i, for messages.
        unreadable: images of which an object is missing here, because its label cannot be read.
    """

    image_index: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    crowd: np.ndarray
    where: Callable[[int], str]
    unreadable: frozenset[int] = frozenset()


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
        unreadable: what a label that cannot be repaired leaves out; 'run' lists all such labels, then stops.
    """

    thorough: bool = False
    unreadable: Literal["object", "image", "run"] = "image"
    entries: Packed[LabelProblem] = field(default_factory=lambda: Packed(LabelProblem))

    def add(self, where: object, what: str, action: str = LEFT_OUT) -> None:
        """One more problem; the arguments are those of LabelProblem."""
        self.entries.append(LabelProblem(str(where), what, action))

    def add_first(self, where: object, what: str, action: str) -> None:
        """A problem that explains those that have been added so far."""
        self.entries.put_first(LabelProblem(str(where), what, action))

    def lost(self, where: object, what: str, *, image_known: bool = True) -> None:
        """An object that cannot be read: it is left out, alone or with its image, or the run stops.

        Args:
            image_known: whether it is known which image the object is in; else it is left out alone.
        """
        action = IMAGE_LEFT_OUT if self.unreadable == "image" and image_known else LEFT_OUT
        self.add(where, what, STOPS if self.unreadable == "run" else action)

    def lost_file(self, where: object, what: str) -> None:
        """Labels of a whole image that cannot be read: whether it shows objects is not known, so it is left out."""
        self.add(where, what, STOPS if self.unreadable == "run" else IMAGE_LEFT_OUT)


def show_box(box: np.ndarray) -> str:
    """The (4,) numbers of a box for a message."""
    return "[" + ", ".join(f"{value:.6g}" for value in box) + "]"


def summarize(problems: Sequence[LabelProblem], *, limit: int = 10) -> str:
    """A few lines of text: the number of problems, the actions taken, and the first `limit` problems."""
    if not problems:
        return "no problems in the labels"
    counts = Counter(problem.action for problem in problems).most_common()
    actions = ", ".join(f"{count} {SUMMED.get(action, action)}" for action, count in counts)
    notes = all(problem.action in UNDERSTOOD for problem in problems)
    what = "note" if notes else "problem"
    lines = [f"{len(problems)} {what}{'s' * (len(problems) > 1)} {'on' if notes else 'in'} the labels ({actions}):"]
    lines += [f"  {shorten(str(problem), 350)}" for problem in problems[:limit]]
    if len(problems) > limit:
        lines.append(f"  ... and {len(problems) - limit} more; 'python -m data.doctor DATA' lists all of them")
    return "\n".join(lines)
