"""PASCAL VOC labels: one XML file per image, boxes as the numbers of their first and last pixel."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from data.formats.assemble import probe_sizes
from data.formats.label_files import LabelFiles, UnknownClass
from data.formats.label_places import LabelPlaces, label_name, report_orphans
from data.formats.listing import Folders
from data.formats.rows import KEPT, REPAIRED, Problems
from utils.config import did_you_mean
from utils.files import read_regular
from utils.structures import LabelledImages, Sample
from utils.text import shorten

SUFFIX = ".xml"
FOLDER = "Annotations"
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read(
    places: LabelPlaces,
    names: Sequence[str],
    first_pixel: int = 1,
    *,
    category_ids: Sequence[int] | None = None,
    folders: Folders | None = None,
    problems: Problems | None = None,
) -> LabelledImages:
    """A split in VOC form.

    Images are numbered 1, 2, ... in their order, and class index i has the category id i + 1. `difficult` and
    `truncated` objects are objects like any other; the tag `iscrowd`, which `write` adds, marks crowd regions.

    Args:
        places: the images in the order of the split, and their XML files.
        first_pixel: the number of the leftmost pixel. 1 as in the VOC development kit: xmin and ymin are lowered by
            one, so that a box of the whole image, 1 to width, is 0 to width here. 0 for tools that count from 0.
        problems: the problems so far; new ones are appended.
    """
    folders, problems = folders or Folders(), problems or Problems()
    files = _Files(names, first_pixel, problems)
    files.read(places)
    report_orphans(places, folders, problems, suffix=SUFFIX)
    sizes = probe_sizes(files.paths)
    for file, size in zip(files.files, sizes, strict=True):
        written = files.sizes.get(file)
        if written is not None and not isinstance(size, str) and written != size:
            mismatch = f"<size> says {written[1]}x{written[0]}, the upright image is {size[1]}x{size[0]}"
            problems.add(file, mismatch, KEPT)
    return files.to_labelled_images(np.array(files.boxes, np.float64).reshape(-1, 4), sizes, names, category_ids)


class _Files(LabelFiles):
    """The objects of all XML files; boxes are xyxy pixels."""

    def __init__(self, names: Sequence[str], first_pixel: int, problems: Problems) -> None:
        super().__init__(problems)
        self.label_of = {name: index for index, name in enumerate(names)}
        self.folded = Counter(map(str.casefold, names))
        self.first_pixel = first_pixel
        self.sizes: dict[Path, tuple[int, int]] = {}
        """(height, width) that a file states."""

    def read_file(self, file: Path) -> bool:
        """Read one XML file; False if it cannot be read at all."""
        try:
            data = read_regular(file)
            root = ET.fromstring(data)
        except OSError as error:
            self.problems.lost_file(file, f"cannot be read ({error.strerror or error})")
            return False
        except (ET.ParseError, ValueError, LookupError) as error:  # not well-formed; an unknown encoding
            line = getattr(error, "position", (1, 0))[0]
            self.problems.lost_file(f"{file}:{line}", f"not valid XML ({error})")
            return False
        self._read_size(root, file)
        objects = root.findall("object")
        starts = [match.start() for match in re.finditer(rb"<object[\s>/]", data)]
        lines = [data.count(b"\n", 0, start) + 1 for start in starts]
        if len(lines) != len(objects):  # an object in a comment, or UTF-16
            lines = [1] * len(objects)
        for line, element in zip(lines, objects, strict=True):
            where = f"{file}:{line}"
            try:
                label, name = self._parse_name(element, where)
                box = self._parse_box(element, name, where)
            except ValueError as error:
                self.lose(where, error)
                continue
            self.add(line, label, box, crowd=(element.findtext("iscrowd") or "0").strip() == "1")
        return True

    def _read_size(self, root: ET.Element, file: Path) -> None:
        try:
            size = (int(root.findtext("size/height", "")), int(root.findtext("size/width", "")))
        except ValueError:
            return  # <size> is not needed: the size is read from the image
        if min(size) > 0 and max(size) < 10**6:  # some tools write 0 for unknown
            self.sizes[file] = size

    def _parse_name(self, element: ET.Element, where: str) -> tuple[int, str]:
        name = (element.findtext("name") or "").strip()
        if name in self.label_of:
            return self.label_of[name], name
        if self.folded[name.casefold()] == 1:
            known = next(known for known in self.label_of if known.casefold() == name.casefold())
            self.problems.add(where, f"class '{shorten(name)}' is '{known}' in other letters", REPAIRED)
            return self.label_of[known], known
        hint = did_you_mean(name, self.label_of)
        unknown = f"class '{shorten(name)}' is not among the names of the data set{'.' if hint else ''}{hint}"
        raise UnknownClass(shorten(name), unknown)

    def _parse_box(self, element: ET.Element, name: str, where: str) -> list[float]:
        box = []
        for corner in CORNERS:
            text = element.findtext(f"bndbox/{corner}")
            try:
                box.append(float(text or ""))
            except ValueError:
                shown = "nothing" if text is None else f"'{shorten(text.strip())}'"
                raise ValueError(f"object '{name}': expected a number in <bndbox><{corner}>, found {shown}") from None
        for low, high in ((0, 2), (1, 3)):
            if box[low] > box[high]:
                swapped = (
                    f"object '{name}': <{CORNERS[low]}> {box[low]:.6g} is more than <{CORNERS[high]}> {box[high]:.6g}"
                )
                self.problems.add(where, f"{swapped}, the two are exchanged", REPAIRED)
                box[low], box[high] = box[high], box[low]
        return [box[0] - self.first_pixel, box[1] - self.first_pixel, *box[2:]]


def owner(file: Path, images: Sequence[Path]) -> Path | None:
    """The one of several images whose name, and folder if need be, an XML file states; None if it decides nothing."""
    try:
        root = ET.fromstring(read_regular(file))
    except (OSError, ET.ParseError, ValueError, LookupError):
        return None
    name = PurePosixPath((root.findtext("filename") or "").strip().replace("\\", "/")).name
    folder = (root.findtext("folder") or "").strip()
    named = [image for image in images if image.name == name]
    if len(named) > 1:
        named = [image for image in named if image.parent.name == folder]
    return named[0] if len(named) == 1 else None


def content(data: bytes) -> Hashable:
    """What an XML file says of its objects, to compare two files.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        objects = ET.fromstring(data).findall("object")
    except (ET.ParseError, LookupError) as error:
        raise ValueError(str(error)) from None
    texts = [(element.findtext("name"), *(element.findtext(f"bndbox/{c}") for c in CORNERS)) for element in objects]
    return tuple(sorted(tuple((text or "").strip() for text in each) for each in texts))


