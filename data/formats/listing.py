"""The images of a split without a JSON file: those of a folder, or of a list."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path

from data.formats.rows import Problems
from data.images import IMAGE_SUFFIXES
from utils.config import ConfigError
from utils.files import NOT_REGULAR, read_regular

IMAGE_FOLDERS = ("images", "JPEGImages")
"""Folder names that stand where `labels` or `Annotations` stand for the labels."""


NO_IMAGES = (".txt", ".xml", ".json")
"""Suffixes of label files, which may lie beside images."""


class Folders:
    """Listings of folders, each read once: a million `exists()` calls on a network disk take minutes."""

    def __init__(self) -> None:
        self._names: dict[str, frozenset[str]] = {}
        self._odd: set[str] = set()
        self._stems: dict[str, dict[str, list[str]]] = {}
        self._by_composed: dict[str, dict[str, list[str]]] = {}

    def names(self, folder: Path) -> frozenset[str]:
        """Names of the files in `folder`; none when there is no such folder."""
        key = str(folder)
        if key not in self._names:
            try:
                with os.scandir(folder) as entries:
                    files = [entry for entry in entries if not entry.is_dir()]
                    self._names[key] = frozenset(entry.name for entry in files)
                    self._odd.update(entry.path for entry in files if not entry.is_file())
            except (OSError, ValueError):  # ValueError: a name that no system can hold
                self._names[key] = frozenset()
        return self._names[key]

    def stems(self, folder: Path) -> Mapping[str, list[str]]:
        """The files in `folder` by their names without suffix, each list sorted."""
        key = str(folder)
        if key not in self._stems:
            stems: dict[str, list[str]] = {}
            for name in sorted(self.names(folder)):
                stems.setdefault(os.path.splitext(name)[0], []).append(name)
            self._stems[key] = stems
        return self._stems[key]

    def images(self, folder: Path, stem: str) -> list[str]:
        """The images in `folder` whose name without suffix is `stem`; files of another kind where there are none."""
        names = self.stems(folder).get(stem, [])
        return [name for name in names if is_image(name)] or [name for name in names if not name.endswith(NO_IMAGES)]

    def match(self, folder: Path, name: str) -> str | None:
        """The file `name` in `folder`, or the only one whose suffix has other letters (a.TXT for a.txt) or whose
        accents are written in another way: macOS keeps e and accent apart where other systems have one character.
        """
        if name in self.names(folder):
            return name
        others = [
            other for other in self.stems(folder).get(os.path.splitext(name)[0], ()) if other.lower() == name.lower()
        ]
        if not others and not name.isascii():
            others = self._composed_names(folder).get(_composed(name), [])
        return others[0] if len(others) == 1 else None

    def _composed_names(self, folder: Path) -> Mapping[str, list[str]]:
        """The files in `folder` by their names with one character for each letter."""
        key = str(folder)
        if key not in self._by_composed:
            names: dict[str, list[str]] = {}
            for name in sorted(self.names(folder)):
                if not name.isascii():
                    names.setdefault(_composed(name), []).append(name)
            self._by_composed[key] = names
        return self._by_composed[key]

    def holds(self, folder: Path, suffix: str) -> bool:
        """Whether any file in `folder` has the suffix, in any letters."""
        return any(name.lower().endswith(suffix) for name in self.names(folder))

    def find(self, path: Path) -> Path | None:
        """The file, or the only one whose suffix has other letters; None if there is none."""
        name = self.match(path.parent, path.name)
        return path if name == path.name else None if name is None else path.with_name(name)

    def has(self, path: Path) -> bool:
        """Whether the file exists."""
        return path.name in self.names(path.parent)

    def why_unusable(self, path: Path) -> str | None:
        """What is wrong with a file of a listed folder that nobody has opened yet: no regular file."""
        if str(path) not in self._odd:
            return None
        return f"{NOT_REGULAR}: {path}" if path.exists() else f"a link to nothing: {path}"


def _composed(name: str) -> str:
    """A name in Unicode's form NFC."""
    return unicodedata.normalize("NFC", name)


