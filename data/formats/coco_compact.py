"""A COCO file's annotations in a few columns: a million dictionaries take a gigabyte, their numbers 70 MB."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from sys import intern
from typing import Any, overload

import numpy as np

from data.formats.json_file import ID_LIMIT, LARGEST, as_float, as_id
from data.formats.json_stream import LIST, entries
from utils.files import open_regular
from utils.text import from_json

LISTS = ("images", "annotations", "categories")
IMAGE_KEYS = ("id", "file_name", "height", "width")
"""What is read of an image."""

_TAKEN = object()
"""Stands for an annotation whose numbers are in the columns."""
_NUMBERS = (int, float)


class Columns:
    """The numbers of annotations, taken out of a file while it is parsed; those that are odd stay as they are."""

    def __init__(self) -> None:
        self.values = {"id": array("q"), "image_id": array("q"), "category_id": array("q"), "iscrowd": array("b")}
        self.areas, self.boxes = array("d"), array("d")

    def take(self, entry: dict[str, Any]) -> Any:
        """What stands for an object of the file: itself, unless it is an annotation with all that one needs."""
        box, area = entry.get("bbox"), entry.get("area", np.nan)
        if not isinstance(box, list) or len(box) != 4 or type(area) not in _NUMBERS:
            return entry
        ids = entry.get("id"), entry.get("image_id"), entry.get("category_id"), entry.get("iscrowd", 0)
        for number in ids:
            if type(number) is not int or not -ID_LIMIT < number < ID_LIMIT:
                return entry
        for value in box:
            if type(value) not in _NUMBERS or not -LARGEST < value < LARGEST:
                return entry
        if box[2] <= 0 or box[3] <= 0 or ids[3] not in (0, 1):  # an outline may give the box; or it has to be told
            return entry
        for column, number in zip(self.values.values(), ids, strict=True):
            column.append(number)  # type: ignore[arg-type]  # whole, as seen above
        self.areas.append(as_float(area))
        self.boxes.extend(box)
        return _TAKEN


@dataclass(frozen=True, eq=False)
class Places:
    """Where the annotations are in their file: the first byte of each, and the byte behind it."""

    file: Path
    starts: array[int]
    ends: array[int]

    def entries(self, positions: Iterable[int]) -> Iterator[Any]:
        """The annotations at these positions, read from the file."""
        with open_regular(self.file) as opened:
            for position in positions:
                start = self.starts[position]
                opened.seek(start)
                yield from_json(opened.read(self.ends[position] - start))


class StoredEntries(Sequence[Any]):
    """A list of a JSON file whose entries are made when they are asked for."""

    def entries_at(self, positions: Iterable[int]) -> Iterator[Any]:
        """The entries at these positions, with all that the file says of them."""
        raise NotImplementedError

    def column(self, key: str) -> list[Any]:
        """The value of a key in each entry."""
        raise NotImplementedError


class CompactAnnotations(StoredEntries):
    """The list `annotations`, whose usual entries are made from columns when they are asked for, without outlines.

    Args:
        places: where whole entries are read for `entries_at`; without, those of the columns are given.
    """

    def __init__(self, listed: list[Any], columns: Columns, places: Places | None = None) -> None:
        self._odd = {index: entry for index, entry in enumerate(listed) if entry is not _TAKEN}
        self._odd_at = sorted(self._odd)
        self._count, self._columns, self._places = len(listed), columns, places

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        """The annotation at a position, as it is in the file but for its outline."""
        if isinstance(index, slice):
            return [self[each] for each in range(self._count)[index]]
        index = range(self._count)[index]
        if index in self._odd:
            return self._odd[index]
        row = index - bisect_left(self._odd_at, index)
        entry: dict[str, Any] = {key: column[row] for key, column in self._columns.values.items()}
        area = self._columns.areas[row]
        return {**entry, "bbox": self._columns.boxes[4 * row : 4 * row + 4].tolist(), "area": area}

    def entries_at(self, positions: Iterable[int]) -> Iterator[Any]:
        """The annotations at these positions, as they are in the file."""
        return map(self.__getitem__, positions) if self._places is None else self._places.entries(positions)

    def column(self, key: str) -> list[Any]:
        """The value of a key (id, image_id, category_id, iscrowd) in each annotation, None where it has none."""
        values = self._columns.values[key].tolist()
        if not self._odd:
            return values
        following: Iterator[int] = iter(values)
        return [_get(self._odd[at], key) if at in self._odd else next(following) for at in range(self._count)]

    def boxes(self) -> np.ndarray:
        """(M, 4) float64 the `bbox` of each; NaN where it is not four numbers."""
        if not self._odd:
            return np.frombuffer(self._columns.boxes, np.float64).reshape(-1, 4)
        boxes = np.full((self._count, 4), np.nan)
        usual = np.ones(self._count, bool)
        usual[self._odd_at] = False
        boxes[usual] = np.frombuffer(self._columns.boxes, np.float64).reshape(-1, 4)
        for index in self._odd_at:
            box = _get(self._odd[index], "bbox")
            if isinstance(box, list) and len(box) == 4:
                boxes[index] = [as_float(value) for value in box]
        return boxes

    def is_complete(self) -> bool:
        """Whether every annotation has an area, and an id of its own."""
        numbers = np.frombuffer(self._columns.values["id"], np.int64)
        finite = bool(np.isfinite(np.frombuffer(self._columns.areas, np.float64)).all())
        return not self._odd and finite and len(np.unique(numbers)) == len(numbers)


@dataclass(frozen=True, eq=False)
class Compact:
    """What a COCO file holds, its annotations in columns.

    Args:
        content: as `load_coco` gives it.
        lines: the line of each image and each annotation in the file.
    """

    content: dict[str, Any]
    lines: dict[str, array[int]]


def load_compact(file: Path, *, whole: bool = False) -> Compact | None:
    """The content of a COCO JSON file, whose text is never in memory; None where `load_coco` has to say what is wrong.

    Args:
        whole: whether all of each annotation is read again where it is asked for; else outlines are left out, and what
            nobody needs of images.
    """
    columns, places = Columns(), Places(file, array("q"), array("q"))
    lines = {"images": array("q"), "annotations": array("q")}
    content: dict[str, Any] = {}
    try:
        for key, value, place in entries(file):
            if place is None:
                if key in content and key in LISTS:
                    return None
                content[key] = [] if value is LIST else value
                continue
            if key == "annotations" and isinstance(value, dict):
                value = columns.take(value)
            elif key == "images" and isinstance(value, dict):
                value = _image(value, whole=whole)
            content[key].append(value)
            if key in lines:
                lines[key].append(place[2])
            if key == "annotations" and whole:
                places.starts.append(place[0])
                places.ends.append(place[1])
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content.get("images"), list) or not isinstance(content.get("annotations", []), list):
        return None
    if "annotations" in content:
        content["annotations"] = CompactAnnotations(content["annotations"], columns, places if whole else None)
    return Compact(content, lines)


def _image(entry: dict[str, Any], *, whole: bool) -> dict[str, Any]:
    """An image with its keys as texts that all images share; what is not read only of one that is in order."""
    if whole or as_id(entry.get("id")) is None or not isinstance(entry.get("file_name"), str):
        return {intern(key): value for key, value in entry.items()}
    return {key: entry[key] for key in IMAGE_KEYS if key in entry}


def column(listed: Sequence[Any], key: str) -> list[Any]:
    """The value of a key in each entry of a list of a JSON file, None where it has none."""
    return listed.column(key) if isinstance(listed, StoredEntries) else [_get(entry, key) for entry in listed]


def entries_at(listed: Sequence[Any], positions: Iterable[int]) -> Iterator[Any]:
    """The whole entries at these positions of a list of a JSON file."""
    return listed.entries_at(positions) if isinstance(listed, StoredEntries) else map(listed.__getitem__, positions)


def _get(entry: Any, key: str) -> Any:
    return entry.get(key) if isinstance(entry, dict) else None