def class_counts(data: bytes, names: Sequence[str]) -> Counter[str]:
    """How many objects of each of the classes an XML file has; none where it cannot be read."""
    try:
        objects = ET.fromstring(data).findall("object/name")
    except (ET.ParseError, ValueError, LookupError):
        return Counter()
    known = {name.casefold(): name for name in names}
    written = ((element.text or "").strip().casefold() for element in objects)
    return Counter(known[name] for name in written if name in known)


def find_names(places: LabelPlaces, *, limit: int = 200) -> list[str]:
    """The class names in the first `limit` XML files, sorted, to suggest for `names`."""
    names: set[str] = set()
    for file in list(places.files.values())[:limit]:
        try:
            root = ET.fromstring(read_regular(file))
        except (OSError, ET.ParseError, ValueError, LookupError):
            continue
        names.update((element.text or "").strip() for element in root.findall("object/name"))
    return sorted(names)


def write(samples: Sequence[Sample], names: Sequence[str], images: Path, labels: Path) -> None:
    """Write an XML file for each sample: `labels`/x/y.xml for the image `images`/x/y.jpg.

    Pixels are counted from 1 and keep their fractions; what is whole within 1e-6 is written so. A crowd region gets
    <iscrowd>1</iscrowd>, which `read` knows, and <difficult>1</difficult>, VOC's own flag for regions that count
    neither as objects nor as background.
    """
    for sample in samples:
        root = ET.Element("annotation")
        _texts(root, {"folder": sample.path.parent.name, "filename": sample.path.name})
        _texts(ET.SubElement(root, "size"), {"width": sample.width, "height": sample.height, "depth": 3})
        _texts(root, {"segmented": 0})
        for box, label, crowd in zip(sample.boxes.tolist(), sample.labels.tolist(), sample.crowd.tolist(), strict=True):
            element = ET.SubElement(root, "object")
            _texts(element, {"name": names[label], "pose": "Unspecified", "truncated": 0, "difficult": int(crowd)})
            if crowd:
                _texts(element, {"iscrowd": 1})
            corners = (box[0] + 1, box[1] + 1, box[2], box[3])
            _texts(ET.SubElement(element, "bndbox"), dict(zip(CORNERS, map(_number, corners), strict=True)))
        ET.indent(root)
        file = labels / sample.path.relative_to(images).with_name(label_name(sample.path.name, SUFFIX))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(ET.tostring(root, encoding="unicode") + "\n", encoding="utf-8")


def _number(value: float) -> str:
    """A number as text; a whole one if it is that within 1e-6, for many tools read whole numbers only."""
    return str(round(value)) if abs(value - round(value)) < 1e-6 else repr(value)


def _texts(parent: ET.Element, values: Mapping[str, object]) -> None:
    for key, value in values.items():
        ET.SubElement(parent, key).text = str(value)
