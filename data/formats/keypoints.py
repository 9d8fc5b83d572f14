"""Long rows of YOLO labels: boxes with keypoints, or outlines; the rows of a whole split decide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

MOST = 0.8
"""Part of the rows that must agree; labels have slips."""

SPREAD = 0.15
"""Keypoints reach over more of their box than this; the corners of a small outline, taken for keypoints, do not."""


class AmbiguousRows(ValueError):
    """Rows that may be boxes with keypoints as well as outlines."""


def keypoint_values(rows: Sequence[Sequence[float]], shape: tuple[int, int] | None) -> int:
    """How many numbers follow the class in a row that is a box with keypoints; 0 if long rows are outlines.

    Args:
        rows: the numbers after the class, of all rows of a split that have more than four.
        shape: number of keypoints and numbers for each, 2 or 3; [0, 2] says that rows are outlines. None decides by the
            rows: those with keypoints have one length, and their first four numbers are a box that holds the points.
    Raises:
        AmbiguousRows: both is possible.
    """
    if shape is not None:
        return 4 + shape[0] * shape[1] if shape[0] else 0
    if not rows:
        return 0
    length, count = Counter(map(len, rows)).most_common(1)[0]
    if count < MOST * len(rows):
        return 0
    values = np.array([row for row in rows if len(row) == length], np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        if length >= 7 and (length - 4) % 3 == 0 and _fits(values, 3).mean() >= MOST:
            return length  # no outline has 0, 1 or 2 in every third place
        if length % 2 or length < 6:
            return 0
        boxes, outlines = _fits(values, 2).mean(), _may_be_outlines(values).mean()
    if boxes >= MOST and outlines < MOST:
        return length
    if boxes < 0.5 or (boxes < MOST and outlines >= MOST):
        return 0
    number = (length - 4) // 2
    raise AmbiguousRows(
        f"{length + 1} numbers a row may be boxes with {number} keypoint{'s' * (number > 1)}, or outlines of "
        f"{length // 2} points. Say in the data YAML which: kpt_shape: [{number}, 2] for keypoints, kpt_shape: [0, 2] "
        "for outlines"
    )


def _fits(values: np.ndarray, numbers: int) -> np.ndarray:
    """(R,) bool: rows whose first four numbers are a box inside the image that holds the points that follow.

    Args:
        values: (R, 4 + K * numbers).
        numbers: of a point: x, y, and with 3 a visibility of 0, 1 or 2. A point of 0, 0 or with visibility 0 is absent.
    """
    centre, size = values[:, None, :2], values[:, None, 2:4]
    points = values[:, 4:].reshape(len(values), -1, numbers)
    present = (points[..., :2] != 0).any(axis=2)
    fits = (values[:, 2:4] > 0).all(axis=1) & (np.abs(values[:, :2] - 0.5) + values[:, 2:4] / 2 <= 0.52).all(axis=1)
    if numbers == 3:
        present &= points[..., 2] > 0
        fits &= np.isin(points[..., 2], (0, 1, 2)).all(axis=1)
    inside = (np.abs(points[..., :2] - centre) <= 0.55 * size + 0.001).all(axis=2)
    low = np.where(present[..., None], points[..., :2], np.inf).min(axis=1)
    high = np.where(present[..., None], points[..., :2], -np.inf).max(axis=1)
    wide = ((high - low) >= SPREAD * values[:, 2:4]).any(axis=1) | (present.sum(axis=1) < 2)
    return fits & (inside | ~present).all(axis=1) & wide


def _may_be_outlines(values: np.ndarray) -> np.ndarray:
    """(R,) bool: rows whose second point is near the others, and whose first is not in the middle of them.

    In a box with keypoints the second pair is a size, and the first the centre.
    """
    points = values.reshape(len(values), -1, 2)
    first, second, others = points[:, 0], points[:, 1], points[:, 2:]
    reach = np.linalg.norm(others - first[:, None], axis=2).max(axis=1)
    low, high = others.min(axis=1), others.max(axis=1)
    central = (np.abs(first - (low + high) / 2) < (high - low) / 4).all(axis=1)
    return (np.linalg.norm(second - first, axis=1) <= 2 * reach) & ~central
