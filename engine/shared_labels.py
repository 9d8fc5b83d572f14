"""The labels of a data set, read by one process of each machine; the others map the arrays that it has made of them.

To parse a large annotation file takes minutes and gigabytes, in each process that does it. The arrays that a training
needs of it are small, and processes that map one file share its memory.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import tempfile
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data.read import DataSplits, read_splits
from data.tiles import TileCounts
from utils import dist
from utils.structures import LabelledImages, Samples
from utils.tiles import Tiling
from utils.torchrun import launched_rank, launched_size, local_rank

logger = logging.getLogger(__name__)

SPLITS = ("train", "val")
CONTENT = "content.json"


def read_shared(source: str, task: Literal["detect", "classify"], *, seed: int = 0) -> DataSplits:
    """`read_splits`, once on each machine; every process of the launch calls this.

    Annotations, which rank 0 alone counts, and bad labels, which the process that read them has told, are left out
    elsewhere.

    Raises:
        ConfigError: as `read_splits`.
    """
    if launched_size() == 1:
        return read_splits(source, task, seed=seed)
    images, folder = None, None
    try:
        if local_rank() == 0:
            images = read_splits(source, task, seed=seed)
            folder = _offered(images)
        host = platform.node()
        offers = dist.exchange([host, None if folder is None else str(folder)])
        if images is None:
            images = _taken(next((path for name, path in offers if name == host and path), None))
        if images is None:  # no room for the files, or another file system
            images = read_splits(source, task, seed=seed)
        dist.exchange(None)  # every process has what it needs
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
    return images if launched_rank() == 0 else replace(images, val=without_annotations(images.val))


def without_annotations(images: LabelledImages) -> LabelledImages:
    """A split whose ground truth has its images and categories alone: a metric needs no more to note detections."""
    truth = images.ground_truth
    if not truth:
        return images
    listed = [{"id": number} for number in images.samples.image_ids.tolist()]
    return replace(
        images, ground_truth={"images": listed, "annotations": [], "categories": truth.get("categories", [])}
    )


def write_labels(images: DataSplits, folder: Path) -> None:
    """Write what `map_labels` reads: an array a file, and a JSON file with the rest.

    Raises:
        OSError: there is no room, or the folder cannot be written.
    """
    content: dict[str, Any] = {"source": images.source, "tiles": None if images.tiles is None else asdict(images.tiles)}
    for split in SPLITS:
        part: LabelledImages = getattr(images, split)
        for field in fields(Samples):
            value = getattr(part.samples, field.name)
            if value is None:  # of whole images, which have no tiles
                continue
            array = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else value
            np.save(folder / f"{split}.{field.name}.npy", array)
        truth = without_annotations(part).ground_truth
        about = {"names": part.names, "category_ids": part.category_ids, "task": part.task}
        tiling = None if part.tiling is None else asdict(part.tiling)
        content[split] = {**about, "tiling": tiling, "categories": truth.get("categories")}
    (folder / CONTENT).write_text(json.dumps(content), encoding="utf-8")


def map_labels(folder: Path) -> DataSplits:
    """What `write_labels` wrote; pages of its files are shared with other processes until this one changes them.

    Raises:
        OSError: no such folder.
    """
    content, splits = json.loads((folder / CONTENT).read_text(encoding="utf-8")), {}
    for split in SPLITS:
        part = content[split]
        files = {field.name: folder / f"{split}.{field.name}.npy" for field in fields(Samples)}
        arrays = {name: _mapped(file) for name, file in files.items() if name != "tiles" or file.exists()}
        names, ids = tuple(part["names"]), tuple(part["category_ids"])
        images = LabelledImages(Samples(**arrays), names, ids, {}, task=part["task"], tiling=_tiling(part["tiling"]))
        truth = {"categories": part["categories"]} if part["categories"] is not None else {}
        splits[split] = without_annotations(replace(images, ground_truth=truth))
    tiles = content["tiles"]
    counts = None if tiles is None else TileCounts(**{**tiles, "tiling": Tiling(**tiles["tiling"])})
    return DataSplits(splits["train"], splits["val"], content["source"], counts)


def _tiling(values: dict[str, Any] | None) -> Tiling | None:
    return None if values is None else Tiling(**values)


def _mapped(path: Path) -> np.ndarray:
    """The array in a file, mapped; read where it has no values to map, and on Windows, which deletes no mapped file."""
    if os.name != "posix":
        return np.load(path)
    try:
        return np.asarray(np.load(path, mmap_mode="c"))
    except ValueError:
        return np.load(path)


def _offered(images: DataSplits) -> Path | None:
    """A folder with the labels for the other processes of this machine; None where it cannot be written."""
    folder = None
    try:
        folder = Path(tempfile.mkdtemp(prefix="cspdet-labels-"))
        write_labels(images, folder)
    except OSError as error:
        logger.info("Each process reads the labels for itself: %s", error)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        return None
    return folder


def _taken(folder: str | None) -> DataSplits | None:
    """The labels that another process of this machine offers, if it does and its files are within reach."""
    if folder is None:
        return None
    try:
        return map_labels(Path(folder))
    except OSError:
        return None
