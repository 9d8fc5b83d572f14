"""The pixels of samples: whole images, or tiles of them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from data.images import read_for_training, read_image
from utils.samples import Sample


class SampleReader:
    """Reads samples; a file is decoded once for tiles of it that follow each other in a thread.

    Args:
        fast: by `read_for_training`, else by `read_image`; the pixels are the same.
    """

    def __init__(self, *, fast: bool) -> None:
        self._fast = fast
        self._last = threading.local()

    def read(self, sample: Sample, notes: list[str]) -> np.ndarray:
        """(H, W, 3) uint8 RGB of a sample; a tile is a view of its picture, which must not be changed.

        Args:
            notes: where it is written what is wrong with a file that is used all the same.
        Raises:
            ValueError: the file cannot be read, or has another size than the labels say.
        """
        if sample.tile is None:
            return self._decode(sample, notes)
        last: tuple[Path, np.ndarray, list[str]] | None = getattr(self._last, "picture", None)
        if last is None or last[0] != sample.path:
            self._last.picture = None  # one picture at a time is in memory
            own = list[str]()
            last = self._last.picture = sample.path, self._decode(sample, own), own
        notes += last[2]
        return sample.tile.cut(last[1])

    def _decode(self, sample: Sample, notes: list[str]) -> np.ndarray:
        read = read_for_training if self._fast else read_image
        image = read(sample.path, notes=notes)
        check_size(image.shape[:2], *sample.file_size, str(sample.path))
        return image

    def __getstate__(self) -> dict[str, Any]:
        """Without what belongs to a thread."""
        return {"_fast": self._fast}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As it was made."""
        self._fast, self._last = state["_fast"], threading.local()


def check_size(found: tuple[int, ...], height: int, width: int, path: str) -> None:
    """Refuse an image whose size differs from the size that its labels were made for.

    Args:
        found: height and width of the upright image.
        height, width: as the labels say.
    Raises:
        ValueError: with both sizes and the likely cause.
    """
    if found != (height, width):
        raise ValueError(
            f"{path}: the labels say {width} x {height} pixels, the upright image has "
            f"{found[1]} x {found[0]}; correct width and height in the annotation file (if the two are "
            "swapped, the boxes were drawn on the image without its EXIF rotation)"
        )
