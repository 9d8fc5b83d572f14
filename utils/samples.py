"""Sample, an image on disk with its labels, and Samples, all images of a split in a few arrays."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np

from utils.tiles import Tile


@dataclass(frozen=True, eq=False)
class Sample:
    """One image on disk, or a tile of it, with its labels.

    Args:
        path: the image file.
        image_id: COCO's id where the data is COCO JSON, else 1, 2, ... in the order of the split.
        height, width: pixels of the upright image (EXIF orientation applied), or of the tile.
        boxes: (N, 4) float64 xyxy pixels of the same.
        labels: (N,) int64, zero-based class index.
        crowd: (N,) bool; a crowd region is neither an object to find nor background.
        tile: the part of the image in the file that this is; None for all of it.
    """

    path: Path
    image_id: int
    height: int
    width: int
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    tile: Tile | None = None

    def __post_init__(self) -> None:
        count = len(self.boxes)
        if self.boxes.shape != (count, 4) or self.labels.shape != (count,) or self.crowd.shape != (count,):
            raise ValueError(
                f"{self.path}: boxes {self.boxes.shape}, labels {self.labels.shape} and crowd {self.crowd.shape} "
                "do not belong together; expected (N, 4), (N,) and (N,)"
            )

    @property
    def file_size(self) -> tuple[int, int]:
        """(height, width) of the upright image in the file, which may be more than the sample."""
        tile = self.tile
        return (self.height, self.width) if tile is None else (tile.picture_height, tile.picture_width)


@dataclass(frozen=True, eq=False)
class Samples(Sequence[Sample]):
    """The images of a split: a sequence that makes each Sample when it is asked for.

    A million objects in Python's own lists would be copied into every forked loader process, for reading an object
    changes its reference count, and with it the page of memory that it lies in. Arrays stay shared.

    Args:
        files: the paths one after another, as `os.fsencode` gives them; file_ends (N + 1,) int64 says where each ends.
        image_ids: (N,) int64; sizes: (N, 2) int64 height and width, as in Sample.
        boxes, labels, crowd: (M, 4), (M,) and (M,) of all images one after another, as in Sample.
        ends: (N + 1,) int64, 0 and where the objects of each image end.
        tiles: (N, 6) int64, the numbers of each Tile; None where every sample is a whole image.
    """

    files: bytes
    file_ends: np.ndarray
    image_ids: np.ndarray
    sizes: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    ends: np.ndarray
    tiles: np.ndarray | None = None

    @staticmethod
    def of_columns(
        paths: Iterable[Path],
        image_ids: Sequence[int],
        sizes: np.ndarray,
        objects: tuple[np.ndarray, np.ndarray, np.ndarray],
        counts: np.ndarray | Sequence[int],
        tiles: np.ndarray | None = None,
    ) -> Samples:
        """Samples from what they have in common.

        Args:
            image_ids: N numbers; sizes: (N, 2) height and width.
            objects: boxes (M, 4), labels (M,) and crowd (M,), those of an image beside each other.
            counts: (N,) objects of each image.
            tiles: (N, 6), as in Samples.
        """
        names = [os.fsencode(path) for path in paths]
        boxes, labels, crowd = objects
        return Samples(
            b"".join(names),
            _ends(list(map(len, names))),
            np.array(image_ids, np.int64),
            np.asarray(sizes, np.int64).reshape(-1, 2),
            np.ascontiguousarray(boxes, np.float64).reshape(-1, 4),
            np.ascontiguousarray(labels, np.int64),
            np.ascontiguousarray(crowd, bool),
            _ends(counts),
            None if tiles is None else np.asarray(tiles, np.int64).reshape(-1, 6),
        )

    @staticmethod
    def of(samples: Iterable[Sample]) -> Samples:
        """The same samples in arrays."""
        if isinstance(samples, Samples):
            return samples
        samples = list(samples)
        objects = (
            np.concatenate([np.zeros((0, 4)), *(sample.boxes for sample in samples)]),
            np.concatenate([np.zeros(0, np.int64), *(sample.labels for sample in samples)]),
            np.concatenate([np.zeros(0, bool), *(sample.crowd for sample in samples)]),
        )
        tiles = [sample.tile for sample in samples if sample.tile is not None]
        if len(tiles) not in (0, len(samples)):
            raise ValueError("samples: expected whole images alone or tiles alone, found both")
        return Samples.of_columns(
            (sample.path for sample in samples),
            [sample.image_id for sample in samples],
            np.array([(sample.height, sample.width) for sample in samples], np.int64),
            objects,
            [len(sample.boxes) for sample in samples],
            np.array(tiles, np.int64) if tiles else None,
        )

    def __len__(self) -> int:
        return len(self.image_ids)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Samples: ...
    def __getitem__(self, index: int | slice) -> Sample | Samples:
        """The sample at a position, or those of a slice."""
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        index = range(len(self))[index]  # counts from the end, and raises IndexError
        start, end = self.ends[index : index + 2].tolist()
        height, width = self.sizes[index].tolist()
        objects = self.boxes[start:end], self.labels[start:end], self.crowd[start:end]
        tile = None if self.tiles is None else Tile(*self.tiles[index].tolist())
        return Sample(self.path(index), int(self.image_ids[index]), height, width, *objects, tile)

    def take(self, positions: np.ndarray) -> Samples:
        """The samples at these positions (K,) int64, in their order."""
        counts = np.diff(self.ends)[positions]
        first = self.ends[:-1][positions] - np.cumsum(counts) + counts
        rows = np.repeat(first, counts) + np.arange(counts.sum())
        objects = self.boxes[rows], self.labels[rows], self.crowd[rows]
        paths = (self.path(position) for position in positions.tolist())
        tiles = None if self.tiles is None else self.tiles[positions]
        ids, sizes = self.image_ids[positions].tolist(), self.sizes[positions]
        return Samples.of_columns(paths, ids, sizes, objects, counts, tiles)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def path(self, index: int) -> Path:
        """The image file at a position from 0."""
        start, end = self.file_ends[index : index + 2].tolist()
        return Path(os.fsdecode(self.files[start:end]))

    def paths(self) -> list[Path]:
        """The image files in their order."""
        return [self.path(index) for index in range(len(self))]

    def image_index(self) -> np.ndarray:
        """(M,) int64: of each object the position of its image."""
        return np.repeat(np.arange(len(self)), np.diff(self.ends))


def _ends(counts: np.ndarray | Sequence[int]) -> np.ndarray:
    return np.fromiter(itertools.accumulate(counts, initial=0), np.int64)
