"""Labels with one file per image: where the files are looked for, and the objects in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data.formats.assemble import to_labelled_images
from data.formats.listing import IMAGE_FOLDERS, Folders
from data.formats.rows import BACKGROUND, ImageTable, Problems, Rows
from data.images import IMAGE_SUFFIXES
from utils.config import ConfigError
from utils.structures import LabelledImages


class LabelFiles:
    """The objects of all label files of a split, column by column; a format says how one file is read.

    Args:
        problems: where bad files and rows are reported.
        suffix: of a label file.
    """

    def __init__(self, problems: Problems, suffix: str) -> None:
        self.problems, self.suffix = problems, suffix
        self.paths: list[Path] = []
        """The images in use, and in `files` the label file of each."""
        self.files: list[Path] = []
        self.image_index: list[int] = []
        self.labels: list[int] = []
        self.boxes: list[list[float]] = []
        self.crowd: list[bool] = []
        self.lines: list[int] = []

    def read(self, images: Sequence[Path], labels: Mapping[Path, Path], folders: Folders) -> None:
        """Read the label file of each image; `labels` maps each folder of images to the folder of their labels."""
        unlabelled = []
        for image in images:
            file = labels[image.parent] / (image.stem + self.suffix)
            if not folders.has(file):
                unlabelled.append(image)
            elif not self.read_file(file):
                continue  # whether the image shows objects is unknown: training on it as background would be wrong
            self.paths.append(image)
            self.files.append(file)
        report_unlabelled(unlabelled, images, labels, self.problems)

    def read_file(self, file: Path) -> bool:
        """Read one file with `add`; False if it cannot be read at all."""
        raise NotImplementedError

    def add(self, line: int, label: int, box: list[float], *, crowd: bool = False) -> None:
        """One object of the file that is being read; `box` in the unit of the format."""
        self.image_index.append(len(self.paths))
        self.labels.append(label)
        self.boxes.append(box)
        self.crowd.append(crowd)
        self.lines.append(line)

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
        )
        known = [None if isinstance(size, str) else size for size in sizes]
        table = ImageTable(self.paths, range(1, len(self.paths) + 1), known)
        return to_labelled_images(table, rows, names, category_ids or range(1, len(names) + 1), self.problems)


def label_folder(images: Path, root: Path, name: str) -> Path | None:
    """The folder `name` (labels or Annotations) that belongs to a folder of images, if there is one.

    Looked for in this order: instead of the last 'images' in the path; beside the folder (with its name below, then
    without); in it; in `root`.
    """
    parts = images.parts
    candidates = []
    for position in reversed(range(len(parts))):
        if parts[position] in IMAGE_FOLDERS:
            candidates.append(Path(*parts[:position], name, *parts[position + 1 :]))
            break
    candidates += [images.parent / name / images.name, images.parent / name, images / name]
    if images.is_relative_to(root):
        candidates.append(root / name / images.relative_to(root))
    candidates.append(root / name)
    return next((folder for folder in candidates if folder.is_dir()), None)


def find_labels(
    images: Sequence[Path], root: Path, folders: Folders, *, name: str, suffix: str
) -> dict[Path, Path] | None:
    """For each folder of images the folder with their label files, or None if there are none at all.

    Label files right beside the images (darknet's other habit) count where no folder `name` exists.
    """
    parents = dict.fromkeys(image.parent for image in images)
    label_folders = {parent: label_folder(parent, root, name) for parent in parents}
    if any(label_folders.values()):
        return {parent: folder or parent for parent, folder in label_folders.items()}
    if any(image.stem + suffix in folders.names(image.parent) for image in images):
        return {parent: parent for parent in parents}
    return None


def report_unlabelled(
    unlabelled: Sequence[Path], images: Sequence[Path], labels: Mapping[Path, Path], problems: Problems
) -> None:
    """Report once how many images have no label file and count as background.

    Raises:
        ConfigError: no image has one, which is a wrong path and not a data set of background.
    """
    if not unlabelled:
        return
    first, folder = unlabelled[0], labels[unlabelled[0].parent]
    if len(unlabelled) == len(images):
        raise ConfigError(f"{folder}: no label file for any of the {len(images)} images (the first: {first})")
    count = f"{len(unlabelled)} of {len(images)} images have no label file"
    problems.add(folder, f"{count} (the first: {first.name})", BACKGROUND)


def report_orphans(labels: Mapping[Path, Path], folders: Folders, problems: Problems, *, suffix: str) -> None:
    """Report label files that belong to no image on disk (folders of labels only, not files beside images)."""
    images: dict[Path, set[str]] = {}
    for parent, folder in labels.items():
        names = folders.names(parent)
        if parent != folder:
            stems = {Path(name).stem for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES}
            images.setdefault(folder, set()).update(stems)
    not_labels = ("classes.txt", "labels.txt")  # written by labelling tools beside their rows
    for folder, stems in images.items():
        labels_here = (name for name in folders.names(folder) if name.endswith(suffix) and name not in not_labels)
        for name in sorted(name for name in labels_here if Path(name).stem not in stems):
            problems.add(folder / name, "a label file without an image")
