"""Detections in the tiles of a picture, merged into those of the picture, for val.py, detect.py and trainings alike."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from utils.config import ConfigError
from utils.structures import Detections
from utils.tiles import OVERLAP, Grid, Tile

COVERED = 0.5
"""Share of a cut box that a box of another tile must cover for the two to be one object."""

EDGE = 0.01
"""A box is cut if it is nearer to an edge where the picture goes on than this share of the tile's side."""


def grid_of(
    tile: int | None, overlap: float | None, *, image_size: tuple[int, int], classify: bool = False
) -> Grid | None:
    """The tiles that --tile and --overlap ask for; None without --tile.

    Args:
        tile: side in pixels of the picture, 0 for those of the network input.
        overlap: as of Grid; None is 0.2.
        image_size: (height, width) of the network input.
        classify: whether the model is a classifier.
    Raises:
        ConfigError: a value that cannot be.
    """
    if tile is None:
        if overlap is not None:
            raise ConfigError("--overlap: is for tiles; ask for them with --tile, or leave it out")
        return None
    if classify:
        raise ConfigError("--tile: is for a detector, and the model is not one; leave it out")
    try:
        return Grid((tile, tile) if tile else image_size, OVERLAP if overlap is None else overlap)
    except ValueError as error:
        raise ConfigError(f"--tile: {error}" if str(error).startswith("size") else f"--{error}") from None


def merge_tiles(tiles: Sequence[Tile], found: Sequence[Detections], *, iou_thres: float, max_det: int) -> Detections:
    """The detections of a picture from those of its tiles, best score first.

    Within each tile they have been through the suppression of the model already. Here a box falls by a better one of
    its class in another tile, if their IoU is above `iou_thres`, or if an edge of its tile cuts it off and more than
    half of it is in the other. With one tile nothing changes.

    Args:
        tiles: of one picture; found: in each of them, boxes in pixels of the tile.
        iou_thres: as in `postprocess`.
        max_det: detections kept in the picture.
    Returns:
        Boxes in pixels of the picture.
    """
    if len(tiles) == 1:
        return found[0]
    shifts = np.array([(tile.left, tile.top) * 2 for tile in tiles], np.float64)
    owners = np.repeat(np.arange(len(tiles)), [len(each) for each in found])
    moved = np.concatenate([each.boxes for each in found]) + shifts[owners]
    scores, labels = (np.concatenate([getattr(each, name) for each in found]) for name in ("scores", "labels"))
    cut = np.concatenate([_is_cut(each.boxes, tile) for each, tile in zip(found, tiles, strict=True)])
    order = np.argsort(-scores, kind="stable")
    kept = order[_suppress(moved[order], labels[order], owners[order], cut[order], iou_thres, limit=max_det)]
    first = found[0]
    boxes = moved[kept].astype(np.float32)
    return Detections(boxes, scores[kept], labels[kept], first.class_names, first.category_ids)


def _is_cut(boxes: np.ndarray, tile: Tile) -> np.ndarray:
    """(N,) bool: which boxes, in pixels of a tile, end at one of its edges behind which the picture goes on."""
    sides = np.array([tile.width, tile.height] * 2, np.float32)
    beyond = np.concatenate((boxes[:, :2] <= EDGE * sides[:2], boxes[:, 2:] >= (1 - EDGE) * sides[2:]), axis=1)
    return (beyond & np.array(tile.inner_edges)).any(axis=1)


def _suppress(
    boxes: np.ndarray, labels: np.ndarray, owners: np.ndarray, cut: np.ndarray, iou_thres: float, *, limit: int
) -> np.ndarray:
    """Indices of the boxes that stand, ascending, at most `limit`; boxes of one tile never fall by each other.

    Args:
        boxes: (N, 4) xyxy pixels of the picture, best score first.
        labels, owners, cut: (N,) class, tile, and whether an edge of the tile cuts it off.
    """
    alive = np.ones(len(boxes), bool)
    areas = (boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(axis=1)
    kept: list[int] = []
    for index in range(len(boxes)):
        if not alive[index]:
            continue
        kept.append(index)
        if len(kept) == limit:
            break
        rest = slice(index + 1, None)
        inner = np.minimum(boxes[rest, 2:], boxes[index, 2:]) - np.maximum(boxes[rest, :2], boxes[index, :2])
        shared = inner.clip(min=0).prod(axis=1)
        union = areas[rest] + areas[index] - shared
        same = (shared > iou_thres * union) | (cut[rest] & (shared > COVERED * areas[rest]))
        alive[rest] &= ~(same & (labels[rest] == labels[index]) & (owners[rest] != owners[index]))
    return np.array(kept, np.int64)


@dataclass(eq=False)
class TileMerger:
    """Merges what comes tile by tile, those of an image one after another, into detections of whole images.

    Args:
        iou_thres, max_det: as in `merge_tiles`.
    """

    iou_thres: float
    max_det: int
    image_id: Hashable = None
    tiles: list[Tile] = field(default_factory=list)
    found: list[Detections] = field(default_factory=list)

    def add(
        self, image_ids: Sequence[Hashable], tiles: Sequence[Tile], found: Sequence[Detections]
    ) -> list[tuple[Hashable, Detections]]:
        """Take some tiles; returns the images that are complete by them."""
        done = []
        for image_id, tile, detections in zip(image_ids, tiles, found, strict=True):
            if self.tiles and image_id != self.image_id:
                done += self.finish()
            self.image_id = image_id
            self.tiles.append(tile)
            self.found.append(detections)
        return done

    def finish(self) -> list[tuple[Hashable, Detections]]:
        """The last image, if there is one."""
        if not self.tiles:
            return []
        merged = merge_tiles(self.tiles, self.found, iou_thres=self.iou_thres, max_det=self.max_det)
        self.tiles, self.found = [], []
        return [(self.image_id, merged)]
