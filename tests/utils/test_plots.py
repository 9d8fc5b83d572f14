"""Pictures of a run: every function writes a readable PNG, with nothing to show too, and leaves matplotlib alone."""

from __future__ import annotations

import csv
import inspect
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest
import torch

from utils import plots
from utils.plots import plot_batch, plot_labels, plot_pr_curves, plot_predictions, plot_results
from utils.structures import Detections, LabelledImages, Sample, Targets

NAMES = ("cat", "狗")


def picture(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    assert image is not None
    assert min(image.shape[:2]) > 50
    return image


def sample(boxes: list[list[float]], labels: list[int]) -> Sample:
    count = len(boxes)
    arrays = (np.array(boxes, float).reshape(-1, 4), np.array(labels, np.int64), np.zeros(count, bool))
    return Sample(Path("photo.jpg"), 1, 120, 160, *arrays)


@pytest.mark.parametrize("boxes", [[], [[10.0, 10.0, 60.0, 50.0], [0.0, 0.0, 0.0, 0.0], [80.0, 20.0, 150.0, 110.0]]])
@pytest.mark.parametrize("names", [NAMES, tuple(f"class {i}" for i in range(60))])
def test_labels(tmp_path: Path, boxes: list[list[float]], names: tuple[str, ...]) -> None:
    images = LabelledImages((sample(boxes, [0, 1, 0][: len(boxes)]),), names, tuple(range(1, len(names) + 1)), {})
    plot_labels(images, tmp_path / "labels.png")
    picture(tmp_path / "labels.png")


def test_labels_of_no_images(tmp_path: Path) -> None:
    plot_labels(LabelledImages((), NAMES, (1, 2), {}), tmp_path / "labels.png")
    picture(tmp_path / "labels.png")


def test_batch_is_the_same_from_bytes_and_floats(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (3, 3, 64, 96), dtype=torch.uint8)
    boxes = torch.tensor([[5.0, 5.0, 40.0, 40.0], [10.0, 20.0, 90.0, 60.0]])
    targets = Targets(boxes, torch.tensor([0, 1]), torch.tensor([0, 2]), torch.tensor([False, False]))
    plot_batch(images, targets, NAMES, tmp_path / "bytes.png")
    plot_batch(images.float() / 255, targets, NAMES, tmp_path / "floats.png")
    plot_batch(images, Targets.empty(), NAMES, tmp_path / "bare.png")
    first = picture(tmp_path / "bytes.png")
    assert np.array_equal(first, picture(tmp_path / "floats.png"))
    assert not np.array_equal(first, picture(tmp_path / "bare.png"))


def test_crowd_regions_are_not_drawn(tmp_path: Path) -> None:
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    box, zero = torch.tensor([[5.0, 5.0, 40.0, 40.0]]), torch.tensor([0])
    plot_batch(images, Targets(box, zero, zero, torch.tensor([True])), NAMES, tmp_path / "crowd.png")
    plot_batch(images, Targets.empty(), NAMES, tmp_path / "bare.png")
    assert np.array_equal(picture(tmp_path / "crowd.png"), picture(tmp_path / "bare.png"))


def test_predictions_stand_beside_the_ground_truth(tmp_path: Path) -> None:
    image = np.full((120, 160, 3), 80, np.uint8)
    found = Detections(np.float32([[10, 10, 60, 50]]), np.float32([0.9]), np.array([1]))
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    items = [(sample([[10, 10, 60, 50]], [0]), image, found), (sample([], []), image, nothing)]
    plot_predictions(items, NAMES, tmp_path / "predictions.png", columns=1)
    height, width = picture(tmp_path / "predictions.png").shape[:2]
    assert width > 2 * 160
    assert height > 2 * 120


ROWS = (
    [],
    [{"epoch": 1, "loss/box": 2.5, "AP": "", "AP50": "", "AP75": "", "lr": 0.01}],
    [{"epoch": e, "loss/box": 2 / e, "loss/class": 1 / e, "AP": 0.1 * e if e % 2 else ""} for e in range(1, 6)],
    [{"epoch": 1, "AP": 0.5, "lr": 0.1, "seconds": 3, "images_per_second": 20, "data_wait_share": 0.1}],
)


@pytest.mark.parametrize("rows", ROWS)
def test_results(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    with open(tmp_path / "results.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["epoch"])
        writer.writeheader()
        writer.writerows(rows)
    plot_results(tmp_path / "results.csv", tmp_path / "results.png")
    picture(tmp_path / "results.png")


@pytest.mark.parametrize("count", [0, 2, 50])
def test_pr_curves(tmp_path: Path, count: int) -> None:
    recall = np.linspace(0, 1, 101)
    plot_pr_curves(recall, {f"class {i}": 1 - recall ** (i + 1) for i in range(count)}, tmp_path / "pr.png")
    picture(tmp_path / "pr.png")


def test_matplotlib_is_left_as_it_was(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    plot_pr_curves(np.linspace(0, 1, 101), {"cat": np.linspace(1, 0, 101)}, tmp_path / "pr.png")
    assert dict(matplotlib.rcParams) == before
    assert "pyplot" not in inspect.getsource(plots)
