"""Tiles: overlapping parts of a picture that are looked at one by one."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

SMALLEST = 32
"""Least side of a tile in pixels: the stride of most models."""

OVERLAP = 0.2
"""Of tiles, where nothing else is said."""

MOST_OVERLAP = 0.9
"""Largest share of a tile that its neighbour may have too: a picture has 100 times its own pixels in tiles then."""


class Tile(NamedTuple):
    """A part of a picture: its edges, and the size of the whole picture, in pixels of the picture.

    >>> tile = Tile(100, 0, 164, 64, picture_height=200, picture_width=300)
    >>> tile.width, tile.height
    (64, 64)
    >>> tile.inner_edges  # left, top, right, bottom: whether the picture goes on behind it
    (True, False, True, True)
    """

    left: int
    top: int
    right: int
    bottom: int
    picture_height: int
    picture_width: int

    @property
    def width(self) -> int:
        """Pixels from left to right."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Pixels from top to bottom."""
        return self.bottom - self.top

    @property
    def inner_edges(self) -> tuple[bool, bool, bool, bool]:
        """Left, top, right and bottom: whether the picture goes on behind that edge."""
        return self.left > 0, self.top > 0, self.right < self.picture_width, self.bottom < self.picture_height

    def cut(self, picture: np.ndarray) -> np.ndarray:
        """The pixels of the tile, a view of the picture (H, W, ...)."""
        return picture[self.top : self.bottom, self.left : self.right]


@dataclass(frozen=True)
class Grid:
    """How pictures are cut into tiles.

    Args:
        size: (height, width) of a tile in pixels of the picture. A picture that is smaller along an axis is not cut
            along it.
        overlap: least share of a tile's side that neighbours have in common.

    >>> [tile[:4] for tile in Grid((64, 64), 0.25).tiles(64, 100)]
    [(0, 0, 64, 64), (36, 0, 100, 64)]
    """

    size: tuple[int, int]
    overlap: float = OVERLAP

    def __post_init__(self) -> None:
        _require(min(self.size) >= SMALLEST, "size", f"at least {SMALLEST} pixels", list(self.size))
        _require(0 <= self.overlap <= MOST_OVERLAP, "overlap", f"a share from 0 to {MOST_OVERLAP:g}", self.overlap)

    def __str__(self) -> str:
        return f"tiles {self.size[0]}x{self.size[1]}, overlap {self.overlap:g}"

    def tiles(self, height: int, width: int) -> tuple[Tile, ...]:
        """The tiles of a picture, row by row. All have one size, and together they cover it."""
        return _tiles(self, height, width)


def _require(condition: bool, name: str, expected: str, value: object) -> None:
    """Refuse a value; as `utils.schema.require`, whose packages are not imported for detection."""
    if not condition:
        raise ValueError(f"{name}: expected {expected}, found {value}")


@functools.lru_cache(maxsize=1024)
def _tiles(grid: Grid, height: int, width: int) -> tuple[Tile, ...]:
    rows, columns = (_spans(*pair, grid.overlap) for pair in zip((height, width), grid.size, strict=True))
    return tuple(
        Tile(left, top, right, bottom, height, width)
        for (top, bottom), (left, right) in itertools.product(rows, columns)
    )


def _spans(length: int, side: int, overlap: float) -> list[tuple[int, int]]:
    """Begin and end of each tile along an axis of `length` pixels: as few as cover it, evenly spread."""
    if length <= side:
        return [(0, length)]
    step = max(side - math.ceil(side * overlap - 1e-9), 1)
    count = math.ceil((length - side) / step) + 1
    starts = (round(number * (length - side) / (count - 1)) for number in range(count))
    return [(start, start + side) for start in starts]


@dataclass(frozen=True)
class Tiling:
    """The key `tiling` of a data YAML: pictures are trained on and evaluated in tiles.

    Args:
        size: side of a tile in pixels of the picture.
        overlap: as of Grid.
        empty: share of the training tiles without an object that are kept; which ones is drawn with the run's seed.
        visible: least share of an object's area that a training tile must show. Of what shows less, the part in the
            tile is a region to ignore there, as a crowd region is.
    """

    size: int
    overlap: float = OVERLAP
    empty: float = 0.1
    visible: float = 0.5

    def __post_init__(self) -> None:
        _require(self.size >= SMALLEST, "size", f"at least {SMALLEST} pixels", self.size)
        _require(0 <= self.overlap <= MOST_OVERLAP, "overlap", f"a share from 0 to {MOST_OVERLAP:g}", self.overlap)
        _require(0 <= self.empty <= 1, "empty", "a share from 0 to 1", self.empty)
        _require(0 < self.visible <= 1, "visible", "a share above 0, up to 1", self.visible)

    @property
    def grid(self) -> Grid:
        """Its tiles."""
        return Grid((self.size, self.size), self.overlap)
