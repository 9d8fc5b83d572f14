"""Pictures of a run, each a JPEG: images of a batch or a split with their labels and predictions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from torch import Tensor

from utils.draw import BACKGROUND, draw_detections, image_grid, with_caption
from utils.jpeg import encoded
from utils.metrics.build import Metric
from utils.metrics.classification import ClassificationMetric
from utils.structures import Detections, Sample, Targets


def plot_batch(images: Tensor, targets: Targets, names: Sequence[str], path: Path, *, limit: int = 16) -> None:
    """The first images of a batch, as the network is shown them, with their boxes, or a classifier's labels and shares.

    Args:
        images: (B, 3, H, W) RGB, uint8 or float in [0, 1].
        targets: boxes in pixels of `images`; crowd regions are left out.
        limit: images in the picture.
    """
    pixels = images[:limit].detach().cpu()
    if pixels.is_floating_point():
        pixels = (pixels.float().clamp(0, 1) * 255).round().byte()
    boxes, labels, owner = targets.boxes.cpu().numpy(), targets.labels.cpu().numpy(), targets.image_index.cpu().numpy()
    visible = ~targets.crowd.cpu().numpy()
    weights = None if targets.weights is None else targets.weights.cpu().numpy()
    pictures = []
    for index, image in enumerate(pixels.permute(0, 2, 3, 1).numpy()):
        own = visible & (owner == index)
        shares = None if weights is None or (weights[own] == 1).all() else weights[own]
        pictures.append(_drawn(image, boxes[own], labels[own], shares, names, side=480))
    _write_picture(image_grid(pictures, math.ceil(math.sqrt(len(pictures)))), path)


def plot_predictions(
    metric: Metric, items: Iterable[tuple[Sample, np.ndarray]], names: Sequence[str], path: Path
) -> None:
    """Images with their ground truth and with the predictions of a metric.

    Args:
        items: sample and its image (H, W, 3) uint8 RGB.
    """
    if isinstance(metric, ClassificationMetric):
        plot_classified(metric, items, path)
        return
    detections = ((sample, image, metric.detections(sample.image_id, min_score=0.25)) for sample, image in items)
    plot_detections(detections, names, path)


def plot_detections(
    items: Iterable[tuple[Sample, np.ndarray, Detections]], names: Sequence[str], path: Path, *, columns: int = 2
) -> None:
    """Each image twice, side by side: with its ground truth and with its detections.

    Args:
        items: sample, its image (H, W, 3) uint8 RGB, and detections in pixels of it.
        columns: pairs in a row.
    """
    pictures = []
    for sample, image, detections in items:
        truth = _drawn(image, sample.boxes[~sample.crowd], sample.labels[~sample.crowd], None, names, side=480)
        guess = _drawn(image, detections.boxes, detections.labels, detections.scores, names, side=480)
        captions = (f"{sample.path.name}: ground truth", f"found: {len(detections)}")
        pictures += [with_caption(truth, captions[0]), with_caption(guess, captions[1])]
    _write_picture(image_grid(pictures, 2 * columns), path)


def plot_classified(metric: ClassificationMetric, items: Iterable[tuple[Sample, np.ndarray]], path: Path) -> None:
    """Images, each with its true class and the three that the classifier thinks likeliest; the wrong ones marked."""
    rows = {row["image_id"]: row for row in metric.predictions()}
    pictures = []
    for sample, image in items:
        row = rows.get(sample.image_id)
        if row is None:
            continue
        classes = [
            f"{metric.names[label]} {score:.2f}" for label, score in zip(row["labels"], row["scores"], strict=True)
        ]
        verdict = "right" if row["rank"] == 0 else f"WRONG, it is {metric.names[row['label']]}"
        lines = (f"then: {', '.join(classes[1:3]) or 'nothing'}", f"found: {classes[0]}", verdict)
        picture = _square(image, side=260)
        for line in lines:
            picture = with_caption(picture, line)
        pictures.append(picture)
    if pictures:
        _write_picture(image_grid(pictures, math.ceil(math.sqrt(len(pictures)))), path)


def _drawn(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray | None,
    names: Sequence[str],
    *,
    side: int,
) -> np.ndarray:
    """With its longer side near `side` pixels before it is drawn on, so that boxes and text keep their size."""
    scale = min(side / max(image.shape[:2]), 2.0)
    return draw_detections(_resized(image, scale), boxes * scale, labels, scores, names)


def _square(image: np.ndarray, *, side: int) -> np.ndarray:
    """The whole image in the middle of a square of `side` pixels."""
    image = _resized(image, side / max(image.shape[:2]))
    height, width = image.shape[:2]
    canvas = np.full((side, side, 3), BACKGROUND, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    canvas[top : top + height, left : left + width] = image
    return canvas


def _resized(image: np.ndarray, scale: float) -> np.ndarray:
    height, width = (max(round(length * scale), 1) for length in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def _write_picture(image: np.ndarray, path: Path) -> None:
    """Write an (H, W, 3) uint8 RGB image as JPEG."""
    path.write_bytes(encoded(image, quality=82))
