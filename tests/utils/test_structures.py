"""Detections are checked when they are made, and change in every part at once."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from utils.boxes import plan_resize
from utils.device import on_device
from utils.draw import class_colour
from utils.structures import Batch, Detections, Targets


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


NAMES, IDS = ("dog", "bicycle", "cat"), (18, 2, 17)


def named(count: int) -> Detections:
    return replace(some(count), labels=np.arange(count) % 3, class_names=NAMES, category_ids=IDS)


def test_names_come_with_every_change() -> None:
    detections = named(4)
    assert detections.names.tolist() == ["dog", "bicycle", "cat", "dog"]
    assert detections.select(detections.names == "dog").labels.tolist() == [0, 0]
    assert detections.select(np.array([2])).names.tolist() == ["cat"]
    original = detections.to_original(plan_resize(10, 20, (32, 32), "letterbox"))
    assert original.names.tolist() == detections.names.tolist()
    assert (some(0).names.shape, some(0).names.dtype.kind) == ((0,), "U")
    assert some(2).names.tolist() == ["0", "1"]
    assert "bicycle" not in repr(detections)
    assert replace(some(1), class_names=("caf\udce9\n",)).names.tolist() == ["caf\udce9\n"]


def test_plain_dicts_are_rounded_as_detections_json_is() -> None:
    boxes = np.array([[1 / 3, 2, 10.00049, 20]], np.float32)
    (entry,) = Detections(boxes, np.array([2 / 3], np.float32), np.array([1]), NAMES).to_dicts()
    assert entry == {"class": 1, "name": "bicycle", "score": 0.666667, "box": [0.333, 2.0, 10.0, 20.0]}
    assert json.loads(json.dumps(entry)) == entry
    assert some(0).to_dicts() == []


def test_coco_results_have_the_ids_of_the_data_set() -> None:
    boxes = np.array([[1 / 3, 2, 10, 20]], np.float32)
    detections = Detections(boxes, np.array([2 / 3], np.float32), np.array([1]), NAMES, IDS)
    (entry,) = detections.to_coco(image_id=7)
    assert (entry["image_id"], entry["category_id"], entry["score"]) == (7, 2, float(np.float32(2 / 3)))
    x, y, width, height = entry["bbox"]
    assert np.array([x, y, x + width, y + height], np.float32).tolist() == boxes[0].tolist()
    assert detections.to_coco()[0]["image_id"] == 1
    assert some(0).to_coco() == []
    with pytest.raises(ValueError, match="category_ids: 0 ids, none for class 0"):
        some(1).to_coco()


def test_supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    supervision = pytest.importorskip("supervision")
    for count in (0, 3):
        found = named(count).to_supervision()
        assert isinstance(found, supervision.Detections)
        assert found.xyxy.tolist() == named(count).boxes.tolist()
        assert found.confidence.tolist() == named(count).scores.tolist()
        assert found.class_id.tolist() == named(count).labels.tolist()
        assert found["class_name"].tolist() == named(count).names.tolist()


def test_supervision_gets_copies_and_its_absence_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=lambda **parts: parts))
    parts = named(3).to_supervision()
    assert parts.pop("data")["class_name"].tolist() == ["dog", "bicycle", "cat"]
    assert [value.shape for value in parts.values()] == [(3, 4), (3,), (3,)]
    assert set(parts) == {"xyxy", "confidence", "class_id"}
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="needs the package supervision: pip install supervision"):
        named(3).to_supervision()


def test_drawing_leaves_the_image_alone() -> None:
    image = np.full((80, 100, 3), 90, np.uint8)
    detections = Detections(np.array([[20, 30, 60, 70]], np.float32), np.array([0.5], np.float32), np.array([0]), NAMES)
    drawn = detections.draw(image)
    assert (image == 90).all()
    assert drawn.shape == image.shape
    assert tuple(drawn[69, 40]) == class_colour(0)
    assert np.array_equal(drawn, detections.draw(Image.fromarray(image)))
    assert np.array_equal(drawn, detections.draw(image[:, :, 0]))
    with pytest.raises(ValueError, match="expected a Pillow image or a NumPy array, found str"):
        detections.draw("photo.jpg")


@pytest.mark.parametrize(("kind", "later"), [("mps", False), ("cuda", True), ("cpu", True)])
def test_only_where_it_is_safe_a_copy_may_still_be_under_way(
    monkeypatch: pytest.MonkeyPatch, kind: str, later: bool
) -> None:
    """Apple's GPUs read the source of a copy later, when it may be freed."""
    copies: list[tuple[torch.device, bool]] = []
    targets = Targets(torch.zeros(2, 4), *torch.zeros(2, 2).long(), torch.zeros(2).bool())
    batch = Batch(torch.zeros(1, 3, 8, 8), targets, (1,), ("a.jpg",))

    def to(tensor: torch.Tensor, device: torch.device, *, non_blocking: bool) -> torch.Tensor:
        copies.append((device, non_blocking))
        return tensor

    monkeypatch.setattr(torch.Tensor, "to", to)
    targets.to(torch.device(kind))
    batch.to(torch.device(kind))
    on_device((1, 2), like=SimpleNamespace(dtype=torch.float32, device=torch.device(kind)))
    assert copies == [(torch.device(kind), later)] * 6
