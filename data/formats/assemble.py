"""From rows to LabelledImages: sizes of images, checks of boxes, suspicious objects, samples, and the COCO dict."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from data.formats.rows import CLIPPED, KEPT, SUSPECT, ImageTable, Problems, Rows, show_box
from data.images import image_size
from utils.boxes import box_iou, xyxy_to_xywh
from utils.config import ConfigError
from utils.log import tracked
from utils.structures import LabelledImages, Sample, Samples
from utils.text import printable
from utils.torchrun import launched_rank

TOLERANCE = 0.05
"""Pixels that a box may stick out by rounding (COCO writes 2 decimals) and be clipped without a report."""

TINY = 2.0
"""Pixels; a box with a shorter side shows nothing recognisable."""

BLOCK = 256
"""Boxes of a picture that are compared with its others at once: those of one may be many thousands."""

TWICE_IOU = 0.9
"""Two boxes of one class with a larger IoU are rarely two objects."""

SAME_IOU = 0.99
"""Two boxes with a larger IoU are one box, whatever their classes."""


def probe_sizes(paths: Sequence[Path]) -> list[tuple[int, int] | str]:
    """(height, width) of each image from its header, or what is wrong with the file."""

    def probe(path: Path) -> tuple[int, int] | str:
        try:
            return image_size(path)
        except ValueError as error:
            return str(error).removeprefix(f"{printable(path)}: ")

    chunks = [paths[start : start + 64] for start in range(0, len(paths), 64)]
    with ThreadPoolExecutor(16) as pool:  # they help on slow disks: one waits while another reads
        parts = pool.map(lambda chunk: [probe(path) for path in chunk], chunks)
        told = tracked(parts, len(chunks), "Reading image sizes", quiet=launched_rank() != 0)
        return list(itertools.chain.from_iterable(told))


def size_mismatch(sample: Sample, size: tuple[int, int]) -> str:
    """What is wrong with an image that has another (height, width) than its labels are for."""
    swapped = size == (sample.width, sample.height)
    hint = ": were the boxes drawn without the EXIF rotation?" if swapped else ""
    return f"the labels are for {sample.width}x{sample.height}, the upright image is {size[1]}x{size[0]}{hint}"


def to_labelled_images(
    images: ImageTable,
    rows: Rows,
    names: Sequence[str],
    category_ids: Sequence[int],
    problems: Problems,
) -> LabelledImages:
    """A split from its images and rows, without ground truth: unreadable images and unusable boxes left out.

    Boxes that stick out of their image are clipped. The split may be left without images, where `problems.unreadable`
    leaves out all that have an unusable box.
    """
    sizes, keep_image = _known_sizes(images, problems)
    boxes, keep, lost = _check_rows(rows, sizes, keep_image, problems)
    report_crowd(rows, keep, names, problems)
    if problems.thorough:
        report_suspects(rows, boxes, keep, names, problems)
    if problems.unreadable == "image":
        keep_image[rows.image_index[lost]] = False
        keep_image[list(rows.unreadable)] = False
        keep &= keep_image[rows.image_index]
    order = np.flatnonzero(keep)
    order = order[np.argsort(rows.image_index[order], kind="stable")]
    counts = np.bincount(rows.image_index[order], minlength=len(images.paths))
    samples = Samples.of_columns(
        itertools.compress(images.paths, keep_image.tolist()),
        np.array(images.ids, np.int64)[keep_image],
        sizes[keep_image],
        (boxes[order], rows.labels[order], rows.crowd[order]),
        counts[keep_image],
    )
    return LabelledImages(samples, tuple(names), tuple(category_ids), {}, problems.entries.settled())


def to_coco(data: LabelledImages) -> dict[str, Any]:
    """The COCO dict of samples: area is width times height, annotation ids count from 1, file_name is the path."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for sample in data.samples:
        images.append(
            {"id": sample.image_id, "file_name": str(sample.path), "width": sample.width, "height": sample.height}
        )
        boxes = xyxy_to_xywh(sample.boxes).tolist()
        for box, label, crowd in zip(boxes, sample.labels.tolist(), sample.crowd.tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": sample.image_id,
                    "category_id": data.category_ids[label],
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(crowd),
                }
            )
    categories = [{"id": number, "name": name} for number, name in zip(data.category_ids, data.names, strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories}


def report_crowd(rows: Rows, keep: np.ndarray, names: Sequence[str], problems: Problems) -> None:
    """Report when most boxes of the set are crowd regions, and the classes that have no other.

    Exporters give masks as run lengths, which COCO keeps for crowds, and say iscrowd 1 of single objects.

    Args:
        keep: (M,) bool, the rows in use.
    """
    crowds = np.bincount(rows.labels[keep & rows.crowd], minlength=len(names))
    objects = np.bincount(rows.labels[keep & ~rows.crowd], minlength=len(names))
    if not crowds.any():
        return
    where = rows.where(int(np.flatnonzero(keep & rows.crowd)[0]))
    learn = "nothing to learn or find; if they are objects, write iscrowd 0"
    if crowds.sum() > objects.sum():
        problems.add(
            where, f"{crowds.sum()} of {keep.sum()} boxes are crowd regions (this is the first), {learn}", KEPT
        )
    only = [f"'{names[label]}' ({crowds[label]})" for label in np.flatnonzero((crowds > 0) & (objects == 0)).tolist()]
    if only:
        shown = ", ".join(only[:5]) + (f" and {len(only) - 5} more classes" if len(only) > 5 else "")
        problems.add(where, f"all boxes of {shown} are crowd regions, {learn}", KEPT)


def report_suspects(rows: Rows, boxes: np.ndarray, keep: np.ndarray, names: Sequence[str], problems: Problems) -> None:
    """Report tiny and doubled objects among the rows in use; crowd regions may be both.

    Args:
        boxes: (M, 4) the checked boxes of all rows.
        keep: (M,) bool, the rows in use.
    """
    index = np.flatnonzero(keep & ~rows.crowd)
    sides = boxes[index, 2:] - boxes[index, :2]
    for tiny in np.flatnonzero((sides < TINY).any(axis=1)).tolist():
        row, (width, height) = int(index[tiny]), sides[tiny].tolist()
        box = f"the '{names[rows.labels[row]]}' box {show_box(boxes[row])}"
        problems.add(rows.where(row), f"{box} is only {width:.3g} x {height:.3g} px", KEPT)
    order = index[np.argsort(rows.image_index[index], kind="stable")]
    ends = np.flatnonzero(np.diff(rows.image_index[order], append=-1)) + 1
    for start, end in itertools.pairwise(itertools.chain([0], ends.tolist())):
        _report_doubles(rows, boxes, order[start:end], names, problems)


def _known_sizes(images: ImageTable, problems: Problems) -> tuple[np.ndarray, np.ndarray]:
    """Sizes (K, 2) of all images, and which of them (K,) can be used."""
    sizes = list(images.sizes)
    unknown = [index for index, size in enumerate(sizes) if size is None]
    usable = np.ones(len(sizes), bool)
    for index, size in zip(unknown, probe_sizes([images.paths[index] for index in unknown]), strict=True):
        if isinstance(size, str):
            problems.add(images.paths[index], size)
            sizes[index], usable[index] = (0, 0), False
        else:
            sizes[index] = size
    if len(sizes) and not usable.any():
        raise ConfigError(f"none of the {len(sizes)} images can be read; the first: {problems.entries[-len(sizes)]}")
    return np.array(sizes, np.int64).reshape(-1, 2), usable


def _check_rows(
    rows: Rows, sizes: np.ndarray, keep_image: np.ndarray, problems: Problems
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (M, 4) clipped to their images, which rows (M,) are in use, and which are objects that cannot be used.

    All that are not used, and all that change, are reported in their order.
    """
    keep = keep_image[rows.image_index]
    limits = sizes[rows.image_index]
    raw = rows.boxes
    with np.errstate(invalid="ignore"):
        finite = np.all(np.isfinite(raw), axis=1)
        positive = np.all(raw[:, 2:] > raw[:, :2], axis=1)
        boxes, excess = np.maximum(raw, 0.0), np.zeros(len(raw))
        for column in range(4):  # one after another: of a million boxes, each (M, 4) takes 32 MB
            np.minimum(boxes[:, column], limits[:, 1 - column % 2], out=boxes[:, column])
            np.maximum(excess, np.abs(raw[:, column] - boxes[:, column]), out=excess)
        inside = np.all(boxes[:, 2:] > boxes[:, :2], axis=1)
    usable = finite & positive & inside
    duplicates = _duplicates(rows, boxes, keep & usable)
    for row in np.flatnonzero(keep & (~usable | duplicates | (excess > TOLERANCE))).tolist():
        where, box = rows.where(row), show_box(raw[row])
        height, width = limits[row].tolist()
        if not finite[row]:
            problems.lost(where, f"box {box} holds a value that is no finite number")
        elif not positive[row]:
            problems.lost(where, f"box {box} (x1, y1, x2, y2) has no area")
        elif not inside[row]:
            problems.lost(where, f"box {box} (x1, y1, x2, y2) lies outside the {width}x{height} image")
        elif duplicates[row]:
            problems.add(where, f"box {box} (x1, y1, x2, y2) of the same class stands in this image already")
        else:
            out = f"by {excess[row]:.4g} px"
            problems.add(where, f"box {box} (x1, y1, x2, y2) sticks out of the {width}x{height} image {out}", CLIPPED)
    return boxes, keep & usable & ~duplicates, keep & ~usable


def _duplicates(rows: Rows, boxes: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """(M,) bool: rows whose image, class, crowd flag and box an earlier usable row has too."""
    duplicates = np.zeros(len(usable), bool)
    index = np.flatnonzero(usable)
    order = np.lexsort((boxes[index, 0], rows.image_index[index]))
    image, left = rows.image_index[index[order]], boxes[index[order], 0]
    same = (image[1:] == image[:-1]) & (left[1:] == left[:-1])
    alike = np.zeros(len(index), bool)
    alike[1:] = same
    alike[:-1] |= same
    index = np.sort(index[order[alike]])  # few are left to compare in full
    keys = np.column_stack((rows.image_index[index], rows.labels[index], rows.crowd[index], boxes[index]))
    order = np.lexsort(keys.T[::-1])  # stable: equal rows keep the order of the file
    same = np.all(keys[order[1:]] == keys[order[:-1]], axis=1)
    duplicates[index[order[1:][same]]] = True
    return duplicates


def _report_doubles(rows: Rows, boxes: np.ndarray, group: np.ndarray, names: Sequence[str], problems: Problems) -> None:
    """Compare the rows `group` of one image, each pair once."""
    for start in range(0, len(group), BLOCK):
        overlap = np.triu(box_iou(boxes[group[start : start + BLOCK]], boxes[group[start:]]), k=1)
        for first, second in np.argwhere(overlap > TWICE_IOU).tolist():
            pair = int(group[start + first]), int(group[start + second])
            _report_double(rows, pair, float(overlap[first, second]), names, problems)


def _report_double(rows: Rows, pair: tuple[int, int], iou: float, names: Sequence[str], problems: Problems) -> None:
    one, other = pair
    name, other_name = names[rows.labels[one]], names[rows.labels[other]]
    if name == other_name:
        overlaps = f"the '{name}' box overlaps the one at {rows.where(one)} with IoU {iou:.2f}"
        action = KEPT if iou > SAME_IOU else SUSPECT
        problems.add(rows.where(other), f"{overlaps}: one object labelled twice?", action)
    elif iou > SAME_IOU:
        problems.add(rows.where(other), f"the '{other_name}' box is a '{name}' box too, at {rows.where(one)}", KEPT)
