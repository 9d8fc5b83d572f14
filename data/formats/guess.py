"""What a folder without a data YAML holds: the keys that it would have, from the usual places of each tool."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.formats import cvat, labelme, voc, yolo
from data.formats.label_places import LabelPlaces, find_labels
from data.formats.listing import Folders, is_image, list_images, tails
from data.formats.name_files import find_names_file, names_in
from data.formats.rows import Problems
from utils.config import ConfigError, load_yaml
from utils.files import read_regular
from utils.text import listed, shorten

SPLIT_NAMES = {
    "train": ("train", "training", "train2017", "trainval"),
    "val": ("val", "valid", "validation", "dev", "val2017", "eval"),
    "test": ("test", "testing", "test2017"),
}
"""How folders and files of each split are called, most likely first."""

IMAGE_FOLDERS = ("images", "JPEGImages", "img", "imgs", "obj_train_data", "")
LABEL_FOLDERS = ("annots", "annotations", "Annotations", "labels", "xmls", "xml", "anns", "json")
"""Folders of labels beside a folder of images; only those that no convention finds are named in the data YAML."""

SAMPLE = 200
"""Images of a split whose labels are looked for, to know their format."""

DEEPEST = 3
"""Folders that hold nothing but one other folder, as archives are unpacked, are looked through to this depth."""


@dataclass
class Guess:
    """What was found.

    Args:
        root: the folder that the paths are relative to.
        kind: whose form it is, for the user.
        values: keys and values of a data YAML.
    """

    root: Path
    kind: str
    values: dict[str, Any] = field(default_factory=dict)


def guess(folder: Path) -> Guess:
    """What a folder holds.

    Raises:
        ConfigError: nothing that looks like a data set; names what was looked for.
    """
    for root in _roots(folder):
        for look in (_darknet, _coco, _cvat, _voc, _images, _classes):
            if (found := look(root)) is not None:
                return found
    images = sum(is_image(name) for _, _, names in os.walk(folder) for name in names)
    raise ConfigError(
        f"{folder}: a folder with {images} images in which no data set is recognised. Looked for a data YAML, "
        "darknet's .data, COCO JSON, CVAT's annotations.xml, PASCAL VOC's tree, and images with labels of YOLO, VOC or "
        "labelme in train/, val/, images/ or beside them. Write a data YAML (train, val, names), or name another folder"
    )


def data_yamls(folder: Path) -> list[Path]:
    """The data YAMLs of a folder: YAML files that name a split, data.yaml first."""
    files = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")], key=lambda file: (file.stem != "data", file.name))
    return [file for file in files if _names_splits(file)]


def _names_splits(file: Path) -> bool:
    try:
        return bool(SPLIT_NAMES.keys() & load_yaml(file).keys())
    except ConfigError:  # another program's
        return False


def read_darknet_data(file: Path) -> Guess:
    """What darknet's .data file says: lists of images, and the file of names.

    Paths in it are relative to where darknet is started; here their last parts are looked for beside the file.

    Raises:
        ConfigError: neither train nor valid is named, or a file that it names is not there.
    """
    given = dict(re.findall(r"^\s*(\w+)\s*=\s*(.*?)\s*$", _text(file), re.MULTILINE))
    values: dict[str, Any] = {}
    for key, split in (("train", "train"), ("valid", "val"), ("test", "test")):
        target = _beside(file, given[key]) if given.get(key) else None
        if target is not None:
            values[split] = _inside(target, file.parent)
        elif given.get(key) and key != "valid":  # CVAT names a list that it does not write
            raise ConfigError(f"{file}: {key}: no such file: {shorten(given[key], 200)}, nor its last parts beside")
    if not values:
        raise ConfigError(f"{file}: expected 'train = LIST' or 'valid = LIST', found {listed(given) or 'nothing'}")
    names = _beside(file, given["names"]) if given.get("names") else find_names_file([file.parent])
    listed_names = names_in(names) if names else None
    if listed_names:
        values["names"] = listed_names
    elif given.get("classes", "").isdigit():
        values["nc"] = int(given["classes"])
    return Guess(file.parent, f"darknet's {file.name}", values)


def _roots(folder: Path) -> Iterator[Path]:
    """The folder, and the one in it where it holds nothing else."""
    yield folder
    for _ in range(DEEPEST):
        inner = [each for each in folder.iterdir() if not each.name.startswith((".", "__"))]
        if len(inner) != 1 or not inner[0].is_dir():
            return
        folder = inner[0]
        yield folder


def _darknet(root: Path) -> Guess | None:
    files = sorted(root.glob("*.data"))
    return read_darknet_data(files[0]) if len(files) == 1 else None


def _coco(root: Path) -> Guess | None:
    """COCO JSON files in the folder, in annotations/, or one in the folder of each split."""
    files = [file for folder in (root, root / "annotations") for file in sorted(folder.glob("*.json"))]
    splits = {split: root / name for split, name in _split_folders(root)}
    files += [file for folder in splits.values() for file in sorted(folder.glob("*.json"))[:3]]
    files = [file for file in files if _is_coco(file)]
    values: dict[str, Any] = {}
    unnamed = []
    for file in files:
        split = next((split for split, folder in splits.items() if file.parent == folder), _split_in(file.stem))
        if split is None:
            unnamed.append(file)
        elif split not in values or len(file.name) < len(Path(values[split]).name):  # instances_, not person_keypoints_
            values[split] = _inside(file, root)
    if unnamed and not values:
        if len(unnamed) > 1:
            raise ConfigError(
                f"{root}: {len(unnamed)} COCO JSON files, {listed(file.name for file in unnamed[:5])}: which is train? "
                "Write a data YAML with train and val"
            )
        values["train"] = _inside(unnamed[0], root)
    others = [_inside(file, root) for file in files if _inside(file, root) not in values.values()]
    kind = "COCO JSON" + (f" (not used: {listed(others, 200)})" if others else "")
    return Guess(root, kind, values) if values else None


def _cvat(root: Path) -> Guess | None:
    file = root / "annotations.xml"
    if not file.is_file() or not cvat.is_cvat(file):
        return None
    return Guess(root, "CVAT for images", dict.fromkeys(cvat.subsets(file), file.name))


def _voc(root: Path) -> Guess | None:
    """PASCAL VOC's tree with its lists of images."""
    sets = root / "ImageSets" / "Main"
    if not (root / "JPEGImages").is_dir() or not sets.is_dir():
        return None
    values: dict[str, Any] = {}
    for split, names in SPLIT_NAMES.items():
        file = next((sets / f"{name}.txt" for name in names if (sets / f"{name}.txt").is_file()), None)
        if file is not None and _text(file).strip():
            values[split] = _inside(file, root)
    return _with_labels(Guess(root, "PASCAL VOC", values)) if values else None


