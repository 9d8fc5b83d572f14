"""A data YAML: where the images and labels of each split are, and what the classes are called."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from data.formats import coco, imagefolder, listing, voc, yolo
from data.formats.rows import NOTES, Problems
from utils.config import ROOT, ConfigError, find_file, load_yaml
from utils.schema import to_dataclass
from utils.structures import LabelledImages, LabelProblem

SPLITS = ("train", "val", "test")


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
        labels: what a bad label does: 'warn' mends or leaves it out and reports it, 'error' stops.
        voc_first_pixel: 1 where VOC's boxes count pixels from 1 (the VOC development kit), 0 where from 0.
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
    voc_first_pixel: Literal[0, 1] = 1
    category_ids: tuple[int, ...] | None = None
    download: str | None = None

    def __post_init__(self) -> None:
        if self.train is None and self.val is None and self.test is None:
            raise ConfigError(f"{self.source}: expected at least one of train, val and test, found none")
        if self.nc is not None and self.nc < 1:
            raise ConfigError(f"{self.source}: nc is {self.nc}, expected at least 1")
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
    if name is None or name in ("shapes", "shapes.yaml"):
        from data.shapes import ensure_shapes  # drawing is only needed for this one data set

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
    root = _join(source.parent, values.get("path"))
    values["path"] = source.parent if root is None else root
    for key in (*SPLITS, "images"):
        if key in values:
            values[key] = _join(values["path"], values[key])
    names = values.get("names")
    if isinstance(names, dict) and names and all(isinstance(key, str) for key in names) and "folders" not in values:
        values |= {"folders": list(names), "names": list(names.values())}
    if "names" in values:
        values["names"] = _names(values["names"], f"{source}: names")
    return to_dataclass(DataConfig, {**values, "source": source}, where=str(source))


def read_split(
    config: DataConfig, split: str, *, task: Literal["detect", "classify"] = "detect", thorough: bool = False
) -> LabelledImages:
    """The images and labels of one split.

    Args:
        task: what they are for: boxes, or one class for each image.
        thorough: also list objects that are used but look wrong (tiny, labelled twice).
    Raises:
        ConfigError: the split is not in the YAML or not on disk, it is for another task, nothing in it can be used, or
            `labels: error` and something is wrong.
    """
    target, problems = _target(config, split), Problems(thorough)
    if task == "classify":
        data = _read_classes(config, target, problems)
    elif config.folders is not None:
        raise ConfigError(
            f"{config.source}: names: expected a list or the numbers 0 to {len(config.folders) - 1} as keys, found "
            f"{list(config.folders[:3])}; class folders are for a classifier, and the model is a detector"
        )
    elif _is_json(target):
        data = coco.read(target, config.path, images=config.images, names=config.names, problems=problems)
    else:
        data = _read_images(config, target, problems)
    if config.nc not in (None, len(data.names)):
        raise ConfigError(f"{config.source}: nc is {config.nc}, but {target} has {len(data.names)} categories")
    bad = [problem for problem in data.problems if problem.action not in NOTES]
    if bad and config.labels == "error":
        raise ConfigError(f"{summarize(bad)}\nMend them, or set 'labels: warn' in {config.source} to go on without")
    return data


def label_format(config: DataConfig, split: str) -> str:
    """'coco', 'yolo' or 'voc': how the labels of a split are stored.

    Raises:
        ConfigError: as `read_split`.
    """
    target, folders = _target(config, split), listing.Folders()
    if _is_json(target):
        return "coco"
    images = listing.list_images(target, config.path, folders, Problems())
    return "yolo" if _find_labels(config, target, images, folders)[0] is yolo else "voc"


def guess_task(config: DataConfig) -> Literal["detect", "classify"]:
    """What a data set is for, by its files: class folders without labels are for a classifier."""
    target = next(getattr(config, split) for split in SPLITS if getattr(config, split) is not None)
    if config.folders is None and (not target.is_dir() or _is_json(target)):
        return "detect"
    try:
        images, folders = listing.list_images(target, config.path, listing.Folders(), Problems()), listing.Folders()
        _find_labels(config, target, images, folders)
    except ConfigError:
        return "classify" if config.folders or imagefolder.class_folders(target, config.path) else "detect"
    return "detect"


def check_objects(images: LabelledImages, consequence: str) -> None:
    """Refuse a split without a single object; a crowd region is none.

    Args:
        consequence: what cannot be done then, for the message.
    Raises:
        ConfigError: says how many images and crowd regions there are.
    """
    if not any((~sample.crowd).any() for sample in images.samples):
        crowds = sum(len(sample.crowd) for sample in images.samples)
        raise ConfigError(
            f"{consequence}: no object in {len(images)} images, and {crowds} crowd regions, which are no objects to "
            "learn; check the labels with python -m data.doctor"
        )


def check_same_classes(first: LabelledImages, second: LabelledImages) -> None:
    """Refuse two splits whose class indices mean different things.

    Raises:
        ConfigError: names the first class that differs.
    """
    if (first.names, first.category_ids) == (second.names, second.category_ids):
        return
    if len(first.names) != len(second.names):
        raise ConfigError(
            f"one split has {len(first.names)} classes, the other {len(second.names)}: {_only_one(first, second)}; "
            "give every split the same list of categories"
        )
    pairs = zip(
        zip(first.names, first.category_ids, strict=True),
        zip(second.names, second.category_ids, strict=False),
        strict=False,
    )
    index, (one, other) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
    raise ConfigError(
        f"class {index} is '{one[0]}' (category id {one[1]}) in one split and '{other[0]}' (category id {other[1]}) "
        "in the other; give every split the same list of categories"
    )


def summarize(problems: Sequence[LabelProblem], *, limit: int = 10) -> str:
    """A few lines for people: how many problems, what was done about them, and the first `limit` of them."""
    if not problems:
        return "no problems in the labels"
    actions = ", ".join(f"{count} {action}" for action, count in Counter(p.action for p in problems).most_common())
    lines = [f"{len(problems)} problem{'s' * (len(problems) > 1)} in the labels ({actions}):"]
    lines += [f"  {problem}" for problem in problems[:limit]]
    if len(problems) > limit:
        lines.append(f"  ... and {len(problems) - limit} more; 'python -m data.doctor DATA' lists all of them")
    return "\n".join(lines)


def _target(config: DataConfig, split: str) -> Path:
    if split not in SPLITS:
        raise ConfigError(f"split '{split}' is unknown; expected one of {', '.join(SPLITS)}")
    target = getattr(config, split)
    if target is None:
        known = ", ".join(name for name in SPLITS if getattr(config, name) is not None)
        raise ConfigError(f"{config.source}: has no split '{split}', only {known}")
    download = f"\nHow to get the data:\n{config.download.strip()}" if config.download else ""
    for key, path in ((split, target), ("images", config.images)):
        if path is not None and not path.exists():
            raise ConfigError(f"{config.source}: {key}: no such file or folder: {path}{download}")
    if target.is_file() and not _is_json(target) and target.suffix.lower() != ".txt":
        raise ConfigError(
            f"{config.source}: {split}: {target.name}: expected a COCO JSON file, a .txt list of images or a folder"
        )
    return target


def _read_images(config: DataConfig, target: Path, problems: Problems) -> LabelledImages:
    folders = listing.Folders()
    images = listing.list_images(target, config.path, folders, problems)
    form, labels = _find_labels(config, target, images, folders)
    options: dict[str, Any] = {"category_ids": config.category_ids, "folders": folders, "problems": problems}
    if form is voc:
        return voc.read(images, labels, _voc_names(config, images, labels), config.voc_first_pixel, **options)
    return yolo.read(images, labels, _yolo_names(config), **options)


def _find_labels(
    config: DataConfig, target: Path, images: list[Path], folders: listing.Folders
) -> tuple[ModuleType, dict[Path, Path]]:
    """The format of the labels (yolo or voc), and folder of images -> folder of labels."""
    for form in (yolo, voc):
        labels = listing.find_labels(images, config.path, folders, name=form.FOLDER, suffix=form.SUFFIX)
        if labels is not None:
            return form, labels
    hint = "; class folders are for a classifier" if imagefolder.looks_like_classes(target, images) else ""
    raise ConfigError(
        f"{target}: no labels for {images[0]}: expected {yolo.FOLDER}/ with YOLO text files or {voc.FOLDER}/ with VOC "
        f"XML files beside {images[0].parent} or in {config.path}{hint}"
    )


def _read_classes(config: DataConfig, target: Path, problems: Problems) -> LabelledImages:
    """A classifier's split; without `names` the folders of the training split are the classes of every split."""
    if _is_json(target):
        raise ConfigError(
            f"{target}: boxes, for a detector, and the model is a classifier, which takes a folder of images for each "
            "class. Cut the boxes out into such folders: python -m data.convert SRC DST --to imagefolder"
        )
    names = folders = config.folders or config.names
    if folders is None:
        first = config.train if config.train is not None and config.train.exists() else target
        names = folders = imagefolder.class_folders(target if _is_json(first) else first, config.path)
    return imagefolder.read(
        target, config.path, dict(zip(folders, config.names or names, strict=True)), problems=problems
    )


