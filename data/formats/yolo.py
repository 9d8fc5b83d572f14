"""YOLO labels: one text file an image, one row an object: class, centre x, centre y, width, height, as fractions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data.formats.assemble import probe_sizes, to_labelled_images
from data.formats.listing import Folders, report_orphans, report_unlabelled
from data.formats.rows import OUTLINES, ImageTable, Problems, Rows
from utils.boxes import xyxy_to_cxcywh
from utils.structures import LabelledImages, Sample

SUFFIX = ".txt"
FOLDER = "labels"
ROW = "expected 'class x y width height', the last four as fractions of the image"


def read(
    images: Sequence[Path],
    labels: Mapping[Path, Path],
    names: Sequence[str],
    *,
    category_ids: Sequence[int] | None = None,
    folders: Folders | None = None,
    problems: Problems | None = None,
) -> LabelledImages:
    """A split in YOLO form.

    Images are numbered 1, 2, ... in their order, and class index i has the category id i + 1 (COCO counts from 1).
    Rows with more than two points are outlines and become their bounding boxes.

    Args:
        images: image files in the order of the split.
        labels: folder of images -> folder of its label files.
        category_ids: other ids for the classes, ascending.
        problems: what was found before, to be kept in order.
    """
    folders, problems = folders or Folders(), problems or Problems()
    parsed = _Parsed(len(names), problems)
    paths: list[Path] = []
    files, unlabelled = [], []
    for image in images:
        file = labels[image.parent] / (image.stem + SUFFIX)
        if not folders.has(file):
            unlabelled.append(image)
        elif not parsed.read_file(file, len(paths)):
            continue  # whether the image shows objects is unknown: training on it as background would be wrong
        paths.append(image)
        files.append(file)
    report_unlabelled(unlabelled, images, labels, problems)
    if parsed.outlines:
        problems.add(files[parsed.image_index[0]].parent, f"{parsed.outlines} rows are outlines", OUTLINES)
    report_orphans(labels, folders, problems, suffix=SUFFIX)
    sizes = probe_sizes(paths)
    limits = np.array([(0, 0) if isinstance(size, str) else size for size in sizes], np.float64).reshape(-1, 2)
    index = np.array(parsed.image_index, np.int64)
    boxes = np.array(parsed.boxes, np.float64).reshape(-1, 4) * np.tile(limits[index][:, ::-1], 2)
    rows = Rows(
        index,
        np.array(parsed.labels, np.int64),
        boxes,
        np.zeros(len(index), bool),
        lambda row: f"{files[parsed.image_index[row]]}:{parsed.lines[row]}",
    )
    known = [None if isinstance(size, str) else size for size in sizes]
    table = ImageTable(paths, range(1, len(paths) + 1), known)
    return to_labelled_images(table, rows, names, category_ids or range(1, len(names) + 1), problems)


class _Parsed:
    """The rows of all label files, column by column; boxes are xyxy fractions."""

    def __init__(self, num_classes: int, problems: Problems) -> None:
        self.num_classes, self.problems = num_classes, problems
        self.image_index: list[int] = []
        self.labels: list[int] = []
        self.boxes: list[list[float]] = []
        self.lines: list[int] = []
        self.outlines = 0

    def read_file(self, file: Path, image_index: int) -> bool:
        """Take in one label file; False when it cannot be read at all."""
        try:
            text = file.read_bytes().decode("utf-8-sig")
        except OSError as error:
            self.problems.add(file, f"cannot be read ({error.strerror or error})", "its image is left out")
            return False
        except UnicodeDecodeError as error:
            self.problems.add(file, f"not UTF-8 text (byte {error.start})", "its image is left out")
            return False
        for number, line in enumerate(text.splitlines(), start=1):
            fields = line.split()
            if not fields:
                continue
            try:
                label, box = self._parse(fields)
            except ValueError as error:
                self.problems.add(f"{file}:{number}", str(error))
                continue
            self.image_index.append(image_index)
            self.labels.append(label)
            self.boxes.append(box)
            self.lines.append(number)
        return True

    def _parse(self, fields: list[str]) -> tuple[int, list[float]]:
        try:
            label, *values = map(float, fields)
        except ValueError:
            raise ValueError(f"'{_shorten(fields)}' holds something that is no number; {ROW}") from None
        if len(values) == 5:
            raise ValueError(f"6 numbers, as in predictions with a confidence; {ROW}")
        if len(values) != 4 and (len(values) < 6 or len(values) % 2):
            raise ValueError(f"{len(fields)} numbers; {ROW}")
        if not np.isfinite(label) or label != int(label):
            raise ValueError(f"class '{fields[0]}' is no whole number; {ROW}")
        if not 0 <= label < self.num_classes:
            raise ValueError(f"class {int(label)} is out of range; the data set has {self.num_classes} classes, from 0")
        if len(values) > 4:
            xs, ys = values[::2], values[1::2]
            box = [min(xs), min(ys), max(xs), max(ys)]
            self.outlines += 1
        else:
            x, y, width, height = values
            box = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
        if max(values) > 2:
            raise ValueError(f"value {max(values):.6g} looks like pixels; {ROW}")
        return int(label), box


def write(samples: Sequence[Sample], images: Path, labels: Path) -> int:
    """Write a text file for each sample: `labels`/x/y.txt for the image `images`/x/y.jpg, empty without objects.

    Returns:
        crowd regions left out: a row has no place for the flag.
    """
    for sample in samples:
        size = np.array([sample.width, sample.height] * 2, np.float64)
        objects = sample.labels[~sample.crowd].tolist()
        fractions = (xyxy_to_cxcywh(sample.boxes[~sample.crowd]) / size).tolist()
        rows = [" ".join([str(label), *map(repr, values)]) for label, values in zip(objects, fractions, strict=True)]
        file = (labels / sample.path.relative_to(images)).with_suffix(SUFFIX)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(row + "\n" for row in rows), encoding="utf-8")
    return sum(int(sample.crowd.sum()) for sample in samples)


def _shorten(fields: list[str]) -> str:
    text = " ".join(fields)
    return text if len(text) <= 60 else text[:57] + "..."
