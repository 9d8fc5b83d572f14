"""The image files that one label file for many images names: JSON and XML of tools that moved or renamed them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from data.formats.listing import IMAGE_FOLDERS, Folders, tails
from data.formats.rows import MATCHED, Problems
from utils.config import ConfigError


@dataclass(frozen=True, eq=False)
class FoundImages:
    """The files of the images that a label file names.

    Args:
        files: the file of each, None where there is none.
        looked_for: where each was looked for first.
        folders: the listings of their folders.
    """

    files: list[Path | None]
    looked_for: list[Path]
    folders: Folders


def find_images(names: Sequence[str], file: Path, root: Path, folder: Path | None, problems: Problems) -> FoundImages:
    """The image files of the names in a label file.

    A name is a path relative to the folder of images. Where there is no such file, its last parts count: labelling
    servers write paths of their own ('/data/upload/1/a.jpg', 'http://host/a.jpg', '?d=a.jpg') and export the images
    under their plain names.

    Args:
        file: the label file.
        root: where folders of images are looked for if `folder` is None.
        folder: what the names are relative to.
    Raises:
        ConfigError: none of the images is found.
    """
    folders = Folders()
    names = [_plain(name, (folder or file.parent, root), folders) for name in names]
    guesses = _image_folders(file, root)
    counts = [sum(folders.find(guess / name) is not None for name in names[:20]) for guess in guesses]
    guess = guesses[counts.index(max(counts))] if any(counts) else None
    bases = [folder] if folder else [guess] if guess else guesses
    paths = [bases[0] / name for name in names]
    files = [folders.find(path) for path in paths]
    moved = []
    for index, name in enumerate(names):
        if files[index] is None:
            files[index] = _find_moved(name, bases, folders)
            moved += [name] if files[index] else []
    if not any(files):
        if folder is None:
            tried = ", ".join(map(str, guesses))
            raise ConfigError(f"{file}: its images (the first: {names[0]}) are in none of {tried}; set 'images'")
        hint = f"; they are in {guess}: set 'images' to it" if guess else "; check 'images' and 'path'"
        raise ConfigError(f"{file}: none of its {len(names)} images exists, the first would be {paths[0]}{hint}")
    if moved:
        what = f"{len(moved)} images lie elsewhere than the file says (the first: {moved[0]})"
        problems.add(file, what, MATCHED)
    return FoundImages(files, paths, folders)


def _plain(name: str, bases: Sequence[Path], folders: Folders) -> str:
    """A name with '/' between its parts, as Windows writes '\\'; elsewhere a file may have '\\' in its name."""
    if "\\" not in name:
        return name
    places = [base / part for base in bases for part in (*IMAGE_FOLDERS, "")]
    return name if any(folders.find(place / name) for place in places) else name.replace("\\", "/")


def _find_moved(name: str, bases: Sequence[Path], folders: Folders) -> Path | None:
    """The file that has the last parts of a name, as many as possible."""
    plain = name.partition("?d=")[2] or name
    if "://" in plain:
        plain = plain.partition("://")[2].partition("?")[0].partition("/")[2]
    for written in dict.fromkeys((plain, _unquoted(plain))):
        for tail in tails(written):
            for base in bases:
                if found := folders.find(base / tail):
                    return found
    return None


def _unquoted(name: str) -> str:
    """A name of an address with its %20 and the like as characters."""
    if "%" not in name:
        return name
    data = re.sub(
        rb"%([0-9A-Fa-f]{2})", lambda match: bytes([int(match[1], 16)]), name.encode("utf-8", "surrogatepass")
    )
    return data.decode("utf-8", "replace")


def _image_folders(file: Path, root: Path) -> list[Path]:
    """Where the images of a label file usually are: images/, or a folder called as instances_train2017 after the _."""
    split = file.stem.rpartition("_")[2]
    bases = dict.fromkeys((root, file.parent, file.parent.parent))
    inner = [PurePosixPath(folder, name) for name in (split, "") for folder in (*IMAGE_FOLDERS, "")]
    return list(dict.fromkeys(base / folder for base in bases for folder in inner))
