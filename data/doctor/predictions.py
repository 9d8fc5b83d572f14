"""What a model disputes: objects that its predictions show and the labels do not, other places, other classes.

The three questions are those of ObjectLab (Tkachenko et al., 2023): overlooked, badly located and swapped labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data.doctor.report import Suspect
from data.formats.json_file import as_float, as_id
from data.formats.rows import SUSPECT, show_box
from utils.boxes import box_iou, xywh_to_xyxy
from utils.config import ConfigError
from utils.files import read_regular
from utils.structures import LabelledImages, LabelProblem
from utils.text import from_json, shown_json

LEAST_SCORE = 0.4
"""Predictions with a lower score dispute nothing."""

NOTHING, FITS = 0.1, 0.6
"""IoU below which a label is of another object, and above which its box fits."""

ONE_OBJECT = 0.5
"""IoU of two boxes of one object: the labels of a class, or two predictions, of which the better one is asked."""


def disputes(data: LabelledImages, file: Path) -> Iterator[Suspect]:
    """Labels of a split that predictions dispute, with the score as rank.

    Args:
        file: a COCO results file, as `val.py --save-json` writes it.
    Raises:
        ConfigError: no such file, none of its images in the split, or an entry that is no prediction.
    """
    owner, labels, boxes, scores = _read(data, file)
    order = np.lexsort((-scores, owner))
    for rows in np.split(order, np.flatnonzero(np.diff(owner[order])) + 1) if len(order) else ():
        yield from _disputes_of(data, int(owner[rows[0]]), labels[rows], boxes[rows], scores[rows])


def _disputes_of(
    data: LabelledImages, index: int, labels: np.ndarray, boxes: np.ndarray, scores: np.ndarray
) -> Iterator[Suspect]:
    """The disputes of one image; its predictions come with the best score first."""
    sample = data.samples[index]
    objects, crowd = sample.boxes[~sample.crowd], sample.boxes[sample.crowd]
    classes = sample.labels[~sample.crowd]
    overlap, among = box_iou(boxes, objects), box_iou(boxes, boxes)
    for row in range(len(boxes)):
        if (among[row, :row] > ONE_OBJECT).any() or _inside(boxes[row], crowd):
            continue
        name, score = data.names[labels[row]], float(scores[row])
        own = overlap[row] * (classes == labels[row])
        best, best_own = overlap[row].max(initial=0.0), own.max(initial=0.0)
        seen = f"the model sees '{name}' at {show_box(boxes[row])} with score {score:.2f}"
        if best < NOTHING:
            yield _suspect(sample.path, f"{seen}; no object is labelled where it is", boxes[row], score)
        elif best >= ONE_OBJECT and best_own < ONE_OBJECT:
            label = objects[overlap[row].argmax()]
            what = f"{seen}; the label says '{data.names[classes[overlap[row].argmax()]]}' (IoU {best:.2f})"
            yield _suspect(sample.path, what, boxes[row], score, label)
        elif NOTHING <= best_own < FITS:
            label = objects[own.argmax()]
            what = f"{seen}, which fits the object better than the labelled box {show_box(label)} (IoU {best_own:.2f})"
            yield _suspect(sample.path, what, boxes[row], score * (1 - float(best_own)), label)


def _suspect(image: Path, what: str, box: np.ndarray, rank: float, labelled: np.ndarray | None = None) -> Suspect:
    return Suspect(LabelProblem(str(image), what, SUSPECT), image, box, rank, labelled)


def _inside(box: np.ndarray, regions: np.ndarray) -> bool:
    """Whether most of a box lies in one of the crowd regions."""
    low, high = np.maximum(regions[:, :2], box[:2]), np.minimum(regions[:, 2:], box[2:])
    common = np.clip(high - low, 0, None).prod(axis=1)
    return bool((common > 0.5 * (box[2:] - box[:2]).prod()).any())


def _read(data: LabelledImages, file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Image positions, labels, boxes (M, 4) xyxy and scores of the predictions with a score that counts."""
    try:
        rows = from_json(read_regular(file))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise ConfigError(f"{file}: not valid JSON ({error})") from None
    if not isinstance(rows, list):
        raise ConfigError(f"{file}: expected a list of COCO results, as val.py --save-json writes, found an object")
    position = {number: index for index, number in enumerate(data.samples.image_ids.tolist())}
    label_of = {number: label for label, number in enumerate(data.category_ids)}
    found, outside = [], 0
    for number, row in enumerate(rows):
        box = row.get("bbox") if isinstance(row, dict) else None
        values = [as_float(value) for value in box] if isinstance(box, list) else []
        score = as_float(row.get("score")) if isinstance(row, dict) else np.nan
        if len(values) != 4 or not np.isfinite([*values, score]).all():
            raise ConfigError(f"{file}: entry {number}: expected image_id, category_id, bbox, score: {shown_json(row)}")
        image, label = position.get(_number(row, "image_id")), label_of.get(_number(row, "category_id"))
        outside += image is None or label is None
        if image is not None and label is not None and score >= LEAST_SCORE:
            found.append((image, label, score, *values))
    if rows and outside == len(rows):
        raise ConfigError(f"{file}: none of its {len(rows)} predictions is for an image and a class of this split")
    table = np.array(found, np.float64).reshape(-1, 7)
    return table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), xywh_to_xyxy(table[:, 3:]), table[:, 2]


def _number(row: dict[str, Any], key: str) -> int:
    number = as_id(row.get(key))
    return number if isinstance(number, int) else -1
