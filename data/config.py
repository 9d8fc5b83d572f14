"""The schema of a data YAML: where the images and labels of each split are, and the names of the classes."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from utils.config import ROOT, ConfigError, find_file, from_home, load_yaml
from utils.schema import to_dataclass
from utils.text import shorten, shown

SPLITS = ("train", "val", "test")
EMBEDDED = ("shapes", "shapes.yaml")
"""Names of the embedded data set."""


@dataclass(frozen=True)
class DataConfig:
    """A checked cfg/data/<dataset>.yaml; all paths are absolute.

    Args:
        source: the YAML file itself.
        path: the root that the other paths are relative to; the YAML's folder when left out.
        train, val, test: a COCO JSON file, a .txt list of images, or a folder of images, with labels/ or Annotations/
            beside. For a classifier a folder of class folders, or a .txt list of images in such folders.
        images: the folder that file_name in COCO JSON is relative to.
        names: class names by class index; None takes them from the COCO JSON, or from the class folders, sorted. For a
            classifier also a map of folder to name, {n01440764: tench, ...}.
        folders: of a classifier's classes, in the order of names, where they have other names; the map's keys.
        nc: the number of classes, checked against names.
        labels: how bad labels are handled: 'warn' corrects or drops and reports them, 'error' stops.
        unreadable: what a label that cannot be corrected leaves out: its 'object', the whole 'image' (which would else
            teach that the object is background), or all: 'run' stops.
        labels_dir: the folder of YOLO or VOC labels, where they are in none of the usual places; its subfolders are
            those of the images, or it has none.
        kpt_shape: for YOLO rows with keypoints: their number, and 2 (x, y) or 3 (x, y, visibility) numbers for each;
            [0, 2] says that long rows are outlines. None decides by the rows.
        voc_first_pixel: 1 if VOC boxes count pixels from 1 (the VOC development kit), 0 if from 0.
        category_ids: the data set's own ids of the classes, ascending, for YOLO and VOC labels; 1, 2, ... if left out.
        download: how to get the data; shown to the user, never run.
    """

    source: Path
    path: Path
    train: Path | None = None
    val: Path | None = None
    test: Path | None = None
    images: Path | None = None
    names: tuple[str, ...] | None = None
    folders: tuple[str, ...] | None = None
    nc: int | None = None
    labels: Literal["warn", "error"] = "warn"
    unreadable: Literal["object", "image", "run"] = "image"
    labels_dir: Path | None = None
    kpt_shape: tuple[int, int] | None = None
    voc_first_pixel: Literal[0, 1] = 1
    category_ids: tuple[int, ...] | None = None
    download: str | None = None

    def __post_init__(self) -> None:
        if self.train is None and self.val is None and self.test is None:
            raise ConfigError(f"{self.source}: expected at least one of train, val and test, found none")
        if self.nc is not None and self.nc < 1:
            raise ConfigError(f"{self.source}: nc is {self.nc}, expected at least 1")
        if self.kpt_shape is not None and (self.kpt_shape[0] < 0 or self.kpt_shape[1] not in (2, 3)):
            raise ConfigError(
                f"{self.source}: kpt_shape is {list(self.kpt_shape)}; expected the number of keypoints and 2 or 3, as "
                "[17, 3]"
            )
        if self.names is not None and self.nc not in (None, len(self.names)):
            raise ConfigError(f"{self.source}: nc is {self.nc}, but there are {len(self.names)} names; leave nc out")
        if self.folders is not None and len(set(self.folders)) != len(self.names or ()):
            raise ConfigError(f"{self.source}: {len(self.folders)} folders for {len(self.names or ())} names")
        if self.category_ids is not None and list(self.category_ids) != sorted(set(self.category_ids)):
            raise ConfigError(f"{self.source}: category_ids must ascend, each id once")
        if self.category_ids is not None and self.names is not None and len(self.category_ids) != len(self.names):
            raise ConfigError(f"{self.source}: {len(self.category_ids)} category_ids for {len(self.names)} names")


def load_data_config(name: str | None = None) -> DataConfig:
    """The data YAML of a path, or of a bare name in cfg/data/; None and 'shapes' are the embedded data set.

    Raises:
        ConfigError: no such file, or a wrong key or value in it.
    """
    if name is None or name in EMBEDDED:
        from data.shapes import ensure_shapes  # only this data set needs the drawing code

        return read_data_config(ensure_shapes())
    try:
        source = find_file(str(name), [ROOT / "cfg" / "data"], kind="data set")
    except ConfigError as error:
        raise ConfigError(f"{error}, and the embedded set 'shapes'") from None
    return read_data_config(source)


def read_data_config(source: Path) -> DataConfig:
    """The data YAML in a file; see `load_data_config`."""
    source = source.parent.resolve() / source.name
    values = load_yaml(source)
    if "source" in values:
        raise ConfigError(f"{source}: source: unknown key; leave it out")
    root = _join(source, source.parent, "path", values.get("path"))
    if root is not None and not isinstance(root, Path):
        raise ConfigError(f"{source}: path: expected a folder, found {shown(root)}; put quotes around a number")
    values["path"] = root = root or source.parent
    for key in (*SPLITS, "images", "labels_dir"):
        if key in values:
            values[key] = _join(source, root, key, values[key])
    names = values.get("names")
    if isinstance(names, dict) and names and all(isinstance(key, str) for key in names) and "folders" not in values:
        values |= {"folders": list(names), "names": list(names.values())}
    if "names" in values:
        values["names"] = _names(values["names"], f"{source}: names")
    return to_dataclass(DataConfig, {**values, "source": source}, where=str(source))


def _join(where: Path, root: Path, key: str, value: Any) -> Any:
    """A path relative to `root`, from its text; other values are left to the type check."""
    if not isinstance(value, str):
        return value
    if "\0" in value:
        raise ConfigError(f"{where}: {key}: expected a path, found {shown(value)}")
    return Path(os.path.normpath(root / from_home(value)))


def _names(value: Any, where: str) -> tuple[str, ...] | None:
    """Names from a list or from a map of 0, 1, ... to names."""
    if value is None:
        return None
    if isinstance(value, dict):
        if sorted(value, key=str) != sorted(range(len(value)), key=str):
            raise ConfigError(
                f"{where}: expected the numbers 0 to {len(value) - 1} as keys, found {shown(list(value))}"
            )
        value = [value[index] for index in range(len(value))]
    if not isinstance(value, list) or not value:
        raise ConfigError(f"{where}: expected a list of names or a map of numbers to names, found {shown(value)}")
    for name in value:
        if isinstance(name, bool) or not isinstance(name, (str, int, float)) or name == "":
            raise ConfigError(
                f"{where}: expected a name, found {shown(name)}; put quotes around words like yes, no, null"
            )
    names = tuple(str(name) for name in value)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ConfigError(
            f"{where}: '{shorten(twice[0])}' stands twice; results are listed by name, so each must be different"
        )
    return names