def tails(name: str) -> list[str]:
    """A path without its first part, without its first two, ..., down to the plain name."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return ["/".join(parts[start:]) for start in range(len(parts))]


def is_image(name: str) -> bool:
    """Whether a file counts as an image by the suffix of its name, in any letter case."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def list_images(target: Path, root: Path, folders: Folders, problems: Problems) -> list[Path]:
    """The images of a folder (with its subfolders, sorted) or of a .txt list, in its order.

    A line of a list is a path (absolute, relative to `root`, or from './' relative to the list) or, as in VOC's
    ImageSets, a bare name whose image is in JPEGImages/ or images/.

    Raises:
        ConfigError: nothing of that name, or no image in it.
    """
    if target.is_dir():
        images = [Path(path) for path in _files_below(target)]
        images = [path for path in images if is_image(path.name) and not path.name.startswith(".")]
        if not images:
            kinds = ", ".join(sorted(IMAGE_SUFFIXES))
            raise ConfigError(f"{target}: no image in this folder; expected files with one of {kinds}")
        return sorted(images, key=lambda path: path.as_posix())
    return _read_list(target, root, folders, problems)


def _files_below(target: Path) -> Iterator[str]:
    """All files in a folder and those in it, linked ones too, but for links that lead back up: that never ends."""
    rest: list[tuple[str, frozenset[tuple[int, int]]]] = [(str(target), frozenset())]
    while rest:
        folder, above = rest.pop()
        try:
            about = os.stat(folder)
            with os.scandir(folder) as entries:
                inside = [(entry.path, entry.is_dir()) for entry in entries]
        except OSError:  # its images are in no listing then, as with os.walk
            continue
        own = (about.st_dev, about.st_ino)
        if own in above:
            continue
        yield from (path for path, is_folder in inside if not is_folder)
        rest += [(path, above | {own}) for path, is_folder in inside if is_folder]


def _read_list(target: Path, root: Path, folders: Folders, problems: Problems) -> list[Path]:
    try:
        lines = re.split(r"\r\n|\r|\n", read_regular(target).decode("utf-8-sig"))  # names may hold other line ends
    except OSError as error:
        raise ConfigError(f"{target}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{target}: not UTF-8 text (byte {error.start}); save the list as UTF-8") from None
    images: dict[Path, int] = {}
    missing: list[str] = []
    for number, line in enumerate(lines, start=1):
        line = line.strip().replace("\\", "/")
        if not line:
            continue
        found = _find(line, target, root, folders)
        if not found:
            missing.append(_looked_for(line, target, root))
            problems.add(f"{target}:{number}", f"no such image: {missing[-1]}")
        for path in found:
            if path in images:
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


def _find(line: str, target: Path, root: Path, folders: Folders) -> list[Path]:
    """The image of one line: a path; else a name whose image is in a folder of images, whatever its suffix.

    Several images have one name without suffix: all of them, and their labels must say which one is meant.
    """
    for path in _paths(line, target, root):
        if is_image(path.name) and (found := folders.find(path)):
            return [found]
    for name in dict.fromkeys((line, _bare_name(line))):
        for base in dict.fromkeys((root, target.parent, *target.parent.parents[:2])):
            for path in (base / folder / name for folder in IMAGE_FOLDERS):
                images = folders.images(path.parent, path.name) or [path.name] * folders.has(path)
                if images:
                    return [path.with_name(image) for image in images]
    return [path for path in _paths(line, target, root) if folders.has(path)][:1] or _find_moved(
        line, target, root, folders
    )


def _find_moved(line: str, target: Path, root: Path, folders: Folders) -> list[Path]:
    """The image of a path that was written on another machine, or in another folder: its last parts, here."""
    if not is_image(line):
        return []
    places = (base / tail for tail in tails(line) for base in dict.fromkeys((target.parent, root)))
    return [found for path in places if (found := folders.find(path))][:1]


def _paths(line: str, target: Path, root: Path) -> list[Path]:
    """Where a line that is a path may lead, most likely first."""
    bases = (target.parent, root) if line.startswith("./") else (root, target.parent)
    return list(dict.fromkeys(Path(os.path.normpath(base / line)) for base in bases))


def _bare_name(line: str) -> str:
    """The name on a line of VOC's ImageSets; in lists of one class, -1, 0 or 1 follows it."""
    name, _, flag = line.rpartition(" ")
    return name.strip() if flag in ("-1", "0", "1") and name.strip() else line


def _looked_for(line: str, target: Path, root: Path) -> str:
    if is_image(line):
        return " or ".join(map(str, _paths(line, target, root)))
    return f"{root}/{IMAGE_FOLDERS[1]}/{_bare_name(line)}.jpg (or in {IMAGE_FOLDERS[0]}/, or of another kind)"
