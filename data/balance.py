"""Rare classes seen more often: repeat factor sampling (Gupta et al., LVIS, arXiv:1908.03195, appendix B)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from utils.structures import LabelledImages
from utils.text import shorten

COMMON = 100
"""Training images of a class from which it is not rare, where the recipe says no other share."""

RARE = 2.0
"""Factor from which the doctor and the log call a class rare."""

NAMED = 1.2
"""The log names classes that are shown more than so many times as often as without balance."""

MOST_RARE = 5
"""Classes that are named one by one, the rarest first."""


def class_images(images: LabelledImages) -> np.ndarray:
    """(C,) images that show each class; crowd regions do not count."""
    _, labels = _pairs(images)
    return np.bincount(labels, minlength=len(images.names))


def class_factors(counts: np.ndarray, images: int, threshold: float | None = None) -> np.ndarray:
    """How often a class asks for its images: max(1, sqrt(threshold / share)).

    Args:
        counts: (C,) images that show each class; images: of the split.
        threshold: share of the images from which a class is not rare; None: the share that `COMMON` images are, at most
            that of the commonest class.
    Returns:
        (C,) factors of at least 1; 1 for a class without images.

    >>> class_factors(np.array([64, 16, 1, 0]), 100).tolist()
    [1.0, 2.0, 8.0, 1.0]
    >>> class_factors(np.array([64, 16, 1, 0]), 100, 0.16).tolist()
    [1.0, 1.0, 4.0, 1.0]
    """
    limit = min(COMMON, counts.max(initial=0)) if threshold is None else threshold * images
    return np.where(counts > 0, np.sqrt(np.maximum(limit / np.maximum(counts, 1), 1)), 1.0)


def repeat_factors(images: LabelledImages, threshold: float | None = None) -> np.ndarray:
    """(N,) how often images are shown, compared with each other: the largest factor of its classes, 1 without objects.

    Args:
        threshold: as in `class_factors`.
    """
    owners, labels = _pairs(images)
    factors = np.ones(len(images))
    np.maximum.at(factors, owners, class_factors(class_images(images), len(images), threshold)[labels])
    return factors


def rare_classes(names: Sequence[str], counts: np.ndarray, images: int) -> str:
    """The classes that the recipe shows at least twice as often, the rarest first; "" where there are none.

    Args:
        counts: (C,) images that show each class; images: of the split.
    """
    factors = class_factors(counts, images)
    rare = [label for label in np.argsort(-factors, kind="stable").tolist() if factors[label] >= RARE]
    named = [f"{shorten(names[label])} in {counts[label]}" for label in rare]
    return f"{_and_more(named)} of {images}" if rare else ""


def describe_classes(images: LabelledImages, factors: np.ndarray | None) -> list[str]:
    """Which classes are rare, and in how many images, or tiles, of an epoch they are, for the log.

    Args:
        factors: of `repeat_factors`; None: every image is shown once.
    """
    counts, unit = class_images(images), "images" if images.tiling is None else "tiles"
    if factors is None:
        rare = rare_classes(images.names, counts, len(images))
        return [f"rare classes: {rare} {unit}; --set balance=repeat shows them more often"] if rare else []
    owners, labels = _pairs(images)
    weights = factors[owners] * (len(factors) / factors.sum())
    shown = np.bincount(labels, minlength=len(images.names), weights=weights)
    more = [label for label in np.argsort(counts, kind="stable").tolist() if shown[label] > NAMED * counts[label]]
    named = [f"{shorten(images.names[label])} in {shown[label]:.0f} in place of {counts[label]}" for label in more]
    return [f"balance: an epoch of {len(images)} {unit} shows {_and_more(named)}"] if named else []


def _and_more(named: Sequence[str]) -> str:
    """The first few of the classes, and how many more there are."""
    more = len(named) - MOST_RARE
    return ", ".join(named[:MOST_RARE]) + (f" and {more} more classes" if more > 0 else "")


def _pairs(images: LabelledImages) -> tuple[np.ndarray, np.ndarray]:
    """Positions of images and classes that they show, each pair once."""
    samples, classes = images.samples, max(len(images.names), 1)
    pairs = np.unique((samples.image_index() * classes + samples.labels)[~samples.crowd])
    return pairs // classes, pairs % classes
