"""The annotations of a COCO JSON file: the usable ones, as rows and in the form that pycocotools needs."""

from __future__ import annotations

import itertools
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from data.formats.coco_compact import CompactAnnotations, StoredEntries, column, entries_at
from data.formats.json_file import ID_LIMIT, Lines, as_float, as_id
from data.formats.masks import outline_box
from data.formats.rows import COMPLETED, KEPT, OUTLINES, REPAIRED, Problems, Rows
from utils.boxes import xywh_to_xyxy
from utils.text import shown_json

KEPT_ANEW = "kept under a new id"


class Annotations:
    """The list `annotations` of a file, column by column; unusable entries are reported at once.

    A box of negative width or height is turned round; an outline gives the box of an annotation without a usable one.

    Args:
        listed: the list as it is in the file.
        image_number: image id as written -> the whole number that stands for it.
        category_ids: ids of the classes in the order of their indices.
    """

    def __init__(
        self,
        listed: Sequence[Any],
        image_number: Mapping[int | str, int],
        category_ids: Sequence[int],
        lines: Lines,
        problems: Problems,
    ) -> None:
        self.listed, self.lines, self.problems = listed, lines, problems
        self.category_ids = category_ids
        self.boxes = listed.boxes() if isinstance(listed, CompactAnnotations) else _boxes(listed)
        self.images = _look_up(image_number, column(listed, "image_id"))
        label_of = {number: label for label, number in enumerate(category_ids)}
        self.labels = _look_up(label_of, column(listed, "category_id"))
        self.crowd = _look_up({None: 0, 0: 0, 1: 1}, column(listed, "iscrowd"))
        self.mended: set[int] = set()
        """Annotations whose box is not that of the file."""
        self._mend_boxes()
        self._unusable = wrong = self._mistakes()
        for index, mistake in wrong.items():
            known = self.images[index] is not None
            problems.lost(lines.where("annotations", index, listed[index]), mistake, image_known=known)
        zero = "pycocotools takes a match with id 0 for none and counts it as wrong; number from 1"
        for index, number in enumerate(column(listed, "id")):
            if number == 0 and index not in wrong:
                problems.add(lines.where("annotations", index, listed[index]), zero, KEPT)
        good = range(len(listed))
        self.good: Sequence[int] = [index for index in good if index not in wrong] if wrong else good
        self.lost = [self.images[index] for index in wrong]
        """The images of the unusable ones, as far as they are known."""

    def rows(self, position: Mapping[Any, int]) -> Rows:
        """The usable objects of the images in `position` (image id -> index of the image)."""
        used = array("q", (index for index in self.good if self.images[index] in position))
        return Rows(
            np.fromiter((position[self.images[index]] for index in used), np.int64, len(used)),
            np.fromiter((self.labels[index] for index in used), np.int64, len(used)),
            xywh_to_xyxy(self.boxes if len(used) == len(self.boxes) else self.boxes[np.array(used, np.int64)]),
            np.fromiter((self.crowd[index] for index in used), bool, len(used)),
            lambda row: self.lines.where("annotations", used[row], self.listed[used[row]]),
            frozenset(position[image] for image in self.lost if image is not None and image in position),
        )

    def contents(self, numbers: Sequence[int]) -> dict[int, Counter[tuple[object, ...]]]:
        """The annotations of each of these images, to compare them; an unusable one is like no other."""
        contents: dict[int, Counter[tuple[object, ...]]] = {number: Counter() for number in numbers}
        for index, image in enumerate(self.images if contents else ()):
            if image in contents:
                row = (self.labels[index], self.crowd[index], *self.boxes[index].tolist())
                contents[image][(index,) if index in self._unusable else row] += 1
        return contents

    def complete(self, *, renumbered: bool) -> Sequence[dict[str, Any]]:
        """The usable annotations with all that pycocotools needs; `listed` itself if it is complete already."""
        unchanged = not renumbered and not self.mended and len(self.good) == len(self.listed)
        if unchanged and _is_complete(self.listed):
            return self.listed
        numbers, missing = array("q"), array("q")
        """The ids, and the positions among them of those that are missing."""
        areas = array("d")
        taken: set[int] = set()
        for index in self.good:
            entry = self.listed[index]
            number, area = as_id(entry.get("id")), entry.get("area")
            if not isinstance(number, int) or number in taken:
                if number is not None:
                    reason = "its id is taken" if number in taken else "its id is no whole number"
                    self.problems.add(self.lines.where("annotations", index, entry), reason, KEPT_ANEW)
                missing.append(len(numbers))
                number = 0
            else:
                taken.add(number)
            numbers.append(number)
            own = math.isfinite(as_float(area))
            areas.append(math.nan if own else float(self.boxes[index, 2] * self.boxes[index, 3]))
        for free, place in enumerate(missing, start=max(taken, default=0) + 1):
            numbers[place] = free
        if no_area := sum(not math.isnan(area) for area in areas):
            self.problems.add(self.lines.file, f"{no_area} annotations have no area", COMPLETED)
        return CompletedAnnotations(self, numbers, areas)

    def _mend_boxes(self) -> None:
        """Boxes from outlines and from what else is unambiguous, reported."""
        with np.errstate(invalid="ignore"):
            negative = np.isfinite(self.boxes).all(axis=1) & (self.boxes[:, 2:] < 0).any(axis=1)
            unusable = ~(np.isfinite(self.boxes).all(axis=1) & (self.boxes[:, 2:] != 0).all(axis=1))
        without: list[int] = []
        for index in np.flatnonzero(negative | unusable).tolist():
            entry = self.listed[index] if isinstance(self.listed[index], dict) else {}
            bbox = entry.get("bbox")
            where = self.lines.where("annotations", index, entry)
            outline = outline_box(entry.get("segmentation")) if unusable[index] else None
            if outline is not None:
                self.boxes[index] = outline
                if bbox in (None, []):
                    without.append(index)
                else:
                    self.problems.add(where, f"bbox is {shown_json(bbox)}, the box of its outline is taken", REPAIRED)
            elif negative[index]:
                x, y, width, height = self.boxes[index].tolist()
                self.boxes[index] = [min(x, x + width), min(y, y + height), abs(width), abs(height)]
                self.problems.add(where, f"bbox is {shown_json(bbox)}, of negative size, and is turned round", REPAIRED)
            else:
                continue
            self.mended.add(index)
        if without:
            first = self.lines.where("annotations", without[0], self.listed[without[0]])
            self.problems.add(
                first, f"{len(without)} annotations (this is the first) have an outline and no bbox", OUTLINES
            )

    def _mistakes(self) -> dict[int, str]:
        """Position -> what is wrong, for unusable annotations."""
        finite = np.isfinite(self.boxes).all(axis=1)
        columns = (self.images, self.labels, self.crowd)
        if finite.all() and not any(None in column for column in columns):
            return {}
        mistakes = {}
        for index, (image, label, crowd, has_box) in enumerate(zip(*columns, finite.tolist(), strict=True)):
            if has_box and image is not None and label is not None and crowd is not None:
                continue
            entry = self.listed[index]
            if not isinstance(entry, dict):
                mistakes[index] = f"expected an object, found {shown_json(entry)}"
            elif image is None:
                mistakes[index] = f"image_id {shown_json(entry.get('image_id'))} is not among the images"
            elif label is None:
                mistakes[index] = f"category_id {shown_json(entry.get('category_id'))} is not among the categories"
            elif crowd is None:
                mistakes[index] = f"iscrowd is {shown_json(entry.get('iscrowd'))}, expected 0 or 1"
            elif not has_box:
                bbox = shown_json(entry.get("bbox"))
                mistakes[index] = f"bbox is {bbox}, expected [x, y, width, height], finite numbers"
        return mistakes


