"""Splits of a data set as read from disk: images, labels, and every bad label with the action taken."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np

from data.classes import same_classes
from data.config import SPLITS, DataConfig, load_data_config
from data.formats import coco, cvat, imagefolder, labelme, listing, voc, yolo
from data.formats.assemble import to_coco
from data.formats.label_places import LabelPlaces, find_labels, report_other_format, shared_files
from data.formats.name_files import names_of
from data.formats.rows import IMAGE_LEFT_OUT, LEFT_OUT, NOTES, STOPS, Problems, summarize
from data.images import read_image
from data.tiles import TileCounts, training_tiles
from utils.config import ConfigError
from utils.provenance import data_fingerprint, file_numbers
from utils.structures import LabelledImages, Sample
from utils.text import shown

logger = logging.getLogger(__name__)

FORMATS = (yolo, voc, labelme)
"""Formats with one label file for each image, in the order in which they are looked for."""

ROBOFLOW_COCO = "_annotations.coco.json"
"""The name of the label file among the images of a split."""


@dataclass(frozen=True)
class DataSplits:
    """Training and validation images of one data YAML.

    Args:
        source: the YAML's path, or 'shapes'.
        tiles: of the training images, where they are cut into tiles.
    """

    train: LabelledImages
    val: LabelledImages
    source: str
    tiles: TileCounts | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Class names by label."""
        return self.train.names

    def class_counts(self) -> tuple[int, ...]:
        """Objects of each class in the training split, without crowd regions."""
        samples = self.train.samples
        return tuple(np.bincount(samples.labels[~samples.crowd], minlength=len(self.names)).tolist())

    @property
    def task(self) -> Literal["detect", "classify"]:
        """The task that the labels are for."""
        return self.train.task

    def shown(self, count: int) -> Sequence[Sample]:
        """Validation images for a picture: the first ones; for a classifier, sorted by class, spread over all."""
        samples = self.val.samples
        return samples[:: max(len(samples) // count, 1)][:count] if self.task == "classify" else samples[:count]

    def pictures(self, count: int) -> Iterator[tuple[Sample, np.ndarray]]:
        """The samples of `shown` with their (H, W, 3) uint8 RGB images; unreadable ones are skipped."""
        for sample in self.shown(count):
            try:
                image = read_image(sample.path)
            except ValueError:  # reported where the image is needed
                continue
            yield sample, image

    def about(self) -> dict[str, Any]:
        """Classes and task as plain values."""
        names, ids = list(self.names), list(self.train.category_ids)
        return {"names": names, "category_ids": ids, "task": self.task, "class_counts": list(self.class_counts())}

    def fingerprint(self) -> dict[str, str]:
        """A fingerprint of the images and labels of each split."""
        return {"train": data_fingerprint(self.train), "val": data_fingerprint(self.val)}

    def files(self) -> dict[str, Any]:
        """(N,) int64 of each split: a number of each image file, by its size, beginning and end."""
        return {"train": file_numbers(self.train.samples.paths()), "val": file_numbers(self.val.samples.paths())}

    def counts(self) -> str:
        """The numbers of images and boxes, as text."""
        objects = f" with {count_objects(self.train)}" if self.task == "detect" else ""
        images = f"{len(self.train)} training images" if self.tiles is None else f"{self.tiles} for training"
        return f"{images}{objects}, {len(self.val)} validation images"


def read_splits(source: str, task: Literal["detect", "classify"] = "detect", *, seed: int = 0) -> DataSplits:
    """The training and validation split; bad labels are logged. The data YAML's `tiling` cuts training images.

    Args:
        task: of the model that they are for.
        seed: of the run, which chooses among tiles without an object.
    Raises:
        ConfigError: a split that is missing, has no image or is for another task, two splits with other classes, or
            not one object to train on.
    """
    config = load_data_config(source)
    splits = {
        split: read_split(config, split, task=task, truth="boxes" if split == "val" else "none")
        for split in ("train", "val")
    }
    splits["val"] = same_classes(splits["train"], splits["val"])
    for split, images in splits.items():
        if images.problems:
            logger.warning("%s: %s", split, summarize(images.problems))
    for split, problem in shared_files(splits):
        logger.warning("%s: %s", split, problem)
    if not has_objects(splits["val"]):
        logger.warning(
            "%s: val: no object in %d images: there is no AP, best.pt is the last epoch, and patience does not count",
            *(source, len(splits["val"])),
        )
    train, tiles = training_tiles(splits["train"], seed=seed)
    if tiles is not None and tiles.warning:
        logger.warning("%s: train: %s; take a larger tiling.size or tiling.overlap", source, tiles.warning)
    check_objects(train, f"{source}: train: there is nothing to learn")
    return DataSplits(replace(train, label_files={}), replace(splits["val"], label_files={}), source, tiles)


def read_split(
    config: DataConfig,
    split: str,
    *,
    task: Literal["detect", "classify"] = "detect",
    thorough: bool = False,
    truth: Literal["whole", "file", "boxes", "none"] = "whole",
) -> LabelledImages:
    """The images and labels of one split.

    Args:
        task: what they are for: boxes, or one class for each image.
        thorough: also list objects that are used but look wrong (tiny, labelled twice).
        truth: the `ground_truth`: all that a COCO file says (with 'file' read from there when it is asked for, see
            `coco.read`), all but outlines, or nothing (it is large; training needs none).
    Raises:
        ConfigError: the split is not in the YAML or not on disk, it is for another task, nothing in it can be used
            (unless `thorough`), or something is wrong and `labels: error` or `unreadable: run` stops.
    """
    target, problems = _target(config, split), Problems(thorough, config.unreadable)
    if task == "classify":
        if config.tiling is not None:
            raise ConfigError(f"{config.source}: tiling: is for detectors, and the model is a classifier; leave it out")
        data = _read_classes(config, target, problems)
    elif config.folders is not None:
        raise ConfigError(
            f"{config.source}: names: expected a list or the numbers 0 to {len(config.folders) - 1} as keys, found "
            f"{shown(list(config.folders[:3]))}; class folders are for a classifier, and the model is a detector"
        )
    elif _is_json(target):
        images, names = config.images, config.names
        data = coco.read(target, config.path, images=images, names=names, truth=truth, problems=problems)
    else:
        read = _read_xml if _is_xml(target) else _read_images
        data = read(config, target, split, problems)
        data = data if truth == "none" else replace(data, ground_truth=to_coco(data))
    if config.nc not in (None, len(data.names)):
        raise ConfigError(f"{config.source}: nc is {config.nc}, but {target} has {len(data.names)} categories")
    _check_problems(config, data, thorough=thorough)
    return replace(data, tiling=config.tiling)


def _check_problems(config: DataConfig, data: LabelledImages, *, thorough: bool) -> None:
    """Raise what the keys `labels` and `unreadable` stop at, and where nothing is left."""
    bad = [problem for problem in data.problems if problem.action not in NOTES]
    if bad and config.labels == "error":
        raise ConfigError(
            *summarize(bad).split("\n"), f"Mend them, or set 'labels: warn' in {config.source} to go on without"
        )
    stops = [problem for problem in bad if problem.action == STOPS]
    if stops:
        ways = "'unreadable: image' to go on without their images, or 'unreadable: object' without the objects alone"
        raise ConfigError(*summarize(stops).split("\n"), f"Mend them, or set in {config.source} {ways}")
    if not data.samples and not thorough:
        lost = [problem for problem in bad if problem.action == IMAGE_LEFT_OUT]
        ways = f"or set 'unreadable: object' in {config.source} to leave out these objects alone"
        raise ConfigError(*summarize(lost).split("\n"), f"No image is left. Mend them, {ways}")


def label_format(config: DataConfig, split: str) -> str:
    """'coco', 'cvat', 'yolo', 'voc' or 'labelme': how the labels of a split are stored.

    Raises:
        ConfigError: as `read_split`.
    """
    target, folders = _target(config, split), listing.Folders()
    if _is_json(target) or _is_xml(target):
        return "coco" if _is_json(target) else "cvat"
    images = listing.list_images(target, config.path, folders, Problems())
    form, _ = _find_labels(config, target, images, folders, Problems())
    return form.__name__.rpartition(".")[2]


def guess_task(config: DataConfig) -> Literal["detect", "classify"]:
    """The task of a data set, guessed from its files: class folders without labels are for a classifier."""
    target = next(getattr(config, split) for split in SPLITS if getattr(config, split) is not None)
    target = _coco_inside(target)
    if config.folders is None and (_is_json(target) or _is_xml(target) or not target.is_dir()):
        return "detect"
    try:
        images, folders = listing.list_images(target, config.path, listing.Folders(), Problems()), listing.Folders()
        _find_labels(config, target, images, folders, Problems())
    except ConfigError:
        return "classify" if config.folders or imagefolder.class_folders(target, config.path) else "detect"
    return "detect"


def check_objects(images: LabelledImages, consequence: str) -> None:
    """Refuse a split without a single object; crowd regions do not count.

    Args:
        consequence: what is impossible without objects, for the message.
    Raises:
        ConfigError: says how many images and crowd regions there are.
    """
    if not has_objects(images):
        crowds = f"{len(images.samples.crowd)} crowd regions, which are no objects to learn"
        check = "check the labels with python -m data.doctor"
        raise ConfigError(f"{consequence}: no object in {len(images)} images, and {crowds}; {check}")


def count_objects(images: LabelledImages, noun: str = "boxes") -> str:
    """'55 boxes', or '55 boxes and 54 crowd regions'."""
    crowd = int(images.samples.crowd.sum())
    return f"{len(images.samples.crowd) - crowd} {noun}" + (f" and {crowd} crowd regions" if crowd else "")


def has_objects(images: LabelledImages) -> bool:
    """Whether a split has an object; crowd regions do not count. Only then an AP can be counted on it."""
    return not images.samples.crowd.all()


def _target(config: DataConfig, split: str) -> Path:
    if split not in SPLITS:
        raise ConfigError(f"split '{split}' is unknown; expected one of {', '.join(SPLITS)}")
    target = getattr(config, split)
    if target is None:
        known = [name for name in SPLITS if getattr(config, name) is not None]
        make = f"; make one: python -m data.split {config.source} NEW_FOLDER" if split != "test" else ""
        raise ConfigError(f"{config.source}: has no split '{split}', only {', '.join(known)}{make}")
    download = ["How to get the data:", *config.download.strip().split("\n")] if config.download else []
    others = [(split, path) for path in config.also.get(split, ())]
    for key, path in ((split, target), *others, ("images", config.images), ("labels_dir", config.labels_dir)):
        if path is not None and not path.exists():
            raise ConfigError(f"{config.source}: {key}: no such file or folder: {path}", *download)
    for path in config.also.get(split, ()):
        if not path.is_dir() and path.suffix.lower() != ".txt":
            raise ConfigError(f"{config.source}: {split}: a list may hold folders and .txt lists, not {path.name}")
    if target.is_file() and target.suffix.lower() not in (".json", ".txt", ".xml"):
        raise ConfigError(
            f"{config.source}: {split}: {target.name}: expected a COCO JSON file, a .txt list of images or a folder"
        )
    return _coco_inside(target)


def _coco_inside(target: Path) -> Path:
    """The COCO JSON file that lies among the images of a folder, as Roboflow writes it; else `target` itself."""
    inside = target / ROBOFLOW_COCO
    return inside if inside.is_file() else target


def _read_xml(config: DataConfig, target: Path, split: str, problems: Problems) -> LabelledImages:
    return cvat.read(target, config.path, split, images=config.images, names=config.names, problems=problems)


def _read_images(config: DataConfig, target: Path, split: str, problems: Problems) -> LabelledImages:
    folders = listing.Folders()
    images = listing.list_images(target, config.path, folders, problems)
    for other in config.also.get(split, ()):
        images = list(dict.fromkeys([*images, *listing.list_images(other, config.path, folders, problems)]))
    form, places = _find_labels(config, target, images, folders, problems)
    names = config.names or names_of(form, places, config.path, config.nc)
    if names is None:
        hint = "rows of YOLO labels have none" if form is yolo else f"the labels hold names: {form.find_names(places)}"
        raise ConfigError(f"{config.source}: expected 'names', the list of class names; {hint}")
    own: dict[str, Any] = {}
    if form is voc:
        own["first_pixel"] = config.voc_first_pixel
    elif form is yolo:
        own["kpt_shape"] = config.kpt_shape
    return form.read(places, names, category_ids=config.category_ids, folders=folders, problems=problems, **own)


def _find_labels(
    config: DataConfig, target: Path, images: list[Path], folders: listing.Folders, problems: Problems
) -> tuple[ModuleType, LabelPlaces]:
    """The format of the labels, a module of FORMATS, and the label files: of the format that most images have."""
    candidates: list[tuple[ModuleType, LabelPlaces, Problems]] = []
    for form in FORMATS:
        doubts = Problems(problems.thorough, problems.unreadable)
        places = find_labels(images, config.path, form, folders, doubts, labels_dir=config.labels_dir)
        if hasattr(form, "recognises") and not any(map(form.recognises, list(places.files.values())[:5])):
            continue
        if places.files or places.folders or doubts.entries:
            candidates.append((form, places, doubts))
    if not candidates:
        hint = "; class folders are for a classifier" if imagefolder.looks_like_classes(target, images) else ""
        raise ConfigError(
            f"{target}: no labels for {images[0]}: expected {yolo.FOLDER}/ with YOLO text files or {voc.FOLDER}/ with "
            f"VOC XML files beside {images[0].parent} or in {config.path}, labelme's JSON files beside the images, or "
            f"another folder as 'labels_dir'{hint}"
        )
    form, places, doubts = max(candidates, key=lambda each: len(each[1].files) + len(each[2].entries))
    problems.entries.extend(doubts.entries)
    for other, others, _ in candidates:
        if other is form:
            continue
        report_other_format((form, other), places, others, config.names or (), problems)
        strays = {image for image in places.images if image in others.files and image not in places.files}
        kind = form.__name__.rpartition(".")[2].upper()
        for image in sorted(strays):
            problems.add(image, f"its label file is {others.files[image]}, but the others are {kind}", LEFT_OUT)
        places.images = [image for image in places.images if image not in strays]
    return form, places


def _read_classes(config: DataConfig, target: Path, problems: Problems) -> LabelledImages:
    """A classifier's split; without `names` the folders of the training split are the classes of every split."""
    if _is_json(target):
        raise ConfigError(
            f"{target}: boxes, for a detector, and the model is a classifier, which takes a folder of images for each "
            "class. Cut the boxes out into such folders: python -m data.convert SRC DST --to imagefolder"
        )
    folders: Sequence[str] | None = config.folders or config.names
    if folders is None:
        first = config.train if config.train is not None and config.train.exists() else target
        folders = imagefolder.class_folders(target if _is_json(first) else first, config.path)
    classes = dict(zip(folders, config.names or folders, strict=True))
    return imagefolder.read(target, config.path, classes, problems=problems)


def _is_xml(target: Path) -> bool:
    return target.suffix.lower() == ".xml"


def _is_json(target: Path) -> bool:
    return target.suffix.lower() == ".json"
