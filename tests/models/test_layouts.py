"""Layouts of exported files: metadata there and back, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from models.info import ModelInfo
from models.layouts import OWN, Final, Layout, as_pictures

INFO = ModelInfo(("a", "b"), (1, 2), (64, 96), "letterbox", 32)


@pytest.mark.parametrize(
    "layout",
    [OWN, Layout("yolo"), Layout("deepstream"), Layout(picture=True), Layout(final=Final(0.1, 1, 5), picture=True)],
)
def test_metadata_round_trip(layout: Layout) -> None:
    assert Layout.from_metadata(INFO.to_metadata(**layout.to_metadata())) == layout
    assert ModelInfo.from_metadata(INFO.to_metadata(**layout.to_metadata()), shape=(None, None), where="") == INFO


def test_a_plain_file_says_nothing_of_it() -> None:
    assert INFO.to_metadata(**OWN.to_metadata()) == INFO.to_metadata()


@pytest.mark.parametrize(
    "wrong",
    [
        {"layout": "coco"},
        {"picture": 1},
        {"final": 3},
        {"final": {"conf": 0.5}},
        {"final": {"conf_thres": "x"}},
        {"final": {"iou_thres": 2}},
        {"final": {"max_det": 0}},
        {"final": {"max_det": True}},
    ],
)
def test_wrong_values_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises((TypeError, ValueError)):
        Layout.from_metadata(INFO.to_metadata(**{"layout": "own", **wrong}))


def test_outputs_become_candidates() -> None:
    yolo = np.array([[[10.0], [20], [4], [6], [0.1], [0.9]]], np.float32)
    boxes, scores = Layout("yolo").candidates([yolo], 2)
    assert boxes.tolist() == [[[8, 17, 12, 23]]]
    np.testing.assert_array_equal(scores, np.array([[[0.1, 0.9]]], np.float32))
    boxes, scores = Layout("deepstream").candidates([np.array([[[8.0, 17, 12, 23, 0.5, 1]]], np.float32)], 2)
    assert (boxes.tolist(), scores.tolist()) == ([[[8, 17, 12, 23]]], [[[0, 0.5]]])
    assert Layout("yolo").classes({"output0": [1, 6, 9]}, "detect") == 2
    assert OWN.classes({"scores": [1, 9, None]}, "detect") is None


def test_images_as_pictures() -> None:
    images = np.arange(24, dtype=np.uint8).reshape(1, 3, 2, 4)
    assert np.array_equal(as_pictures(images.astype(np.float32) / 255), images.transpose(0, 2, 3, 1))
    assert as_pictures(images).flags.c_contiguous
