"""Labels with one file per image: the objects in the files, column by column."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data.formats.assemble import to_labelled_images
from data.formats.label_places import LabelPlaces
from data.formats.rows import BACKGROUND, LISTED, ImageTable, Problems, Rows
from utils.config import ConfigError
from utils.structures import LabelledImages
from utils.text import listed


class UnknownClass(ValueError):
    """An object of a class that is not among the names of the data set.

    Args:
        name: of the class, as the file has it.
        message: what is wrong with the row.
    """

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


class LabelFiles:
    """The objects of all label files of a split, column by column; a format says how one file is read.

    Args:
        problems: where bad files and rows are reported.
    """

    def __init__(self, problems: Problems) -> None:
        self.problems = problems
        self.paths: list[Path] = []
        """The images in use, and in `files` the label file of each."""
        self.files: list[Path] = []
        self.image_index = array("q")
        self.labels = array("q")
        self.boxes = array("d")
        """Four numbers for each object; a million objects as Python's lists would take 250 MB."""
        self.crowd = array("b")
        self.lines = array("q")
        self.unreadable: set[int] = set()
        """Images of which an object is missing, because it cannot be read."""
        self.strangers: dict[str, list[int]] = {}
        """Classes that are not among the names -> the image of each of their objects."""

    def read(self, places: LabelPlaces) -> None:
        """Read the label file of each image."""
        unlabelled = []
        for image in places.images:
            file = places.files.get(image)
            if file is None:
                unlabelled.append(image)
            elif not self.read_file(file):
                continue  # whether the image shows objects is unknown: training on it as background would be wrong
            self.paths.append(image)
            self.files.append(file or image)
        report_unlabelled(unlabelled, places, self.problems)
        self._report_strangers()

    def read_file(self, file: Path) -> bool:
        """Read one file with `add`; False if it cannot be read at all."""
        raise NotImplementedError

    def add(self, line: int, label: int, box: list[float], *, crowd: bool = False) -> None:
        """An object of the file that is being read; `box` in the unit of the format."""
        self.image_index.append(len(self.paths))
        self.labels.append(label)
        self.boxes.extend(box)
        self.crowd.append(crowd)
        self.lines.append(line)

    def remove(self, rows: set[int]) -> None:
        """Take objects away again."""
        if not rows:
            return
        columns: tuple[Any, ...] = (self.image_index, self.labels, self.crowd, self.lines, self.boxes)
        for column, size in zip(columns, (1, 1, 1, 1, 4), strict=True):
            kept = (value for index, value in enumerate(column) if index // size not in rows)
            column[:] = array(column.typecode, kept)

    def lose(self, where: object, why: str | ValueError) -> None:
        """An object of the file that is being read cannot be read."""
        if isinstance(why, UnknownClass):
            self.strangers.setdefault(why.name, []).append(len(self.paths))
        self.unreadable.add(len(self.paths))
        self.problems.lost(where, str(why))

    def _report_strangers(self) -> None:
        """Say before all else what it costs that the data set has classes which are not among the names."""
        images = {index for indices in self.strangers.values() for index in indices}
        if len(images) < 2 or self.problems.unreadable != "image":
            return
        count, lost = sum(map(len, self.strangers.values())), f"{len(images)} of {len(self.paths)} images"
        classes = "1 class" if len(self.strangers) == 1 else f"{len(self.strangers)} classes"
        by_count = sorted(self.strangers, key=lambda name: -len(self.strangers[name]))
        self.problems.add_first(
            self.files[min(images)].parent,
            f"{count} objects of {classes} not among 'names' ({listed(by_count, 200)}) leave out {lost}. To train on "
            "the classes in 'names' alone, set 'unreadable: object' in the data YAML",
            LISTED,
        )

    def to_labelled_images(
        self,
        boxes: np.ndarray,
        sizes: Sequence[tuple[int, int] | str],
        names: Sequence[str],
        category_ids: Sequence[int] | None,
    ) -> LabelledImages:
        """The split; images are numbered 1, 2, ... in their order.

        Args:
            boxes: (M, 4) float64 xyxy pixels, unchecked.
            sizes: of the images in use, as from `probe_sizes`.
            category_ids: 1, 2, ... when None.
        """
        rows = Rows(
            np.array(self.image_index, np.int64),
            np.array(self.labels, np.int64),
            boxes,
            np.array(self.crowd, bool),
            lambda row: f"{self.files[self.image_index[row]]}:{self.lines[row]}",
            frozenset(self.unreadable),
        )
        known = [None if isinstance(size, str) else size for size in sizes]
        table = ImageTable(self.paths, range(1, len(self.paths) + 1), known)
        data = to_labelled_images(table, rows, names, category_ids or range(1, len(names) + 1), self.problems)
        files = {path: file for path, file in zip(self.paths, self.files, strict=True) if path != file}
        return replace(data, label_files=files)


def report_unlabelled(unlabelled: Sequence[Path], places: LabelPlaces, problems: Problems) -> None:
    """Report once how many images have no label file and count as background.

    Raises:
        ConfigError: no image has one, which is a wrong path and not a data set of background.
    """
    if not unlabelled:
        return
    folder = next((file.parent for file in places.files.values()), next(iter(places.folders), unlabelled[0].parent))
    if len(unlabelled) == len(places.images):
        raise ConfigError(
            f"{folder}: no label file for any of the {len(unlabelled)} images (the first: {unlabelled[0]})"
        )
    count = f"{len(unlabelled)} of {len(places.images)} images have no label file"
    problems.add(folder, f"{count} (the first: {unlabelled[0].name})", BACKGROUND)
