"""Splits cut into tiles: what is trained on, and what is looked at one by one in an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from utils.samples import Samples
from utils.structures import LabelledImages
from utils.tiles import Grid, Tiling

EMPTY_STREAM = 7
"""Beside the seed, of the generator that chooses among the tiles without an object."""


@dataclass(frozen=True)
class TileCounts:
    """What became of a split that was cut into tiles.

    Args:
        pictures: that were cut; tiling: how.
        filled: tiles that show an object; empty: those that show none, before some were chosen.
        kept: tiles in all that are left.
        ignored: parts of objects that are to be ignored in the tiles that are left, for too little of them is there.
        lost: objects of which no tile shows enough.
    """

    tiling: Tiling
    pictures: int
    filled: int
    empty: int
    kept: int
    ignored: int
    lost: int

    def __str__(self) -> str:
        kept = f"{self.kept - self.filled} of {self.empty} without" if self.empty else "none without"
        cut = f"; {self.ignored} cut objects are ignored" if self.ignored else ""
        return f"{self.kept} tiles of {self.pictures} images ({self.filled} with an object, {kept}{cut})"

    @property
    def warning(self) -> str:
        """What is wrong where objects are in no tile; empty where none is."""
        of = f"tiling: of {self.lost} objects no tile of {self.tiling.size} pixels shows {self.tiling.visible:.0%}"
        return f"{of}: they are ignored everywhere, and not learned" if self.lost else ""


def training_tiles(images: LabelledImages, *, seed: int) -> tuple[LabelledImages, TileCounts | None]:
    """A split cut into the tiles that are trained on, and their counts; as it is where its data YAML has no `tiling`.

    A tile shows an object if a share of `tiling.visible` of its area lies in the tile; its box is cut to the tile. What
    lies there of other objects becomes a crowd region. Crowd regions stay such in each tile.
    """
    if images.tiling is None:
        return images, None
    tiling, samples = images.tiling, images.samples
    parts = [_labelled(samples, index, tiling) for index in range(len(samples))]
    filled, ignored = (np.concatenate([getattr(part, name) for part in parts]) for name in ("filled", "ignored"))
    keep = filled | (np.random.default_rng((seed, EMPTY_STREAM)).random(len(filled)) < tiling.empty)
    first = np.cumsum([0, *(len(part.tiles) for part in parts[:-1])]).tolist()
    place = np.concatenate([part.place + start for part, start in zip(parts, first, strict=True)])
    shown = keep[place]
    boxes, labels, crowd = (
        np.concatenate([getattr(part, name) for part in parts])[shown] for name in ("boxes", "labels", "crowd")
    )
    tiles = [part.tiles for part in parts]
    counts = np.bincount(place, minlength=len(filled))[keep]
    cut = _cut(samples, tiles, keep=keep, objects=(boxes, labels, crowd), counts=counts)
    counted = TileCounts(
        tiling,
        pictures=len(samples),
        filled=int(filled.sum()),
        empty=int((~filled).sum()),
        kept=len(cut),
        ignored=int(ignored[shown].sum()),
        lost=sum(part.lost for part in parts),
    )
    return replace(images, samples=cut), counted


def tile_counts(images: LabelledImages) -> TileCounts | None:
    """The counts of all tiles of a split; which of those without an object are trained on depends on a run's seed."""
    if images.tiling is None:
        return None
    return training_tiles(replace(images, tiling=replace(images.tiling, empty=1.0)), seed=0)[1]


def evaluation_tiles(images: LabelledImages, grid: Grid) -> LabelledImages:
    """All tiles of a split without labels, those of an image beside each other: what a detector looks at."""
    tiles = [np.array(grid.tiles(*size), np.int64) for size in images.samples.sizes.tolist()]
    keep = np.ones(sum(map(len, tiles)), bool)
    nothing = np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool)
    cut = _cut(images.samples, tiles, keep=keep, objects=nothing, counts=np.zeros(len(keep), np.int64))
    return replace(images, samples=cut)


def _cut(
    samples: Samples,
    tiles: Sequence[np.ndarray],
    *,
    keep: np.ndarray,
    objects: tuple[np.ndarray, np.ndarray, np.ndarray],
    counts: np.ndarray,
) -> Samples:
    """The tiles of samples that are to be kept.

    Args:
        tiles: (T, 6) of each sample; keep: (sum of T,) bool.
        objects, counts: as in `Samples.of_columns`.
    """
    owners = np.repeat(np.arange(len(samples)), [len(of_image) for of_image in tiles])[keep]
    chosen = np.concatenate([np.zeros((0, 6), np.int64), *tiles])[keep]
    sizes = np.stack((chosen[:, 3] - chosen[:, 1], chosen[:, 2] - chosen[:, 0]), axis=1)
    paths = (samples.path(index) for index in owners.tolist())
    return Samples.of_columns(paths, samples.image_ids[owners].tolist(), sizes, objects, counts, chosen)


@dataclass(frozen=True, eq=False)
class _Part:
    """The tiles of one image, and what they show, tile by tile.

    Args:
        tiles: (T, 6) as in Samples; filled: (T,) bool, those that show an object.
        place: (M,) int64, the tile of each row; boxes, labels, crowd: of each row, in pixels of its tile.
        ignored: (M,) bool, objects that became regions; lost: objects that are in no tile.
    """

    tiles: np.ndarray
    filled: np.ndarray
    place: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    ignored: np.ndarray
    lost: int


def _labelled(samples: Samples, index: int, tiling: Tiling) -> _Part:
    sample = samples[index]
    tiles = np.array(tiling.grid.tiles(sample.height, sample.width), np.int64)
    low, high = tiles[:, None, :2], tiles[:, None, 2:4]
    boxes = np.concatenate(
        (np.clip(sample.boxes[None, :, :2], low, high), np.clip(sample.boxes[None, :, 2:], low, high)), axis=2
    )
    sides, whole = boxes[..., 2:] - boxes[..., :2], sample.boxes[:, 2:] - sample.boxes[:, :2]
    there = (sides > 0).all(axis=2)
    enough = there & (sides.prod(axis=2) >= tiling.visible * whole.prod(axis=1)) & ~sample.crowd
    place, rows = np.nonzero(there)
    objects = enough[place, rows]
    return _Part(
        tiles,
        filled=enough.any(axis=1),
        place=place,
        boxes=boxes[place, rows] - tiles[place][:, [0, 1, 0, 1]],
        labels=sample.labels[rows],
        crowd=~objects,
        ignored=~objects & ~sample.crowd[rows],
        lost=int((~enough.any(axis=0) & ~sample.crowd & there.any(axis=0)).sum()),
    )
