"""The images of a split without a JSON file: those of a folder, or of a list."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from data.formats.rows import Problems
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
            except (OSError, ValueError):  # ValueError: a name that no system can hold
                self._names[key] = frozenset()
        return self._names[key]

    def has(self, path: Path) -> bool:
        """Whether the file exists."""
        return path.name in self.names(path.parent)


def list_images(target: Path, root: Path, folders: Folders, problems: Problems) -> list[Path]:
    """The images of a folder (with its subfolders, sorted) or of a .txt list, in its order.

    A line of a list is a path (absolute, relative to `root`, or from './' relative to the list) or, as in VOC's
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
    """The name on a line of VOC's ImageSets; in lists of one class, -1, 0 or 1 follows it."""
    name, _, flag = line.rpartition(" ")
    return name.strip() if flag in ("-1", "0", "1") and name.strip() else line


def _looked_for(line: str, target: Path, root: Path) -> str:
    if _is_path(line):
        return " or ".join(map(str, dict.fromkeys(_candidates(line, target, root))))
    return f"{root}/{IMAGE_FOLDERS[1]}/{_bare_name(line)}.jpg (or in {IMAGE_FOLDERS[0]}/, or of another kind)"
