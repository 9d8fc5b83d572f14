"""YOLO labels: one text file per image, one row per object: class, centre x, centre y, width, height, as fractions."""

from __future__ import annotations

import contextlib
import math
import re
from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.formats.assemble import probe_sizes
from data.formats.keypoints import AmbiguousRows, keypoint_values
from data.formats.label_files import LabelFiles, UnknownClass
from data.formats.label_places import LabelPlaces, label_name, report_orphans
from data.formats.listing import Folders
from data.formats.rows import KEYPOINTS, OUTLINES, REPAIRED, Problems
from utils.boxes import xyxy_to_cxcywh
from utils.config import ConfigError
from utils.files import read_regular
from utils.structures import LabelledImages, Sample
from utils.text import shorten

SUFFIX = ".txt"
FOLDER = "labels"
_COMMA = re.compile(r"-?[0-9]*,[0-9]+(e-?[0-9]+)?")
"""A number with a decimal comma: no row has commas between its numbers and blanks too."""
ROW = "expected 'class x y width height', the last four as fractions of the image"


def read(
    places: LabelPlaces,
    names: Sequence[str],
    *,
    kpt_shape: tuple[int, int] | None = None,
    category_ids: Sequence[int] | None = None,
    folders: Folders | None = None,
    problems: Problems | None = None,
) -> LabelledImages:
    """A split in YOLO form.

    Images are numbered 1, 2, ... in their order, and class index i has the category id i + 1 (COCO counts from 1).
    Rows with more than four numbers after the class are boxes with keypoints, or outlines, which become their bounding
    boxes.

    Args:
        places: the images in the order of the split, and their label files.
        kpt_shape: as in `keypoint_values`.
        category_ids: other ids for the classes, ascending.
        problems: the problems so far; new ones are appended.
    Raises:
        ConfigError: rows that may have keypoints or be outlines.
    """
    folders, problems = folders or Folders(), problems or Problems()
    files = _Files(names, problems)
    files.read(places)
    files.read_long_rows(kpt_shape)
    report_orphans(places, folders, problems, suffix=SUFFIX)
    sizes = probe_sizes(files.paths)
    limits = np.array([(0, 0) if isinstance(size, str) else size for size in sizes], np.float64).reshape(-1, 2)
    scale = np.tile(limits[np.array(files.image_index, np.int64), ::-1], 2)
    return files.to_labelled_images(
        np.array(files.boxes, np.float64).reshape(-1, 4) * scale, sizes, names, category_ids
    )