@dataclass(frozen=True, eq=False)
class CompletedAnnotations(StoredEntries):
    """The usable annotations of a file with all that pycocotools needs, each made when it is asked for.

    Args:
        numbers: the id of each.
        areas: the area of each that has none in the file; NaN for the others.
    """

    source: Annotations
    numbers: array[int]
    areas: array[float]

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        """The annotation at a position, or those of a slice."""
        if isinstance(index, slice):
            return list(self.entries_at(range(len(self))[index]))
        return next(self.entries_at([range(len(self))[index]]))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self.entries_at(range(len(self)))

    def entries_at(self, positions: Iterable[int]) -> Iterator[dict[str, Any]]:
        """The annotations at these positions."""
        source, ahead = self.source, itertools.tee(positions)
        for position, entry in zip(
            ahead[0], entries_at(source.listed, (source.good[each] for each in ahead[1])), strict=True
        ):
            index = source.good[position]
            label = source.labels[index]
            assert label is not None  # else the entry would not be among the good ones
            ids = {"id": self.numbers[position], "image_id": source.images[index]}
            box = {"bbox": source.boxes[index].tolist()} if index in source.mended else {}
            ids["category_id"] = source.category_ids[label]
            area = entry["area"] if math.isnan(self.areas[position]) else self.areas[position]
            yield {**entry, **ids, **box, "area": area, "iscrowd": source.crowd[index]}

    def column(self, key: str) -> list[Any]:
        """The value of `id` or `image_id` in each annotation."""
        return self.numbers.tolist() if key == "id" else [self.source.images[index] for index in self.source.good]


def _is_complete(listed: Sequence[dict[str, Any]]) -> bool:
    """Whether pycocotools can read every annotation: whole and different ids, an area, iscrowd."""
    if isinstance(listed, CompactAnnotations):
        return listed.is_complete()
    try:
        columns = [[entry[key] for entry in listed] for key in ("id", "image_id", "category_id", "iscrowd")]
        areas = np.array([entry["area"] for entry in listed])
    except (KeyError, ValueError):
        return False
    whole = all(set(map(type, column)) <= {int} for column in columns)
    whole = whole and all(abs(number) < ID_LIMIT for number in columns[0])
    return whole and areas.dtype.kind in "if" and bool(np.isfinite(areas).all()) and len(set(columns[0])) == len(listed)


def _look_up(table: Mapping[Any, int], values: Iterable[Any]) -> list[int | None]:
    """`table[value]` of each value, also where an id is written as text or 12.0; None where there is no such key."""
    numbers = []
    for value in values:
        try:
            number = table.get(value)
        except TypeError:  # a list or an object
            number = None
        numbers.append(table.get(as_id(value)) if number is None and value is not None else number)
    return numbers


def _boxes(listed: Sequence[Any]) -> np.ndarray:
    """(M, 4) float64, the `bbox` of each entry; NaN if it is not a list of four numbers."""
    entries = [entry if isinstance(entry, dict) else {} for entry in listed]
    try:
        boxes = np.array([entry["bbox"] for entry in entries])
        if boxes.dtype.kind in "if" and boxes.shape == (len(entries), 4):
            return boxes.astype(np.float64)
    except (KeyError, ValueError):
        pass  # one entry at a time, then
    boxes = np.full((len(entries), 4), np.nan)
    for index, entry in enumerate(entries):
        box = entry.get("bbox")
        if isinstance(box, list) and len(box) == 4:
            boxes[index] = [as_float(value) for value in box]
    return boxes
