"""Samples and splits that are on no disk, and the pictures made of them, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from utils.metrics.classification import ClassificationMetric
from utils.structures import LabelledImages, Sample


def whole_images(labels: Sequence[int], *, names: tuple[str, ...]) -> LabelledImages:
    """Images 1, 2, ... of 60 x 80 pixels, one label each."""
    box = np.array([[0.0, 0.0, 80.0, 60.0]])
    samples = tuple(
        Sample(Path(f"{number}.jpg"), number, 60, 80, box, np.array([label]), np.zeros(1, bool))
        for number, label in enumerate(labels, start=1)
    )
    return LabelledImages(samples, names, tuple(range(1, len(names) + 1)), {}, task="classify")


def sample(boxes: list[list[float]], labels: list[int]) -> Sample:
    """Image 1 of 120 x 160 pixels with these objects."""
    count = len(boxes)
    arrays = (np.array(boxes, float).reshape(-1, 4), np.array(labels, np.int64), np.zeros(count, bool))
    return Sample(Path("photo.jpg"), 1, 120, 160, *arrays)


def picture(path: Path) -> np.ndarray:
    """The BGR pixels of a file that is a picture of some size."""
    image = cv2.imread(str(path))
    assert image is not None
    assert min(image.shape[:2]) > 50
    return image


def metric_of(images: LabelledImages, guesses: list[int]) -> ClassificationMetric:
    """Of a classifier that is sure of one label for each image."""
    metric = ClassificationMetric({s.image_id: int(s.labels[0]) for s in images.samples}, images.names)
    metric.update([s.image_id for s in images.samples], torch.eye(len(images.names))[guesses])
    return metric