def _images(root: Path) -> Guess | None:
    """Images with a label file each: in folders of splits, in lists, or all in one folder."""
    values: dict[str, Any] = {}
    for split, name in _split_folders(root):
        inner = next(name_in for name_in in IMAGE_FOLDERS if _has_images(root / name / name_in))
        values[split] = _inside(root / name / inner, root)
    if not values:
        for split, names in SPLIT_NAMES.items():
            if file := next((root / f"{name}.txt" for name in names if (root / f"{name}.txt").is_file()), None):
                values[split] = file.name
    if not values:
        folder = next((name for name in IMAGE_FOLDERS if _has_images(root / name)), None)
        if folder is None:
            return None
        values["train"] = folder or "."
    return _with_labels(Guess(root, "", values))


def _classes(root: Path) -> Guess | None:
    """A classifier's folders: a folder of images for each class, in the folder of each split."""
    values: dict[str, Any] = {}
    for split, names in SPLIT_NAMES.items():
        for name in names:
            inner = [each for each in (root / name).glob("*/") if _has_images(each)]
            if split not in values and len(inner) > 1:
                values[split] = name
    return Guess(root, "class folders", values) if values else None


def _with_labels(found: Guess) -> Guess | None:
    """`found` with format, class names and, where it is needed, labels_dir; None where no image has labels."""
    folders = Folders()
    root, first = found.root, found.root / next(iter(found.values.values()))
    images = list_images(first, root, folders, Problems())
    looked = images[:: max(len(images) // SAMPLE, 1)]
    for labels_dir in (
        None,
        *(root / name for name in LABEL_FOLDERS),
        *(first.parent / name for name in LABEL_FOLDERS),
    ):
        for form in (yolo, voc, labelme):
            if labels_dir is not None and not labels_dir.is_dir():
                continue
            places = find_labels(looked, root, form, folders, Problems(), labels_dir=labels_dir)
            if not places.files or not _are(form, places):
                continue
            if labels_dir is not None:
                found.values["labels_dir"] = _inside(labels_dir, root)
            kind = {yolo: "YOLO labels", voc: "VOC XML files", labelme: "labelme's JSON files"}[form]
            found.kind = f"{found.kind}, {kind}" if found.kind else kind
            _add_names(found, form, find_labels(images, root, form, folders, Problems(), labels_dir=labels_dir))
            return found
    return None


def _are(form: Any, places: LabelPlaces) -> bool:
    """Whether the files found are of the format: text and JSON files beside images may be anything."""
    files = list(places.files.values())[:5]
    if form is yolo:
        rows = [line for file in files for line in _text(file)[:2000].split("\n")[:20] if line.strip()]
        return not rows or re.search(r"(\s[0-9.,e-]+){4,}\s*$", rows[0]) is not None
    return any(map(form.recognises, files)) if hasattr(form, "recognises") else True


def _add_names(found: Guess, form: Any, places: LabelPlaces) -> None:
    """Class names: from the labels, from a file of names, or numbers."""
    if form is not yolo:
        found.values["names"] = form.find_names(places)
        return
    beside = {file.parent: None for file in places.files.values()}
    file = find_names_file([found.root, *beside, *{folder.parent: None for folder in beside}])
    names = names_in(file) if file else None
    if file and names:
        found.kind += f", names from {_inside(file, found.root)}"
        found.values["names"] = names
    else:
        found.kind += ", no file of class names, so the classes are called by their numbers"
        found.values["nc"] = yolo.count_classes(list(places.files.values()))


def _split_folders(root: Path) -> Iterator[tuple[str, str]]:
    """Each split with its folder of images: train/, images/train/, or train/images/ as those who look in it find."""
    for split, names in SPLIT_NAMES.items():
        candidates = [f"{above}{name}" for name in names for above in ("", "images/")]
        for name in candidates:
            if any(_has_images(root / name / inner) for inner in IMAGE_FOLDERS):
                yield split, name
                break


def _split_in(stem: str) -> str | None:
    """The split that the name of a file is for, where it says so."""
    words = re.split(r"[^a-z0-9]+", stem.lower())
    return next((split for split, names in SPLIT_NAMES.items() if set(names) & set(words)), None)


def _has_images(folder: Path) -> bool:
    """Whether an image lies right in a folder; the first thousand files are looked at."""
    try:
        with os.scandir(folder) as entries:
            return any(is_image(entry.name) for entry, _ in zip(entries, range(1000), strict=False))
    except OSError:
        return False


def _is_coco(file: Path) -> bool:
    """Whether a JSON file has the lists of COCO, by its beginning: some are larger than memory."""
    try:
        with open(file, "rb") as opened:
            head = opened.read(1_000_000)
    except OSError:
        return False
    return re.search(rb'"(images|annotations)"\s*:\s*\[', head) is not None and b'"shapes"' not in head


def _beside(file: Path, name: str) -> Path | None:
    """What a path leads to that was written elsewhere: as written, or its last parts beside the file that names it."""
    candidates = [Path(name), *(file.parent / tail for tail in tails(name))]
    return next((path for path in candidates if path.is_file()), None)


def _inside(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _text(file: Path) -> str:
    try:
        return read_regular(file).decode("utf-8-sig", errors="replace")
    except OSError:
        return ""
