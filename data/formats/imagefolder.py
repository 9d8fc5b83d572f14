"""Image folders, a classifier's data set: a folder of images for each class."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from data.formats.assemble import probe_sizes
from data.formats.listing import Folders, list_images
from data.formats.rows import KEPT, Problems
from data.images import read_image
from utils.config import ConfigError
from utils.files import claim
from utils.structures import LabelledImages, Sample, Samples

LEAST = 8
"""Pixels: an object with a shorter side is not cut out by `write`."""


def class_folders(target: Path, root: Path) -> list[str]:
    """Names of the class folders of a split, sorted.

    Args:
        target: a folder with one folder a class, or a .txt list of images in such folders.
    """
    if target.is_dir():
        with os.scandir(target) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    return sorted({path.parent.name for path in list_images(target, root, Folders(), Problems())})


def read(target: Path, root: Path, classes: Mapping[str, str], *, problems: Problems | None = None) -> LabelledImages:
    """A split as a folder of class folders, or as a .txt list of images whose folder is their class.

    Images are in the order of their paths (of a list: in its order) and numbered 1, 2, ...; class folders may have
    folders below them. An image that cannot be opened, or has none of the classes, is dropped and reported.

    Args:
        root: what the lines of a list are relative to.
        classes: name of the folder -> name of the class, in the order of labels.
    Raises:
        ConfigError: no image of any class can be read.
    """
    problems = problems or Problems()
    labels = {folder: label for label, folder in enumerate(classes)}
    paths, owners = [], []
    strangers: dict[str, list[Path]] = {}
    for path in list_images(target, root, Folders(), problems):
        inner = path.relative_to(target).parts[:-1] if target.is_dir() else path.parts[-2:-1]
        owner = inner[0] if inner else ""
        if owner in labels:
            paths.append(path)
            owners.append(labels[owner])
        else:
            strangers.setdefault(owner, []).append(path)
    if not paths:
        raise ConfigError(_no_class(target, classes, strangers))
    for owner, images in strangers.items():
        reason = f"'{owner}' is none of the {len(classes)} classes" if owner else "images in no folder of a class"
        problems.add(target / owner, f"{reason}: {len(images)} images (the first: {images[0].name})")
    samples: list[Sample] = []
    for path, label, size in zip(paths, owners, probe_sizes(paths), strict=True):
        if isinstance(size, str):
            problems.add(path, size)
        else:
            samples.append(whole_image(path, len(samples) + 1, size, label))
    if not samples:
        raise ConfigError(f"none of the {len(paths)} images can be read; the first: {problems.entries[-len(paths)]}")
    counts = Counter(int(sample.labels[0]) for sample in samples)
    for folder, label in labels.items():
        if not counts[label]:
            problems.add(target / folder, f"no image of class '{classes[folder]}'", KEPT)
    ids = tuple(range(1, len(classes) + 1))
    return LabelledImages(
        Samples.of(samples), tuple(classes.values()), ids, {}, problems.entries.settled(), task="classify"
    )


def whole_image(path: Path, image_id: int, size: tuple[int, int], label: int) -> Sample:
    """The sample of an image of (height, width) that shows one class."""
    height, width = size
    box = np.array([[0.0, 0.0, width, height]])
    return Sample(path, image_id, height, width, box, np.array([label], np.int64), np.zeros(1, bool))


def looks_like_classes(target: Path, images: Sequence[Path]) -> bool:
    """Whether no image lies in `target` itself: all are in folders below it."""
    return target.is_dir() and all(image.parent != target for image in images)


@dataclass(frozen=True)
class Written:
    """What `write` did.

    Args:
        folders: name of the folder -> name of the class, in the order of labels.
        images: written; small, crowd: objects left out for their size, or because they are a crowd.
    """

    folders: dict[str, str]
    images: int
    small: int
    crowd: int


def write(data: LabelledImages, folder: Path) -> Written:
    """Write each object of a split as an image of its own, `folder`/CLASS/NAME_1.jpg; an image of one class as it is.

    Boxes are widened to whole pixels. Crowd regions, and objects with a side under `LEAST` pixels, are left out.
    """
    folders = _folder_names(data.names)
    folder_of = [folder / name for name in folders]
    taken: set[str] = set()
    small = crowd = 0
    for class_folder in folder_of:
        class_folder.mkdir(parents=True, exist_ok=True)
    for sample in data.samples:
        pixels = None
        for number, (box, label) in enumerate(zip(sample.boxes, sample.labels.tolist(), strict=True), start=1):
            x1, y1 = (max(int(np.floor(value)), 0) for value in box[:2])
            x2, y2 = min(int(np.ceil(box[2])), sample.width), min(int(np.ceil(box[3])), sample.height)
            if sample.crowd[number - 1]:
                crowd += 1
            elif data.task == "classify":
                shutil.copyfile(sample.path, claim(folder_of[label] / sample.path.name, taken))
            elif min(x2 - x1, y2 - y1) < LEAST:
                small += 1
            else:
                pixels = read_image(sample.path) if pixels is None else pixels
                path = claim(folder_of[label] / f"{sample.path.stem}_{number}.jpg", taken)
                Image.fromarray(pixels[y1:y2, x1:x2]).save(path, quality=95, subsampling=0)
    return Written(folders, len(taken), small, crowd)


def _folder_names(names: Sequence[str]) -> dict[str, str]:
    """A folder for each class that is valid on every system: its name if possible, unique without regard to case."""
    folders: dict[str, str] = {}
    taken: set[str] = set()
    for label, name in enumerate(names):
        safe = re.sub(r'[\\/:*?"<>|\x00-\x1f]', "_", name).strip(" .") or f"class {label}"
        safe = f"{safe} {label}" if safe.casefold() in taken else safe
        taken.add(safe.casefold())
        folders[safe] = name
    return folders


def _no_class(target: Path, classes: Mapping[str, str], strangers: Mapping[str, Sequence[Path]]) -> str:
    """The message for a split without an image of any class."""
    expected = "expected one folder of images for each class"
    if classes and any(strangers):
        known, unknown = (", ".join(list(names)[:5]) for names in (classes, filter(None, strangers)))
        return f"{target}: no image of a known class: the folders are {unknown}; 'names' has {known}; {expected}"
    count = sum(map(len, strangers.values()))
    return (
        f"{target}: {expected}, found {count} images without such folders. A detection set is cut into them by "
        "'python -m data.convert SRC DST --to imagefolder'"
    )
