"""Rare classes seen more often: repeat factor sampling (Gupta et al., LVIS, arXiv:1908.03195, appendix B)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from utils.structures import LabelledImages
from utils.text import shorten

RARE = 2.0
"""Repeat factor from which a class is called rare: it is in less than a quarter of the images of the usual class."""

MOST_CLASSES = 30
MOST_RARE = 5
"""Classes that are named one by one, the rarest first: with balance, and as a hint without."""


def class_images(images: LabelledImages) -> np.ndarray:
    """(C,) images that show each class; crowd regions do not count."""
    _, labels = _pairs(images)
    return np.bincount(labels, minlength=len(images.names))


def class_factors(shares: np.ndarray, threshold: float | None = None) -> np.ndarray:
    """How often a class asks for its images: max(1, sqrt(threshold / share)).

    Args:
        shares: (C,) share of the images that show each class.
        threshold: share from which a class is not rare; None: the median of the classes that have an image.
    Returns:
        (C,) factors of at least 1; 1 for a class without images.

    >>> class_factors(np.array([0.64, 0.16, 0.01, 0.0])).tolist()
    [1.0, 1.0, 4.0, 1.0]
    """
    seen = shares > 0
    if not seen.any():
        return np.ones(len(shares))
    limit = np.median(shares[seen]) if threshold is None else threshold
    return np.where(seen, np.sqrt(np.maximum(limit / np.where(seen, shares, 1), 1)), 1.0)


def repeat_factors(images: LabelledImages, threshold: float | None = None) -> np.ndarray:
    """(N,) how often each image is in an epoch, on average: the largest factor of its classes, 1 without objects.

    Args:
        threshold: as in `class_factors`.
    """
    owners, labels = _pairs(images)
    factors = np.ones(len(images))
    shares = np.bincount(labels, minlength=len(images.names)) / max(len(images), 1)
    np.maximum.at(factors, owners, class_factors(shares, threshold)[labels])
    return factors


def rare_classes(names: Sequence[str], counts: np.ndarray, images: int) -> str:
    """The classes that `balance: repeat` shows at least twice as often, the rarest first; "" where there are none.

    Args:
        counts: (C,) images that show each class; images: of the split.
    """
    factors = class_factors(counts / max(images, 1))
    rare = [label for label in np.argsort(-factors, kind="stable").tolist() if factors[label] >= RARE]
    named = ", ".join(f"{shorten(names[label])} in {counts[label]}" for label in rare[:MOST_RARE])
    more = f" and {len(rare) - MOST_RARE} more classes" if len(rare) > MOST_RARE else ""
    return f"{named}{more} of {images}" if rare else ""


def describe_classes(images: LabelledImages, factors: np.ndarray | None) -> list[str]:
    """In how many images, or tiles, of an epoch each class is, for the log.

    Args:
        factors: of `repeat_factors`; None: every image is seen once, and only rare classes are named.
    """
    counts, unit = class_images(images), "images" if images.tiling is None else "tiles"
    if factors is None:
        rare = rare_classes(images.names, counts, len(images))
        return [f"rare classes: {rare} {unit}; --set balance=repeat shows them more often"] if rare else []
    owners, labels = _pairs(images)
    balanced = np.bincount(labels, weights=factors[owners], minlength=len(images.names))
    order = np.argsort(counts, kind="stable")
    names = [shorten(name) for name in images.names]
    width = max(map(len, names))
    lines = [f"balance: repeat: {factors.sum():.0f} {unit} an epoch on average in place of {len(images)}"]
    lines += [
        f"  {names[label]:{width}}  in {counts[label]:6} {unit} an epoch without, {balanced[label]:8.1f} with"
        for label in order[:MOST_CLASSES]
    ]
    if len(order) > MOST_CLASSES:
        rest = order[MOST_CLASSES:]
        least, most = counts[rest[0]], counts[rest[-1]]
        shown = f"{balanced[rest].min():.1f} to {balanced[rest].max():.1f}"
        lines.append(f"  {len(rest)} more classes: in {least} to {most} {unit} without, {shown} with")
    return lines


def _pairs(images: LabelledImages) -> tuple[np.ndarray, np.ndarray]:
    """Positions of images and classes that they show, each pair once."""
    samples, classes = images.samples, max(len(images.names), 1)
    pairs = np.unique((samples.image_index() * classes + samples.labels)[~samples.crowd])
    return pairs // classes, pairs % classes
