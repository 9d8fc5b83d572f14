"""CVAT for images 1.1: one XML file for many images, boxes as fractions of pixels from the image's corner."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.formats.assemble import to_labelled_images
from data.formats.image_files import find_images
from data.formats.rows import MATCHED, NOT_USED, OUTLINES, ImageTable, Problems, Rows
from utils.config import ConfigError
from utils.files import read_regular
from utils.structures import LabelledImages
from utils.text import listed, shorten

SUFFIX = ".xml"
SUBSETS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Subsets of a CVAT project -> the split that they are."""

NO_OBJECTS = frozenset({"tag", "attribute"})
"""What an image may hold beside shapes."""


def read(
    file: Path,
    root: Path,
    split: str,
    *,
    images: Path | None = None,
    names: Sequence[str] | None = None,
    problems: Problems | None = None,
) -> LabelledImages:
    """A split from a file of CVAT: all its images, or of several subsets the one that is called as the split.

    Rotated boxes, polygons, ellipses and masks become their bounding boxes; points and lines have none.

    Args:
        images, root: as of `coco.read`.
        names: class names by index; the labels of the file, in its order, when None.
    Raises:
        ConfigError: no file of CVAT, no label in it, or none of its images is found.
    """
    problems = problems or Problems()
    document = _parse(file)
    names = names or label_names(document)
    if not names:
        raise ConfigError(f"{file}: no label, neither in <meta> nor of a shape; set 'names'")
    elements = _of_split(document, split, file, problems)
    found = find_images([element.get("name") or "" for element in elements], file, root, images, problems)
    objects = _Objects(file, names, problems)
    paths: list[Path] = []
    sizes: list[tuple[int, int] | None] = []
    for element, path, looked_for in zip(elements, found.files, found.looked_for, strict=True):
        if path is None:
            problems.add(objects.where(element), f"no such image: {looked_for}")
            continue
        objects.read(element, len(paths))
        paths.append(path)
        sizes.append(_size(element))
    if objects.tags:
        problems.add(file, f"{objects.tags} tags of whole images are no objects", NOT_USED)
    if objects.shapes:
        first = f"{objects.shapes} polygons, masks, ellipses and rotated boxes"
        problems.add(file, first, OUTLINES)
    table = ImageTable(paths, range(1, len(paths) + 1), sizes)
    return to_labelled_images(table, objects.rows(), names, range(1, len(names) + 1), problems)


def is_cvat(file: Path) -> bool:
    """Whether a file begins as one of CVAT for images, not as one of PASCAL VOC."""
    try:
        with open(file, "rb") as opened:
            return b"<annotations" in opened.read(2000)
    except OSError:
        return False


def subsets(file: Path) -> list[str]:
    """The splits that the images of a file are for; ['train'] where it does not say."""
    named = {element.get("subset") for element in _parse(file).iter("image")}
    splits = {SUBSETS.get((name or "").casefold()) for name in named}
    return sorted(split for split in splits if split) if len(named) > 1 and None not in splits else ["train"]


def label_names(document: ET.Element) -> list[str]:
    """The labels of a file in its order: those of its project or task, else those of its shapes, sorted."""
    meta = [(element.findtext("name") or "").strip() for element in document.findall("meta//labels/label")]
    used = sorted({(shape.get("label") or "").strip() for image in document.iter("image") for shape in image})
    return [name for name in dict.fromkeys(meta or used) if name]


def _parse(file: Path) -> ET.Element:
    try:
        document = ET.fromstring(read_regular(file))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror or error})") from None
    except (ET.ParseError, ValueError, LookupError) as error:
        raise ConfigError(f"{file}: not valid XML ({error})") from None
    if document.tag != "annotations":
        raise ConfigError(
            f"{file}: begins with <{shorten(document.tag)}>; expected <annotations>, CVAT for images. "
            "For VOC files, one an image, name the folder of images or a list"
        )
    if document.find("track") is not None:
        raise ConfigError(f"{file}: CVAT for video (<track>); export it as 'CVAT for images' or 'COCO'")
    return document


def _of_split(document: ET.Element, split: str, file: Path, problems: Problems) -> list[ET.Element]:
    """The images of a split: all, unless the file has several subsets, of which one is called so."""
    elements = document.findall("image")
    subset_of = [SUBSETS.get((element.get("subset") or "").casefold()) for element in elements]
    if len(set(subset_of)) > 1 and split in subset_of:
        chosen = [element for element, subset in zip(elements, subset_of, strict=True) if subset == split]
        problems.add(file, f"{len(chosen)} of {len(elements)} images are in the subset for {split}", MATCHED)
        elements = chosen
    if not elements:
        raise ConfigError(f"{file}: no <image>; export the task with its annotations")
    return elements


