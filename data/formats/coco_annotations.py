"""The annotations of a COCO JSON file: the usable ones, as rows and in the form that pycocotools needs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

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
        listed: list[Any],
        image_number: Mapping[int | str, int],
        category_ids: Sequence[int],
        lines: Lines,
        problems: Problems,
    ) -> None:
        self.listed, self.lines, self.problems = listed, lines, problems
        self.category_ids = category_ids
        entries = [entry if isinstance(entry, dict) else {} for entry in listed]
        self.boxes = _boxes(entries)
        self.images = _look_up(image_number, [entry.get("image_id") for entry in entries])
        label_of = {number: label for label, number in enumerate(category_ids)}
        self.labels = _look_up(label_of, [entry.get("category_id") for entry in entries])
        self.crowd = _look_up({None: 0, 0: 0, 1: 1}, [entry.get("iscrowd") for entry in entries])
        self.mended: set[int] = set()
        """Annotations whose box is not that of the file."""
        self._mend_boxes(entries)
        self._unusable = wrong = self._mistakes()
        for index, mistake in wrong.items():
            known = self.images[index] is not None
            problems.lost(lines.where("annotations", index, listed[index]), mistake, image_known=known)
        zero = "pycocotools takes a match with id 0 for none and counts it as wrong; number from 1"
        for index, entry in enumerate(entries):
            if entry.get("id") == 0 and index not in wrong:
                problems.add(lines.where("annotations", index, entry), zero, KEPT)
        self.good = [index for index in range(len(listed)) if index not in wrong]
        self.lost = [self.images[index] for index in wrong]
        """The images of the unusable ones, as far as they are known."""

    def rows(self, position: Mapping[int, int]) -> Rows:
        """The usable objects of the images in `position` (image id -> index of the image)."""
        used, image_index = [], []
        for index in self.good:
            image = self.images[index]
            if image is not None and image in position:
                used.append(index)
                image_index.append(position[image])
        return Rows(
            np.array(image_index, np.int64),
            np.array([self.labels[index] for index in used], np.int64),
            xywh_to_xyxy(self.boxes[np.array(used, np.int64)]),
            np.array([self.crowd[index] for index in used], bool),
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

    def complete(self, *, renumbered: bool) -> list[dict[str, Any]]:
        """The usable annotations with all that pycocotools needs; `listed` itself if it is complete already."""
        unchanged = not renumbered and not self.mended and len(self.good) == len(self.listed)
        if unchanged and _is_complete(self.listed):
            return self.listed
        result: list[dict[str, Any]] = []
        taken: set[int] = set()
        no_area = 0
        for index in self.good:
            entry = self.listed[index]
            number, area = as_id(entry.get("id")), entry.get("area")
            if not isinstance(number, int) or number in taken:
                if number is not None:
                    reason = "its id is taken" if number in taken else "its id is no whole number"
                    self.problems.add(self.lines.where("annotations", index, entry), reason, KEPT_ANEW)
                number = None
            else:
                taken.add(number)
            if not math.isfinite(as_float(area)):
                area, no_area = float(self.boxes[index, 2] * self.boxes[index, 3]), no_area + 1
            label = self.labels[index]
            assert label is not None  # else the entry would not be among the good ones
            ids = {"id": number, "image_id": self.images[index], "category_id": self.category_ids[label]}
            box = {"bbox": self.boxes[index].tolist()} if index in self.mended else {}
            result.append({**entry, **ids, **box, "area": area, "iscrowd": self.crowd[index]})
        free = max(taken, default=0) + 1
        for entry in result:
            if entry["id"] is None:
                entry["id"], free = free, free + 1
        if no_area:
            self.problems.add(self.lines.file, f"{no_area} annotations have no area", COMPLETED)
        return result

    def _mend_boxes(self, entries: list[dict[str, Any]]) -> None:
        """Boxes from outlines and from what else is unambiguous, reported."""
        with np.errstate(invalid="ignore"):
            negative = np.isfinite(self.boxes).all(axis=1) & (self.boxes[:, 2:] < 0).any(axis=1)
            unusable = ~(np.isfinite(self.boxes).all(axis=1) & (self.boxes[:, 2:] != 0).all(axis=1))
        without: list[int] = []
        for index in np.flatnonzero(negative | unusable).tolist():
            entry, bbox = entries[index], entries[index].get("bbox")
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
            first = self.lines.where("annotations", without[0], entries[without[0]])
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


def _is_complete(listed: list[dict[str, Any]]) -> bool:
    """Whether pycocotools can read every annotation: whole and different ids, an area, iscrowd."""
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


def _boxes(entries: list[dict[str, Any]]) -> np.ndarray:
    """(M, 4) float64, the `bbox` of each entry; NaN if it is not a list of four numbers."""
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
