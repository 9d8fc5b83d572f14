"""Pictures of a run that differ between detectors and classifiers: labels, figures, and what was found in images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from utils import plots
from utils.draw import BACKGROUND, image_grid, with_caption
from utils.figures import Figure
from utils.metrics.build import Metric
from utils.metrics.classification import ClassificationMetric
from utils.plots import INK, QUIET
from utils.structures import LabelledImages, Sample

MOST = 30
"""Classes in a confusion matrix; of more, those that are confused most."""


def plot_labels(images: LabelledImages, path: Path) -> None:
    """What the labels of a split are: objects, or images by class."""
    if images.task == "detect":
        plots.plot_labels(images, path)
    else:
        plot_image_labels(images, path)


def plot_figures(metric: Metric, folder: Path) -> None:
    """pr_curve.png of a detector, confusion.png of a classifier."""
    if isinstance(metric, ClassificationMetric):
        plot_confusion(metric.confusion(), metric.names, folder / "confusion.png")
    else:
        plots.plot_pr_curves(*metric.pr_curves(), folder / "pr_curve.png")


def plot_found(metric: Metric, items: Iterable[tuple[Sample, np.ndarray]], names: Sequence[str], path: Path) -> None:
    """Images with their ground truth and with what was found.

    Args:
        items: sample and its image (H, W, 3) uint8 RGB.
    """
    if isinstance(metric, ClassificationMetric):
        plot_classified(metric, items, path)
        return
    found = ((sample, image, metric.detections(sample.image_id, min_score=0.25)) for sample, image in items)
    plots.plot_predictions(found, names, path)


def plot_image_labels(images: LabelledImages, path: Path) -> None:
    """How many images each class has, and how large they are."""
    labels = np.array([int(sample.labels[0]) for sample in images.samples], np.int64)
    counts = np.bincount(labels, minlength=len(images.names))
    shown = min(len(counts), 40)
    figure = Figure(figsize=(13, max(6.0, 1.5 + 0.24 * shown)), layout="constrained")
    figure.suptitle(f"{len(labels):,} images of {len(counts)} classes", color=INK, fontsize=14)
    bars, sizes = figure.subplots(1, 2)
    plots.draw_counts(bars, counts, images.names, what="Images")
    plots.style(sizes, "Shorter side, pixels")
    sizes.hist([min(sample.height, sample.width) for sample in images.samples], bins=40, color=plots.LINES[0])
    sizes.set_ylabel("images", color=QUIET)
    plots.save_figure(figure, path)


def plot_classified(metric: ClassificationMetric, items: Iterable[tuple[Sample, np.ndarray]], path: Path) -> None:
    """Images, each with its true class and the three that the classifier thinks likeliest; the wrong ones marked."""
    rows = {row["image_id"]: row for row in metric.predictions()}
    pictures = []
    for sample, image in items:
        row = rows.get(sample.image_id)
        if row is None:
            continue
        found = [
            f"{metric.names[label]} {score:.2f}" for label, score in zip(row["labels"], row["scores"], strict=True)
        ]
        verdict = "right" if row["rank"] == 0 else f"WRONG, it is {metric.names[row['label']]}"
        lines = (f"then: {', '.join(found[1:3]) or 'nothing'}", f"found: {found[0]}", verdict)
        picture = _square(image, side=260)
        for line in lines:
            picture = with_caption(picture, line)
        pictures.append(picture)
    if pictures:
        plots.write_picture(image_grid(pictures, math.ceil(math.sqrt(len(pictures)))), path)


def plot_confusion(matrix: np.ndarray, names: Sequence[str], path: Path) -> None:
    """Shares of each true class (row) that were taken for each class (column).

    Args:
        matrix: (C, C) images.
    """
    wrong = matrix.sum(axis=1) + matrix.sum(axis=0) - 2 * np.diag(matrix)
    chosen = np.sort(np.argsort(-wrong, kind="stable")[:MOST])
    shares = matrix[np.ix_(chosen, chosen)] / matrix.sum(axis=1)[chosen, None].clip(min=1)
    side = max(5.0, 2.5 + 0.34 * len(chosen))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    ax = figure.add_subplot()
    many = f", the {MOST} classes most confused of {len(names)}" if len(names) > MOST else ""
    plots.style(ax, f"True class (row) and class found{many}")
    ax.grid(False)
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    titles = [plots.shorten(names[label]) for label in chosen]
    ax.set_xticks(range(len(chosen)), titles, rotation=90, color=INK)
    ax.set_yticks(range(len(chosen)), titles, color=INK)
    for y, x in zip(*np.nonzero(shares >= 0.005), strict=True):
        colour = "white" if shares[y, x] > 0.6 else INK
        ax.text(x, y, f"{100 * shares[y, x]:.0f}", ha="center", va="center", fontsize=8, color=colour)
    plots.save_figure(figure, path)


def _square(image: np.ndarray, *, side: int) -> np.ndarray:
    """The whole image in the middle of a square of `side` pixels."""
    scale = side / max(image.shape[:2])
    height, width = (max(round(length * scale), 1) for length in image.shape[:2])
    canvas = np.full((side, side, 3), BACKGROUND, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    canvas[top : top + height, left : left + width] = cv2.resize(image, (width, height), interpolation=method)
    return canvas