def _size(element: ET.Element) -> tuple[int, int] | None:
    try:
        size = int(element.get("height", "")), int(element.get("width", ""))
    except ValueError:
        return None
    return size if min(size) > 0 and max(size) <= 1_000_000 else None


class _Objects:
    """The shapes of the images that are read, column by column."""

    def __init__(self, file: Path, names: Sequence[str], problems: Problems) -> None:
        self.file, self.problems = file, problems
        self.label_of = {name: label for label, name in enumerate(names)}
        self.image_index: list[int] = []
        self.labels: list[int] = []
        self.boxes: list[list[float]] = []
        self.places: list[str] = []
        self.unreadable: set[int] = set()
        self.tags = self.shapes = 0
        """Those that are no upright boxes."""

    def where(self, image: ET.Element, number: int = 0) -> str:
        """The place of an image, or of its shape `number` from 1, for messages."""
        return f"{self.file}: image {shorten(image.get('name') or '?')}" + (f", shape {number}" if number else "")

    def read(self, image: ET.Element, index: int) -> None:
        """Add the shapes of an image."""
        for number, shape in enumerate(image, start=1):
            if shape.tag in NO_OBJECTS:
                self.tags += shape.tag == "tag"
                continue
            try:
                label, box = self._label(shape), shape_box(shape)
            except ValueError as error:
                self.unreadable.add(index)
                self.problems.lost(self.where(image, number), str(error))
                continue
            self.shapes += shape.tag != "box" or bool(float(shape.get("rotation") or 0))
            self.image_index.append(index)
            self.labels.append(label)
            self.boxes.append(box)
            self.places.append(self.where(image, number))

    def _label(self, shape: ET.Element) -> int:
        name = (shape.get("label") or "").strip()
        if name not in self.label_of:
            raise ValueError(f"label '{shorten(name)}' is not among the names ({listed(self.label_of, 200)})")
        return self.label_of[name]

    def rows(self) -> Rows:
        """All that was read."""
        return Rows(
            np.array(self.image_index, np.int64),
            np.array(self.labels, np.int64),
            np.array(self.boxes, np.float64).reshape(-1, 4),
            np.zeros(len(self.labels), bool),
            lambda row: self.places[row],
            frozenset(self.unreadable),
        )


def shape_box(shape: ET.Element) -> list[float]:
    """The box of a shape, xyxy pixels.

    Raises:
        ValueError: the shape has none, or a number of it cannot be read.
    """

    def number(name: str) -> float:
        try:
            return float(shape.get(name, ""))
        except ValueError:
            raise ValueError(f"<{shape.tag}>: {name} is {shorten(repr(shape.get(name)))}, expected a number") from None

    if shape.tag == "box":
        box = [number(name) for name in ("xtl", "ytl", "xbr", "ybr")]
        angle = math.radians(float(shape.get("rotation") or 0))
        return _turned(box, angle) if angle else box
    if shape.tag == "polygon":
        points = [pair.split(",") for pair in (shape.get("points") or "").split(";")]
        if len(points) < 3 or any(len(pair) != 2 for pair in points):
            raise ValueError(f"<polygon>: points are {shorten(repr(shape.get('points')))}, expected 'x,y;x,y;x,y'")
        xs, ys = ([float(pair[axis]) for pair in points] for axis in (0, 1))
        return [min(xs), min(ys), max(xs), max(ys)]
    if shape.tag == "ellipse":
        x, y, across, down = (number(name) for name in ("cx", "cy", "rx", "ry"))
        return [x - across, y - down, x + across, y + down]
    if shape.tag == "mask":
        left, top, width, height = (number(name) for name in ("left", "top", "width", "height"))
        return [left, top, left + width, top + height]
    raise ValueError(f"<{shape.tag}> has no box; expected box, polygon, ellipse or mask")


def _turned(box: list[float], angle: float) -> list[float]:
    """The upright box around a box that is turned about its centre."""
    x, y, width, height = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]
    across = (abs(width * math.cos(angle)) + abs(height * math.sin(angle))) / 2
    down = (abs(width * math.sin(angle)) + abs(height * math.cos(angle))) / 2
    return [x - across, y - down, x + across, y + down]
