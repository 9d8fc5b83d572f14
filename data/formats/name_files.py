"""Class names in files of their own: classes.txt of labelling tools, darknet's .names, notes.json of Label Studio."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from data.formats.label_places import LabelPlaces
from utils.files import read_regular
from utils.text import from_json

PLAIN = ("classes.txt", "obj.names", "data.names", "_darknet.labels", "predefined_classes.txt", "labels.txt")
"""Names of files with a class a line, most likely first."""


def names_in(file: Path) -> list[str] | None:
    """The class names in a file: a name a line, or the categories of Label Studio's notes.json; None if it has none."""
    try:
        text = read_regular(file).decode("utf-8-sig")
        if file.suffix.lower() == ".json":
            entries = sorted(from_json(text)["categories"], key=lambda entry: entry["id"])
            return [str(entry["name"]) for entry in entries] or None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return [line.strip() for line in text.splitlines() if line.strip()] or None


def names_of(form: ModuleType, places: LabelPlaces, root: Path, count: int | None) -> list[str] | None:
    """Class names where the data YAML has none: numbers for YOLO labels of `count` classes, or those of classes.txt."""
    if form.__name__.rpartition(".")[2] != "yolo":
        return None
    if count is not None:
        return [str(index) for index in range(count)]
    found = find_names_file([*places.folders, root])
    return None if found is None else names_in(found)


def find_names_file(folders: Sequence[Path]) -> Path | None:
    """The first file with class names in the folders."""
    for folder in folders:
        others = sorted(folder.glob("*.names"))
        for file in (*(folder / name for name in PLAIN), folder / "notes.json", *others):
            if file.is_file() and names_in(file):
                return file
    return None
