"""Pictures of a classifier's run, and which task gets which."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.utils.pictures import whole_images
from utils import plots, task_plots
from utils.metrics.classification import ClassificationMetric
from utils.plots import plot_batch, plot_results
from utils.structures import LabelledImages, Targets
from utils.task_plots import plot_figures, plot_found, plot_labels

NAMES = ("cat", "狗", "owl")


def picture(path: Path) -> np.ndarray:
    image = cv2.imread(str(path))
    assert image is not None
    assert min(image.shape[:2]) > 50
    return image


def metric_of(images: LabelledImages, guesses: list[int]) -> ClassificationMetric:
    metric = ClassificationMetric({s.image_id: int(s.labels[0]) for s in images.samples}, images.names)
    metric.update([s.image_id for s in images.samples], torch.eye(len(images.names))[guesses])
    return metric


@pytest.mark.parametrize("labels", [[], [0, 1, 1, 2]])
def test_a_classifiers_pictures_are_drawn_of_nothing_too(tmp_path: Path, labels: list[int]) -> None:
    images = whole_images(labels, names=NAMES)
    metric = metric_of(images, labels[::-1])
    plot_labels(images, tmp_path / "labels.png")
    plot_figures(metric, tmp_path)
    items = [(sample, np.full((60, 80, 3), 90, np.uint8)) for sample in images.samples]
    plot_found(metric, items, NAMES, tmp_path / "found.png")
    for name in ("labels", "confusion", *(["found"] if labels else [])):
        picture(tmp_path / f"{name}.png")


def test_right_and_wrong_look_different(tmp_path: Path) -> None:
    images = whole_images([0], names=NAMES)
    items = [(images.samples[0], np.full((60, 80, 3), 90, np.uint8))]
    for name, guess in (("right", 0), ("wrong", 2)):
        plot_found(metric_of(images, [guess]), items, NAMES, tmp_path / f"{name}.png")
    assert not np.array_equal(picture(tmp_path / "right.png"), picture(tmp_path / "wrong.png"))


def test_of_many_classes_the_most_confused_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count, saved = 2 * task_plots.MOST, []
    matrix = np.diag(np.full(count, 5))
    matrix[3, 40] = 9
    monkeypatch.setattr(plots, "save_figure", lambda figure, _: saved.append(figure))
    task_plots.plot_confusion(matrix, [f"c{label}" for label in range(count)], tmp_path / "confusion.png")
    labels = [text.get_text() for text in saved[0].axes[0].get_yticklabels()]
    assert len(labels) == task_plots.MOST
    assert {"c3", "c40"} <= set(labels)


def test_shares_of_mixed_images_are_drawn(tmp_path: Path) -> None:
    images = torch.zeros(1, 3, 64, 96, dtype=torch.uint8)
    boxes = torch.tensor([[0.0, 0.0, 48.0, 64.0], [48.0, 0.0, 96.0, 64.0]])
    parts = (boxes, torch.tensor([0, 2]), torch.tensor([0, 0]), torch.tensor([False, False]))
    for name, weights in (("half", torch.tensor([0.5, 0.5])), ("none", None), ("whole", torch.ones(2))):
        plot_batch(images, Targets(*parts, weights), NAMES, tmp_path / f"{name}.png")
    assert not np.array_equal(picture(tmp_path / "half.png"), picture(tmp_path / "none.png"))
    assert np.array_equal(picture(tmp_path / "whole.png"), picture(tmp_path / "none.png"))


def test_results_of_a_classifier_have_its_curves(tmp_path: Path) -> None:
    rows = (
        "epoch,loss/class,top1,top5,lr,images_per_second\n1,2.3,0.1,0.5,0.01,9\n2,1.1,,,0.01,9\n3,0.9,0.6,0.9,0.01,9\n"
    )
    (tmp_path / "results.csv").write_text(rows)
    plot_results(tmp_path / "results.csv", tmp_path / "results.png")
    picture(tmp_path / "results.png")
