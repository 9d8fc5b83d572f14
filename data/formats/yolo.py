"""YOLO labels: one text file per image, one row per object: class, centre x, centre y, width, height, as fractions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data.formats.assemble import probe_sizes
from data.formats.label_files import LabelFiles, report_orphans
from data.formats.listing import Folders
from data.formats.rows import OUTLINES, Problems
from utils.boxes import xyxy_to_cxcywh
from utils.files import read_regular
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
        problems: the problems so far; new ones are appended.
    """
    folders, problems = folders or Folders(), problems or Problems()
    files = _Files(len(names), problems)
    files.read(images, labels, folders)
    if files.outlines:
        first = files.files[files.image_index[0]]
        problems.add(first.parent, f"{files.outlines} rows are outlines", OUTLINES)
    report_orphans(labels, folders, problems, suffix=SUFFIX)
    sizes = probe_sizes(files.paths)
    limits = np.array([(0, 0) if isinstance(size, str) else size for size in sizes], np.float64).reshape(-1, 2)
    scale = np.tile(limits[np.array(files.image_index, np.int64), ::-1], 2)
    return files.to_labelled_images(
        np.array(files.boxes, np.float64).reshape(-1, 4) * scale, sizes, names, category_ids
    )


class _Files(LabelFiles):
    """The rows of all label files; boxes are xyxy fractions."""

    def __init__(self, num_classes: int, problems: Problems) -> None:
        super().__init__(problems, SUFFIX)
        self.num_classes = num_classes
        self.outlines = 0

    def read_file(self, file: Path) -> bool:
        """Read one label file; False if it cannot be read at all."""
        try:
            text = read_regular(file).decode("utf-8-sig")
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
            self.add(number, label, box)
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
        the number of crowd regions that were left out: a row cannot hold the flag.
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
