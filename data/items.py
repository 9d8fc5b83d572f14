"""Item, one element of a batch, and collation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch

from data.transforms import Labelled
from utils.boxes import Letterbox
from utils.structures import Batch, Sample, Targets
from utils.tiles import Tile


class Item(NamedTuple):
    """One element of a batch before collation.

    Args:
        image: (3, H, W) uint8 RGB.
        boxes: (N, 4) float32 xyxy pixels of `image`; labels (N,) int64; crowd (N,) bool.
        image_id, path, letterbox: as in Batch; letterbox is None in training.
        weights: (N,) float32 or None, as in Targets.
        problem: files that could not be read and were replaced, one a line.
        notes: files that are used although something is wrong with them.
        tile: as in Sample.
    """

    image: torch.Tensor
    boxes: torch.Tensor
    labels: torch.Tensor
    crowd: torch.Tensor
    image_id: int
    path: str
    letterbox: Letterbox | None
    weights: torch.Tensor | None = None
    problem: str = ""
    notes: tuple[str, ...] = ()
    tile: Tile | None = None


def to_item(
    item: Labelled,
    sample: Sample,
    letterbox: Letterbox | None,
    problem: str,
    notes: tuple[str, ...],
    *,
    planes: np.ndarray | None = None,
) -> Item:
    """An element of a batch from an image with its labels.

    Args:
        sample: what it was made of.
        letterbox, problem, notes: as in Item.
        planes: (3, H, W) uint8, where its image is put; new memory if None.
    """
    if planes is None:
        planes = np.empty((3, *item.image.shape[:2]), np.uint8)
    cv2.split(item.image, list(planes))  # several times as fast as a transposed copy
    return Item(
        torch.from_numpy(planes),
        torch.from_numpy(np.ascontiguousarray(item.boxes, np.float32)),
        torch.from_numpy(item.labels),
        torch.from_numpy(item.crowd),
        sample.image_id,
        str(sample.path),
        letterbox,
        None if item.weights is None else torch.from_numpy(np.ascontiguousarray(item.weights, np.float32)),
        problem,
        notes,
        sample.tile,
    )


def collate(items: Sequence[Item], images: torch.Tensor | None = None) -> Batch:
    """Items of one size -> Batch, with (B, 3, H, W) uint8 images and the targets of all items in one list.

    Args:
        images: the images of the items, if they lie in one tensor already.
    """
    weights = [item.weights for item in items if item.weights is not None]
    counts = torch.tensor([len(item.boxes) for item in items])
    targets = Targets(
        boxes=torch.cat([item.boxes for item in items]),
        labels=torch.cat([item.labels for item in items]),
        image_index=torch.repeat_interleave(torch.arange(len(items)), counts),
        crowd=torch.cat([item.crowd for item in items]),
        weights=torch.cat(weights) if weights else None,
    )
    letterboxes = tuple(item.letterbox for item in items if item.letterbox is not None)
    return Batch(
        torch.stack([item.image for item in items]) if images is None else images,
        targets,
        tuple(item.image_id for item in items),
        tuple(item.path for item in items),
        letterboxes,
        tuple(item.problem for item in items) if any(item.problem for item in items) else (),
        tuple(dict.fromkeys(note for item in items for note in item.notes)),
        tuple(item.tile for item in items if item.tile is not None),
    )
