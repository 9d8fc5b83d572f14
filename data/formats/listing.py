"""Which images a split has when no JSON names them, and where the labels of an image are looked for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from data.formats.rows import BACKGROUND, Problems
from data.images import IMAGE_SUFFIXES
from utils.config import ConfigError

IMAGE_FOLDERS = ("images", "JPEGImages")
"""Folder names that stand where `labels` or `Annotations` stand for the labels."""


class Folders:
    """Listings of folders, each read once: a million `exists()` calls on a network disk take minutes."""

    def __init__(self) -> None:
        self._names: dict[str, frozenset[str]] = {}

    def names(self, folder: Path) -> frozenset[str]:
        """Names of the files in `folder`; none when there is no such folder."""
        key = str(folder)
        if key not in self._names:
            try:
                with os.scandir(folder) as entries:
                    self._names[key] = frozenset(entry.name for entry in entries if not entry.is_dir())
            except OSError:
                self._names[key] = frozenset()
        return self._names[key]

    def has(self, path: Path) -> bool:
        """Whether the file exists."""
        return path.name in self.names(path.parent)


def list_images(target: Path, root: Path, folders: Folders, problems: Problems) -> list[Path]:
    """The images of a folder (with its subfolders, sorted) or of a .txt list, in its order.

    A line of a list is a path (absolute, relative to `root`, or from './' relative to the list) or, in the way of VOC's
    ImageSets, a bare name whose image is in JPEGImages/ or images/.

    Raises:
        ConfigError: nothing of that name, or no image in it.
    """
    if target.is_dir():
        images = [
            Path(folder, name)
            for folder, _, names in os.walk(target, followlinks=True)
            for name in names
            if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")
        ]
        if not images:
            kinds = ", ".join(sorted(IMAGE_SUFFIXES))
            raise ConfigError(f"{target}: no image in this folder; expected files with one of {kinds}")
        return sorted(images, key=lambda path: path.as_posix())
    return _read_list(target, root, folders, problems)


def _read_list(target: Path, root: Path, folders: Folders, problems: Problems) -> list[Path]:
    try:
        lines = target.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{target}: not UTF-8 text (byte {error.start}); save the list as UTF-8") from None
    images: dict[Path, int] = {}
    missing: list[str] = []
    for number, line in enumerate(lines, start=1):
        line = line.strip().replace("\\", "/")
        if not line:
            continue
        candidates = _candidates(line, target, root)
        path = next((path for path in candidates if folders.has(path)), None)
        if path is None:
            missing.append(_looked_for(line, target, root))
            problems.add(f"{target}:{number}", f"no such image: {missing[-1]}")
        elif path in images:
            problems.add(f"{target}:{number}", f"{path.name} is on line {images[path]} already")
        else:
            images[path] = number
    if not images and missing:
        raise ConfigError(
            f"{target}: none of its {len(missing)} images exists. Looked for the first as {missing[0]}; "
            "check the paths in the list and 'path' in the data YAML"
        )
    if not images:
        raise ConfigError(f"{target}: the list is empty; expected one image path a line")
    return list(images)


def _is_path(line: str) -> bool:
    return Path(line).suffix.lower() in IMAGE_SUFFIXES


def _candidates(line: str, target: Path, root: Path) -> Iterator[Path]:
    """Where the image of one line may be, most likely first."""
    if not _is_path(line):
        name = _bare_name(line)
        for base in dict.fromkeys((root, target.parent, *target.parent.parents[:2])):
            yield from (base / folder / (name + suffix) for folder in IMAGE_FOLDERS for suffix in IMAGE_SUFFIXES)
    for base in (target.parent, root) if line.startswith("./") else (root, target.parent):
        yield Path(os.path.normpath(base / line))


def _bare_name(line: str) -> str:
    """The name on a line of VOC's ImageSets; lists of one class have -1, 0 or 1 behind it."""
    name, _, flag = line.rpartition(" ")
    return name.strip() if flag in ("-1", "0", "1") and name.strip() else line


def _looked_for(line: str, target: Path, root: Path) -> str:
    if _is_path(line):
        return " or ".join(map(str, dict.fromkeys(_candidates(line, target, root))))
    return f"{root}/{IMAGE_FOLDERS[1]}/{_bare_name(line)}.jpg (or in {IMAGE_FOLDERS[0]}/, or of another kind)"


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
    """For each folder of images the folder with their label files, or None when there is none anywhere.

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
    """Say once how many images have no label file and count as background.

    Raises:
        ConfigError: no image has one; that is a wrong path, not a data set of background.
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
    not_labels = ("classes.txt", "labels.txt")  # which labelling tools leave beside their rows
    for folder, stems in images.items():
        labels_here = (name for name in folders.names(folder) if name.endswith(suffix) and name not in not_labels)
        for name in sorted(name for name in labels_here if Path(name).stem not in stems):
            problems.add(folder / name, "a label file without an image")
