"""Objects that can be used but look like mistakes: too small to see, or labelled twice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torchvision.ops import box_iou

from data.formats.rows import KEPT, SUSPECT, Problems, Rows, show_box

TINY = 2.0
"""Pixels; nothing can be recognised in a box with a shorter side."""

TWICE_IOU = 0.9
"""Two boxes of one class with a larger overlap are seldom two objects."""

SAME_IOU = 0.99
"""Two boxes with a larger overlap are one box, whatever their classes."""


def report_suspects(rows: Rows, boxes: np.ndarray, keep: np.ndarray, names: Sequence[str], problems: Problems) -> None:
    """Report tiny and doubled objects among the rows in use; crowd regions may be both.

    Args:
        boxes: (M, 4) the checked boxes of all rows.
        keep: (M,) bool, the rows in use.
    """
    index = np.flatnonzero(keep & ~rows.crowd)
    sides = boxes[index, 2:] - boxes[index, :2]
    for row, (width, height) in zip(index.tolist(), sides.tolist(), strict=True):
        if min(width, height) < TINY:
            what = f"the '{names[rows.labels[row]]}' box {show_box(boxes[row])} is only {width:.3g} x {height:.3g} px"
            problems.add(rows.where(row), what, KEPT)
    order = index[np.argsort(rows.image_index[index], kind="stable")]
    ends = np.flatnonzero(np.diff(rows.image_index[order])) + 1
    for group in np.split(order, ends):
        _report_doubles(rows, boxes, group, names, problems)


def _report_doubles(rows: Rows, boxes: np.ndarray, group: np.ndarray, names: Sequence[str], problems: Problems) -> None:
    """Compare the rows `group` of one image, each pair once."""
    chosen = torch.from_numpy(boxes[group])
    overlap = torch.triu(box_iou(chosen, chosen), diagonal=1).numpy()
    for first, second in np.argwhere(overlap > TWICE_IOU).tolist():
        one, other, iou = int(group[first]), int(group[second]), overlap[first, second]
        name, other_name = names[rows.labels[one]], names[rows.labels[other]]
        if name == other_name:
            what = (
                f"the '{name}' box overlaps the one at {rows.where(one)} with IoU {iou:.2f}: one object labelled twice?"
            )
            problems.add(rows.where(other), what, KEPT if iou > SAME_IOU else SUSPECT)
        elif iou > SAME_IOU:
            problems.add(rows.where(other), f"the '{other_name}' box is a '{name}' box too, at {rows.where(one)}", KEPT)
