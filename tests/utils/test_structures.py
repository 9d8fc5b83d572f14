"""Detections are checked when they are made, and change in every part at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from utils.boxes import plan_resize
from utils.structures import Detections


def some(count: int) -> Detections:
    boxes = np.arange(4 * count, dtype=np.float32).reshape(count, 4)
    return Detections(boxes, np.linspace(0.9, 0.1, count, dtype=np.float32), np.arange(count))


def test_no_detections_stay_none() -> None:
    none = some(0)
    for same in (none, none.select(np.zeros(0, bool)), none.to_original(plan_resize(10, 20, (32, 32), "letterbox"))):
        assert (len(same), same.boxes.shape, same.boxes.dtype) == (0, (0, 4), np.float32)


def test_rows_are_selected_by_mask_and_by_position() -> None:
    masked, placed = some(4).select(np.array([True, False, True, False])), some(4).select(np.array([2, 0]))
    assert masked.labels.tolist() == [0, 2]
    assert placed.boxes.tolist() == some(4).boxes[[2, 0]].tolist()
    assert placed.scores.tolist() == some(4).scores[[2, 0]].tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": torch.zeros(2, 4)}, "boxes: expected a NumPy array, found Tensor"),
        ({"labels": [0, 1]}, "labels: expected a NumPy array, found list"),
        ({"boxes": np.zeros((2, 4))}, r"boxes: expected float32 of shape \(2, 4\), found float64 of \(2, 4\)"),
        (
            {"boxes": np.zeros((2, 5), np.float32)},
            r"boxes: expected float32 of shape \(2, 4\), found float32 of \(2, 5\)",
        ),
        ({"scores": np.zeros(3, np.float32)}, r"scores: expected float32 of shape \(2,\), found float32 of \(3,\)"),
        ({"labels": np.zeros(2, np.int32)}, r"labels: expected int64 of shape \(2,\), found int32 of \(2,\)"),
    ],
)
def test_other_types_and_shapes_are_refused(change: dict, message: str) -> None:
    two = some(2)
    with pytest.raises(ValueError, match=message):
        Detections(**{"boxes": two.boxes, "scores": two.scores, "labels": two.labels} | change)
