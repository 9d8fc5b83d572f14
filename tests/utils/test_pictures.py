"""Pictures of batches and of what was found in images: readable, and drawn of nothing too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.utils.samples import metric_of, picture, sample, whole_images
from utils.pictures import plot_batch, plot_detections, plot_predictions
from utils.structures import Detections, Targets

NAMES = ("cat", "狗", "owl")


def test_batch_is_the_same_from_bytes_and_floats(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (3, 3, 64, 96), dtype=torch.uint8)
    boxes = torch.tensor([[5.0, 5.0, 40.0, 40.0], [10.0, 20.0, 90.0, 60.0]])
    targets = Targets(boxes, torch.tensor([0, 1]), torch.tensor([0, 2]), torch.tensor([False, False]))
    plot_batch(images, targets, NAMES, tmp_path / "bytes.jpg")
    plot_batch(images.float() / 255, targets, NAMES, tmp_path / "floats.jpg")
    plot_batch(images, Targets.empty(), NAMES, tmp_path / "bare.jpg")
    first = picture(tmp_path / "bytes.jpg")
    assert np.array_equal(first, picture(tmp_path / "floats.jpg"))
    assert not np.array_equal(first, picture(tmp_path / "bare.jpg"))


def test_crowd_regions_are_not_drawn(tmp_path: Path) -> None:
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    box, zero = torch.tensor([[5.0, 5.0, 40.0, 40.0]]), torch.tensor([0])
    plot_batch(images, Targets(box, zero, zero, torch.tensor([True])), NAMES, tmp_path / "crowd.jpg")
    plot_batch(images, Targets.empty(), NAMES, tmp_path / "bare.jpg")
    assert np.array_equal(picture(tmp_path / "crowd.jpg"), picture(tmp_path / "bare.jpg"))


def test_predictions_stand_beside_the_ground_truth(tmp_path: Path) -> None:
    image = np.full((120, 160, 3), 80, np.uint8)
    one = Detections(np.float32([[10, 10, 60, 50]]), np.float32([0.9]), np.array([1]))
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    items = [(sample([[10, 10, 60, 50]], [0]), image, one), (sample([], []), image, nothing)]
    plot_detections(items, NAMES, tmp_path / "predictions.jpg", columns=1)
    height, width = picture(tmp_path / "predictions.jpg").shape[:2]
    assert width > 2 * 160
    assert height > 2 * 120


def test_shares_of_mixed_images_are_drawn(tmp_path: Path) -> None:
    images = torch.zeros(1, 3, 64, 96, dtype=torch.uint8)
    boxes = torch.tensor([[0.0, 0.0, 48.0, 64.0], [48.0, 0.0, 96.0, 64.0]])
    parts = (boxes, torch.tensor([0, 2]), torch.tensor([0, 0]), torch.tensor([False, False]))
    for name, weights in (("half", torch.tensor([0.5, 0.5])), ("none", None), ("whole", torch.ones(2))):
        plot_batch(images, Targets(*parts, weights), NAMES, tmp_path / f"{name}.jpg")
    assert not np.array_equal(picture(tmp_path / "half.jpg"), picture(tmp_path / "none.jpg"))
    assert np.array_equal(picture(tmp_path / "whole.jpg"), picture(tmp_path / "none.jpg"))


@pytest.mark.parametrize("labels", [[], [0, 1, 1, 2]])
def test_a_classifiers_predictions_are_drawn_of_nothing_too(tmp_path: Path, labels: list[int]) -> None:
    images = whole_images(labels, names=NAMES)
    items = [(sample, np.full((60, 80, 3), 90, np.uint8)) for sample in images.samples]
    plot_predictions(metric_of(images, labels[::-1]), items, NAMES, tmp_path / "found.jpg")
    assert (tmp_path / "found.jpg").exists() == bool(labels)
    if labels:
        picture(tmp_path / "found.jpg")


def test_right_and_wrong_look_different(tmp_path: Path) -> None:
    images = whole_images([0], names=NAMES)
    items = [(images.samples[0], np.full((60, 80, 3), 90, np.uint8))]
    for name, guess in (("right", 0), ("wrong", 2)):
        plot_predictions(metric_of(images, [guess]), items, NAMES, tmp_path / f"{name}.jpg")
    assert not np.array_equal(picture(tmp_path / "right.jpg"), picture(tmp_path / "wrong.jpg"))
