"""COCO files made one: image entries and annotations of several, which are read from there while they are written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.formats.coco_compact import column, entries_at
from utils.structures import LabelledImages

CHUNK = 1000
"""Images whose annotations are looked up at once."""


@dataclass(frozen=True, eq=False)
class Merged:
    """The images of several splits one after another, with their annotations.

    Parts of several files get new image and annotation ids where theirs clash, and the first one's category ids.

    Args:
        parts: each with its ground truth; the samples are those that are wanted of it.
        entries: image entries, in the order of all samples.
        rows: of each part, where the annotations of its images are in its ground truth, one image after another.
        ends: (N + 1,) int64, 0 and where the annotations of each image end, in `rows` of all parts.
        renumbered: whether images and annotations are numbered 1, 2, ... instead.
    """

    parts: Sequence[LabelledImages]
    entries: list[dict[str, Any]]
    rows: list[np.ndarray]
    ends: np.ndarray
    renumbered: bool

    @staticmethod
    def of(parts: Sequence[LabelledImages]) -> Merged:
        """The images of parts with one set of classes."""
        entries: list[dict[str, Any]] = []
        rows, counts, numbers = [], [], []
        for data in parts:
            known = {entry["id"]: entry for entry in data.ground_truth["images"]}
            wanted = data.samples.image_ids
            entries += [known[number] for number in wanted.tolist()]
            listed = data.ground_truth["annotations"]
            owners = np.array(column(listed, "image_id"), np.int64)
            order = np.argsort(owners, kind="stable")
            first, last = (np.searchsorted(owners, wanted, side, sorter=order) for side in ("left", "right"))
            counts.append(last - first)
            rows.append(order[_ranges(first, last)])
            numbers.append(np.array(column(listed, "id"), np.int64)[rows[-1]])
        ends = np.concatenate(([0], np.cumsum(np.concatenate(counts))))
        images = np.concatenate([data.samples.image_ids for data in parts])
        clash = any(len(np.unique(each)) < len(each) for each in (images, np.concatenate(numbers)))
        return Merged(parts, entries, rows, ends, clash)

    @property
    def common(self) -> dict[str, Any]:
        """The rest of the first file."""
        truth = self.parts[0].ground_truth
        return {key: value for key, value in truth.items() if key not in ("images", "annotations")}

    def images(self, positions: np.ndarray, names: Iterable[str]) -> Iterator[dict[str, Any]]:
        """The entries of the images at these positions, with these file names."""
        for index, name in zip(positions.tolist(), names, strict=True):
            number = {"id": index + 1} if self.renumbered else {}
            yield {**self.entries[index], **number, "file_name": name}

    def annotations(self, positions: np.ndarray) -> Iterator[dict[str, Any]]:
        """The annotations of the images at these positions (K,), ascending, image by image."""
        for start in range(0, len(positions), CHUNK):
            yield from self._annotations(positions[start : start + CHUNK])

    def _annotations(self, positions: np.ndarray) -> Iterator[dict[str, Any]]:
        chosen = _ranges(self.ends[positions], self.ends[positions + 1])
        owners = np.repeat(positions, self.ends[positions + 1] - self.ends[positions])
        start = 0
        for data, rows in zip(self.parts, self.rows, strict=True):
            own = (chosen >= start) & (chosen < start + len(rows))
            new_id = dict(zip(data.category_ids, self.parts[0].category_ids, strict=True))
            listed = entries_at(data.ground_truth["annotations"], rows[chosen[own] - start].tolist())
            for entry, number, image in zip(listed, chosen[own].tolist(), owners[own].tolist(), strict=True):
                if new_id[entry["category_id"]] != entry["category_id"]:
                    entry = {**entry, "category_id": new_id[entry["category_id"]]}
                yield {**entry, "id": number + 1, "image_id": image + 1} if self.renumbered else entry
            start += len(rows)


def _ranges(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """The whole numbers from each first one up to its last one, one range after another.

    >>> _ranges(np.array([3, 7, 0]), np.array([5, 7, 1])).tolist()
    [3, 4, 0]
    """
    counts = last - first
    return np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
