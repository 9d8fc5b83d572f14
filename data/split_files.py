"""The files of a new split: lists of images, or COCO JSON, and the data YAML; the pictures stay where they are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from data.coco_merge import Merged
from data.config import DataConfig
from data.formats import coco
from data.formats.holdable import check_names
from data.read import label_format
from utils.config import dump_yaml
from utils.files import common_folder, write_atomically
from utils.structures import LabelledImages

ONE_FILE = ("coco", "cvat")
"""Formats with one file for all images, whose splits are written as COCO JSON."""

KEPT_KEYS = ("labels", "unreadable", "kpt_shape", "voc_first_pixel", "category_ids")
"""Keys of the source that its labels need in the new data YAML too, where they are not the default."""


def write_splits(
    config: DataConfig, parts: Mapping[str, LabelledImages], splits: Mapping[str, np.ndarray], folder: Path
) -> Path:
    """Write the files of each split and a data YAML into a folder; returns the YAML.

    Args:
        config: the source.
        parts: its splits, with one set of classes.
        splits: split -> the positions of its images, in those of all parts one after another.
    Raises:
        ConfigError: a list cannot hold the name of an image.
    """
    given = next(iter(parts))
    as_json = next(iter(parts.values())).task == "detect" and label_format(config, given) in ONE_FILE
    write = _write_json if as_json else _write_lists
    values = write(config, parts, splits, folder)
    values |= {"tiling": asdict(config.tiling)} if config.tiling else {}
    file = folder / "data.yaml"
    text = f"# {', '.join(splits)} of {config.source}, by python -m data.split\n"
    write_atomically(file, text + dump_yaml(values, lines=True))
    return file


def _write_lists(
    config: DataConfig, parts: Mapping[str, LabelledImages], splits: Mapping[str, np.ndarray], folder: Path
) -> dict[str, Any]:
    """A list of images for each split; the labels are found as those of the source are."""
    paths = [path for data in parts.values() for path in data.samples.paths()]
    lines = [_line(path, config.path) for path in paths]
    first = next(iter(parts.values()))
    check_names("yolo", lines, first.names)
    folder.mkdir(parents=True, exist_ok=True)
    values: dict[str, Any] = {"path": _seen_from(config.path, folder)}
    for split, positions in splits.items():
        target = folder / f"{split}.txt"
        target.write_text("".join(f"{lines[index]}\n" for index in positions.tolist()), encoding="utf-8")
        values[split] = _seen_from(target, config.path)
    if config.labels_dir is not None:
        values["labels_dir"] = _seen_from(config.labels_dir, config.path)
    for key in KEPT_KEYS:
        value = getattr(config, key)
        if value != DataConfig.__dataclass_fields__[key].default:
            values[key] = list(value) if isinstance(value, tuple) else value
    names = list(first.names)
    return {**values, "names": names if config.folders is None else dict(zip(config.folders, names, strict=True))}


def _write_json(
    config: DataConfig, parts: Mapping[str, LabelledImages], splits: Mapping[str, np.ndarray], folder: Path
) -> dict[str, Any]:
    """A COCO JSON file for each split, with all that the source says of its images."""
    paths = [path for data in parts.values() for path in data.samples.paths()]
    folders = {os.path.dirname(path) for path in paths}
    images = common_folder(map(Path, folders)) or paths[0].parent  # of two drives: absolute names
    merged = Merged.of(list(parts.values()))
    folder.mkdir(parents=True, exist_ok=True)
    values: dict[str, Any] = {}
    for split, positions in splits.items():
        names = (_line(paths[index], images) for index in positions.tolist())
        lists = {"images": merged.images(positions, names), "annotations": merged.annotations(positions)}
        coco.write_content({**merged.common, **lists}, folder / f"{split}.json")
        values[split] = f"{split}.json"
    names_of = {} if config.names is None else {"names": list(config.names)}
    labels = {"labels": config.labels} if config.labels != "warn" else {}
    return {**values, "images": _seen_from(images, folder), **labels, "unreadable": config.unreadable, **names_of}


def _line(path: Path, root: Path) -> str:
    """A path for a list: relative to `root` if it is in there."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _seen_from(path: Path, folder: Path) -> str:
    """A path relative to a folder, so that both can be moved together; absolute on another disk."""
    try:
        return Path(os.path.relpath(path, folder.resolve())).as_posix()
    except ValueError:
        return path.as_posix()
