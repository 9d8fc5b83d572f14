"""Diagrams of a run: every function writes a readable JPEG, with nothing to show too, and leaves matplotlib alone."""

from __future__ import annotations

import csv
import inspect
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from tests.utils.samples import metric_of, picture, sample, whole_images
from utils import plots
from utils.plots import plot_labels, plot_pr_curves, plot_results
from utils.plots_metric import plot_metric
from utils.structures import LabelledImages

NAMES = ("cat", "狗", "owl")


@pytest.mark.parametrize("boxes", [[], [[10.0, 10.0, 60.0, 50.0], [0.0, 0.0, 0.0, 0.0], [80.0, 20.0, 150.0, 110.0]]])
@pytest.mark.parametrize("names", [NAMES, tuple(f"class {i}" for i in range(60))])
def test_labels(tmp_path: Path, boxes: list[list[float]], names: tuple[str, ...]) -> None:
    images = LabelledImages((sample(boxes, [0, 1, 0][: len(boxes)]),), names, tuple(range(1, len(names) + 1)), {})
    plot_labels(images, tmp_path / "labels.jpg")
    picture(tmp_path / "labels.jpg")


def test_labels_of_no_images(tmp_path: Path) -> None:
    plot_labels(LabelledImages((), NAMES, (1, 2), {}), tmp_path / "labels.jpg")
    picture(tmp_path / "labels.jpg")


@pytest.mark.parametrize("labels", [[], [0, 1, 1, 2]])
def test_a_classifiers_diagrams_are_drawn_of_nothing_too(tmp_path: Path, labels: list[int]) -> None:
    images = whole_images(labels, names=NAMES)
    plot_labels(images, tmp_path / "labels.jpg")
    plot_metric(metric_of(images, labels[::-1]), {}, tmp_path)
    for name in ("labels", "confusion"):
        picture(tmp_path / f"{name}.jpg")


def test_of_many_classes_the_most_confused_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count, saved = 2 * plots.MAX_CONFUSED, []
    matrix = np.diag(np.full(count, 5))
    matrix[3, 40] = 9
    monkeypatch.setattr(plots, "save_figure", lambda figure, _: saved.append(figure))
    plots.plot_confusion(matrix, [f"c{label}" for label in range(count)], tmp_path / "confusion.jpg")
    labels = [text.get_text() for text in saved[0].axes[0].get_yticklabels()]
    assert len(labels) == plots.MAX_CONFUSED
    assert {"c3 (14)", "c40 (5)"} <= set(labels)


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
    plot_results(tmp_path / "results.csv", tmp_path / "results.jpg")
    picture(tmp_path / "results.jpg")


def test_results_of_a_classifier_have_its_curves(tmp_path: Path) -> None:
    rows = (
        "epoch,loss/class,top1,top5,lr,images_per_second\n1,2.3,0.1,0.5,0.01,9\n2,1.1,,,0.01,9\n3,0.9,0.6,0.9,0.01,9\n"
    )
    (tmp_path / "results.csv").write_text(rows)
    plot_results(tmp_path / "results.csv", tmp_path / "results.jpg")
    picture(tmp_path / "results.jpg")


@pytest.mark.parametrize("count", [0, 2, 50])
def test_pr_curves(tmp_path: Path, count: int) -> None:
    recall = np.linspace(0, 1, 101)
    plot_pr_curves(recall, {f"class {i}": 1 - recall ** (i + 1) for i in range(count)}, tmp_path / "pr.jpg")
    picture(tmp_path / "pr.jpg")


def test_matplotlib_is_left_as_it_was(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    plot_pr_curves(np.linspace(0, 1, 101), {"cat": np.linspace(1, 0, 101)}, tmp_path / "pr.jpg")
    assert dict(matplotlib.rcParams) == before
    assert "pyplot" not in inspect.getsource(plots)