def _yolo_names(config: DataConfig) -> Sequence[str]:
    if config.names is not None:
        return config.names
    if config.nc is not None:
        return [str(index) for index in range(config.nc)]
    raise ConfigError(f"{config.source}: expected 'names', the list of class names; rows of YOLO labels have none")


def _voc_names(config: DataConfig, images: list[Path], labels: dict[Path, Path]) -> Sequence[str]:
    if config.names is not None:
        return config.names
    found = voc.find_names(images, labels)
    raise ConfigError(f"{config.source}: expected 'names', the list of class names; the XML files hold names: {found}")


def _is_json(target: Path) -> bool:
    return target.suffix.lower() == ".json"


def _join(root: Path, value: Any) -> Any:
    """A path text relative to `root`; other values are left for the check of types."""
    return Path(os.path.normpath(root / Path(value).expanduser())) if isinstance(value, str) else value


def _names(value: Any, where: str) -> tuple[str, ...] | None:
    """Names from a list or from a map of 0, 1, ... to names."""
    if value is None:
        return None
    if isinstance(value, dict):
        if sorted(value, key=str) != sorted(range(len(value)), key=str):
            raise ConfigError(f"{where}: expected the numbers 0 to {len(value) - 1} as keys, found {list(value)}")
        value = [value[index] for index in range(len(value))]
    if not isinstance(value, list) or not value:
        raise ConfigError(f"{where}: expected a list of names or a map of numbers to names, found {value!r}")
    for name in value:
        if isinstance(name, bool) or not isinstance(name, (str, int, float)) or name == "":
            raise ConfigError(f"{where}: expected a name, found {name!r}; put quotes around words like yes, no, null")
    names = tuple(str(name) for name in value)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ConfigError(f"{where}: '{twice[0]}' stands twice; results are listed by name, so each must be different")
    return names


def _only_one(first: LabelledImages, second: LabelledImages) -> str:
    only = sorted(set(first.names) ^ set(second.names))
    return f"only one of them has {', '.join(only[:5])}" if only else "the names are the same"