class _Files(LabelFiles):
    """The rows of all label files; boxes are xyxy fractions."""

    def __init__(self, names: Sequence[str], problems: Problems) -> None:
        super().__init__(problems)
        self.names = names
        self.label_of = {name: label for label, name in enumerate(names)}
        folded = Counter(map(_folded, names))
        self.label_of_folded = {
            _folded(each): label for each, label in self.label_of.items() if folded[_folded(each)] == 1
        }
        """Without regard to case and blanks, where these do not tell two names apart."""
        self.repairs: list[str] = []
        self.long: dict[int, list[float]] = {}
        """Position of an object -> the numbers of its row after the class, where there are more than four."""

    def read_file(self, file: Path) -> bool:
        """Read one label file; False if it cannot be read at all."""
        try:
            text = read_regular(file).decode("utf-8-sig")
        except OSError as error:
            self.problems.lost_file(file, f"cannot be read ({error.strerror or error})")
            return False
        except UnicodeDecodeError as error:
            self.problems.lost_file(file, f"not UTF-8 text (byte {error.start})")
            return False
        for number, line in enumerate(text.splitlines(), start=1):
            fields = line.split()
            if not fields:
                continue
            where = f"{file}:{number}"
            try:
                label, values = self.parse(fields)
            except ValueError as error:
                self.lose(where, error)
                continue
            for repair in self.repairs:
                self.problems.add(where, repair, REPAIRED)
            if len(values) > 4:
                self.long[len(self.labels)] = values
            self.add(number, label, self._box(values, where))
        return True

    def read_long_rows(self, kpt_shape: tuple[int, int] | None) -> None:
        """Set the boxes of long rows, now that all are known; rows that fit in with none of the others are lost."""
        if not self.long:
            return
        first = self.files[self.image_index[next(iter(self.long))]]
        try:
            length = keypoint_values(list(self.long.values()), kpt_shape)
        except AmbiguousRows as error:
            raise ConfigError(f"{first.parent}: {error}") from None
        wrong = []
        for row, values in self.long.items():
            count = len(values)
            if count == length or (not length and count % 2 == 0 and count > 4):
                xs, ys = values[::2], values[1::2]
                if not length:
                    self.boxes[4 * row : 4 * row + 4] = array("d", (min(xs), min(ys), max(xs), max(ys)))
                continue
            wrong.append(row)
            number = self.image_index[row]
            self.unreadable.add(number)
            expected = f"{length + 1}, a box with keypoints" if length else "pairs of x and y, or 4, after the class"
            what = f"{count + 1} numbers; expected {expected}" if length else f"{count + 1} numbers; {ROW}"
            self.problems.lost(f"{self.files[number]}:{self.lines[row]}", what)
        if len(wrong) < len(self.long):
            kind, action = ("boxes with keypoints", KEYPOINTS) if length else ("outlines", OUTLINES)
            self.problems.add(first.parent, f"{len(self.long) - len(wrong)} rows are {kind}", action)
        self.remove(set(wrong))

    def parse(self, fields: list[str]) -> tuple[int, list[float]]:
        """Class and numbers of a row; `repairs` then says what was repaired to read it."""
        self.repairs = []
        try:
            label, *values = map(float, fields)
        except ValueError:
            label, *values = self._mend(fields)
        if len(values) == 5:
            raise ValueError(f"6 numbers, as in predictions with a confidence; {ROW}")
        if len(values) < 4:
            raise ValueError(f"{len(fields)} numbers; {ROW}")
        if not math.isfinite(label) or label != int(label):
            raise ValueError(f"class '{shorten(fields[0])}' is no whole number; {ROW}")
        if not 0 <= label < len(self.names):
            known, shown = f"the data set has {len(self.names)} classes, from 0", shorten(f"{label:.0f}")
            raise UnknownClass(shown, f"class {shown} is out of range; {known}")
        if max(values) > 2:
            raise ValueError(f"value {max(values):.6g} looks like pixels; {ROW}")
        return int(label), values

    def _mend(self, fields: list[str]) -> list[float]:
        """The numbers of a row with decimal commas or the name of its class, if it is clear what they stand for.

        A name may be of several words, and may end in a number.
        """
        row = shorten(" ".join(fields))
        mended = [field.replace(",", ".") if _COMMA.fullmatch(field) else field for field in fields]
        words = next((index for index in range(len(mended), 0, -1) if not _is_number(mended[index - 1])), 0)
        if words:
            counts = range(words, len(fields) - 3)
            found = [(each, label) for each in counts if (label := self._label(" ".join(fields[:each]))) is not None]
            if len(found) != 1:
                raise ValueError(f"'{row}' holds something that is no number; {ROW}")
            ((words, number),) = found
            mended = [str(number), *mended[words:]]
            self.repairs.append(f"'{row}' has the name of class {number} for its number")
        if mended[1:] != fields[max(words, 1) :]:
            self.repairs.append(f"'{row}' has decimal commas, read as points")
        return [float(field) for field in mended]

    def _label(self, words: str) -> int | None:
        return self.label_of.get(words, self.label_of_folded.get(_folded(words)))

    def _box(self, values: list[float], where: str) -> list[float]:
        x, y, width, height = values[:4]
        if len(values) == 4 and (width < 0 or height < 0):
            self.problems.add(where, f"width {width:.6g} and height {height:.6g}, taken without the sign", REPAIRED)
            width, height = abs(width), abs(height)
        return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def count_classes(files: Sequence[Path]) -> int:
    """The classes that rows of these files are of: one more than the highest number."""
    highest = 0
    for file in files:
        with contextlib.suppress(OSError):
            numbers = re.findall(rb"^\s*([0-9]{1,5})\s", read_regular(file), re.MULTILINE)
            highest = max([highest, *map(int, numbers)])
    return highest + 1


def class_counts(data: bytes, names: Sequence[str]) -> Counter[str]:
    """How many objects of each class a label file has, as far as its rows can be read."""
    files = _Files(names, Problems())
    counts: Counter[str] = Counter()
    for line in data.decode("utf-8-sig", errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            counts[names[files.parse(line.split())[0]]] += 1
    return counts


def _folded(name: str) -> str:
    return " ".join(name.split()).casefold()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


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
        file = labels / sample.path.relative_to(images).with_name(label_name(sample.path.name, SUFFIX))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(row + "\n" for row in rows), encoding="utf-8")
    return sum(int(sample.crowd.sum()) for sample in samples)
