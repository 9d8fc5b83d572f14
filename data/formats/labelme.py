"""labelme: one JSON file per image, beside it, with shapes in pixels from the image's corner."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from data.formats.assemble import probe_sizes
from data.formats.json_file import as_float, as_id
from data.formats.label_files import LabelFiles, UnknownClass
from data.formats.label_places import LabelPlaces, report_orphans
from data.formats.listing import Folders
from data.formats.rows import KEPT, OUTLINES, Problems
from utils.config import did_you_mean
from utils.files import read_regular
from utils.structures import LabelledImages
from utils.text import from_json, shorten, shown_json, to_json

SUFFIX = ".json"
FOLDER = "labels"
BOXED = ("rectangle", "polygon", "circle", "mask")
"""Shapes that have a box; points and lines have none."""


def read(
    places: LabelPlaces,
    names: Sequence[str],
    *,
    category_ids: Sequence[int] | None = None,
    folders: Folders | None = None,
    problems: Problems | None = None,
) -> LabelledImages:
    """A split in labelme's form; polygons, circles and masks become their bounding boxes.

    Images are numbered 1, 2, ... in their order, and class index i has the category id i + 1.
    """
    folders, problems = folders or Folders(), problems or Problems()
    files = _Files(names, problems)
    files.read(places)
    report_orphans(places, folders, problems, suffix=SUFFIX)
    if files.shapes:
        first = next(iter(places.files.values())).parent
        problems.add(first, f"{files.shapes} shapes are polygons, circles or masks", OUTLINES)
    sizes = probe_sizes(files.paths)
    for file, size in zip(files.files, sizes, strict=True):
        written = files.sizes.get(file)
        if written is not None and not isinstance(size, str) and written != size:
            mismatch = f"imageWidth and imageHeight say {written[1]}x{written[0]}, the upright image is"
            problems.add(file, f"{mismatch} {size[1]}x{size[0]}", KEPT)
    boxes = np.array(files.boxes, np.float64).reshape(-1, 4)
    return files.to_labelled_images(boxes, sizes, names, category_ids)


def is_labelme(data: bytes) -> bool:
    """Whether the bytes of a file are a JSON object of labelme."""
    try:
        content = from_json(data)
    except ValueError:
        return False
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


def recognises(file: Path) -> bool:
    """Whether a file is one of labelme: other programs write JSON files beside images, too."""
    try:
        return is_labelme(read_regular(file))
    except OSError:
        return False


def find_names(places: LabelPlaces, *, limit: int = 1_000_000) -> list[str]:
    """The labels of the shapes in the first `limit` files, sorted."""
    names: set[str] = set()
    for file in list(places.files.values())[:limit]:
        try:
            shapes = from_json(read_regular(file)).get("shapes", [])
            names.update(str(shape["label"]).strip() for shape in shapes if shape.get("shape_type") in (*BOXED, None))
        except (OSError, ValueError, AttributeError, KeyError, TypeError):
            continue
    return sorted(names)


def owner(file: Path, images: Sequence[Path]) -> Path | None:
    """The one of several images whose name a file states; None if it decides nothing."""
    try:
        name = PurePosixPath(str(from_json(read_regular(file))["imagePath"]).replace("\\", "/")).name
    except (OSError, ValueError, KeyError, TypeError):
        return None
    named = [image for image in images if image.name == name]
    return named[0] if len(named) == 1 else None


def content(data: bytes) -> Hashable:
    """What a file says of its objects, to compare two files.

    Raises:
        ValueError: it cannot be read.
    """
    return to_json(from_json(data)["shapes"])


def class_counts(data: bytes, names: Sequence[str]) -> Counter[str]:
    """How many shapes of each of the classes a file has."""
    try:
        shapes = from_json(data)["shapes"]
        return Counter(shape["label"] for shape in shapes if shape["label"] in names)
    except (ValueError, KeyError, TypeError):
        return Counter()


class _Files(LabelFiles):
    """The shapes of all files; boxes are xyxy pixels."""

    def __init__(self, names: Sequence[str], problems: Problems) -> None:
        super().__init__(problems)
        self.label_of = {name: label for label, name in enumerate(names)}
        self.shapes = 0
        """Those that are no rectangles."""
        self.sizes: dict[Path, tuple[int, int]] = {}
        """(height, width) that a file states."""

    def read_file(self, file: Path) -> bool:
        """Read one JSON file; False if it cannot be read at all."""
        try:
            content = from_json(read_regular(file))
        except OSError as error:
            self.problems.lost_file(file, f"cannot be read ({error.strerror or error})")
            return False
        except ValueError as error:
            self.problems.lost_file(file, f"not valid JSON ({error})")
            return False
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
            self.problems.lost_file(file, "no file of labelme; expected an object with the list 'shapes'")
            return False
        height, width = as_id(content.get("imageHeight")), as_id(content.get("imageWidth"))
        if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0:
            self.sizes[file] = (height, width)
        for number, shape in enumerate(content["shapes"], start=1):
            try:
                label, box = self._label(shape), shape_box(shape)
            except ValueError as error:
                self.lose(f"{file}: shape {number}", error)
                continue
            self.shapes += shape.get("shape_type", "polygon") != "rectangle"
            self.add(number, label, box)
        return True

    def _label(self, shape: Any) -> int:
        if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
            raise ValueError(f"expected an object with a text 'label', found {shown_json(shape)}")
        name = shape["label"].strip()
        if name not in self.label_of:
            hint = did_you_mean(name, self.label_of)
            unknown = f"label '{shorten(name)}' is not among the names of the data set{'.' if hint else ''}{hint}"
            raise UnknownClass(shorten(name), unknown)
        return self.label_of[name]


def shape_box(shape: dict[str, Any]) -> list[float]:
    """The box of a shape, xyxy pixels.

    Raises:
        ValueError: the shape has none, or its points are no pairs of numbers.
    """
    kind, points = shape.get("shape_type") or "polygon", shape.get("points")
    if kind not in BOXED:
        raise ValueError(f"a shape of type {shown_json(kind)} has no box; expected {', '.join(BOXED)}")
    pairs = points if isinstance(points, list) else []
    values = [[as_float(each) for each in pair] for pair in pairs if isinstance(pair, list) and len(pair) == 2]
    least = 3 if kind == "polygon" else 2
    if len(values) != len(pairs) or len(values) < least or not all(math.isfinite(x + y) for x, y in values):
        raise ValueError(f"points are {shown_json(points)}, expected at least {least} pairs of numbers")
    xs, ys = ([pair[axis] for pair in values] for axis in (0, 1))
    if kind == "circle":  # its centre, and a point on it
        radius = math.hypot(xs[1] - xs[0], ys[1] - ys[0])
        return [xs[0] - radius, ys[0] - radius, xs[0] + radius, ys[0] + radius]
    return [min(xs), min(ys), max(xs), max(ys)]
