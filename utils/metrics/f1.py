"""F1, precision and recall over the score threshold, the threshold of the best F1, and how sure both are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from utils.metrics.matches import Matches

SAMPLES = 200
"""Samples of the bootstrap."""


@dataclass(frozen=True)
class BestF1:
    """The best F1 of some detections, at scores above `conf`."""

    f1: float
    conf: float
    precision: float
    recall: float


def best_f1(scores: np.ndarray, hits: np.ndarray, objects: int) -> BestF1 | None:
    """The highest F1 that a threshold gives; of several thresholds with it the highest.

    Args:
        scores: (N,) descending.
        hits: (N,) bool, whether a detection found an object.
        objects: how many there are.
    Returns:
        None where nothing was found, or nothing is to be found. The threshold lies halfway between the lowest score
        that it keeps and the next one, so that another runtime's rounding changes nothing.

    >>> best_f1(np.array([0.9, 0.75, 0.5, 0.25]), np.array([True, True, False, False]), 3)
    BestF1(f1=0.8, conf=0.625, precision=1.0, recall=0.6666666666666666)
    """
    if not objects or not hits[scores > 0].any():
        return None
    ends = _ends(scores)
    found, kept = np.cumsum(hits)[ends], ends + 1
    best = int(np.argmax(found / (kept + objects)))
    precision, recall = float(found[best] / kept[best]), float(found[best] / objects)
    f1 = float(2 * found[best] / (kept[best] + objects))
    return BestF1(f1, _threshold(scores, int(ends[best])), precision, recall)


def rates_above(
    thresholds: np.ndarray, scores: np.ndarray, hits: np.ndarray, objects: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1 of the detections with scores above each of T thresholds, (T,) each.

    Precision is NaN where no detection is left; recall and F1 where there is no object.

    Args:
        scores, hits, objects: as in `best_f1`.
    """
    kept = np.searchsorted(-scores, -thresholds, side="left")
    found = np.concatenate(([0], np.cumsum(hits)))[kept]
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = found / objects if objects else np.full(len(kept), np.nan)
        return found / kept, recall, 2 * found / (kept + objects) if objects else recall


def of_class(matches: Matches, label: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Scores, hits and number of objects of one class, as `best_f1` takes them."""
    rows = matches.labels == label
    return matches.scores[rows], matches.hits[rows], int((matches.object_labels == label).sum())


def spread_of_best(
    matches: Matches, *, samples: int = SAMPLES, seed: int = 0
) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """The middle 95 % of the best F1 and of its threshold, over samples of the images with repetition (Efron).

    Returns:
        (low, high) of F1, and of the threshold; None as in `best_f1`.
    """
    if best_f1(matches.scores, matches.hits, len(matches.object_labels)) is None:
        return None
    rng = np.random.default_rng(seed)
    objects = np.bincount(matches.object_images, minlength=matches.image_count)
    ends = _ends(matches.scores)
    rows = np.flatnonzero(matches.hits)
    places = ends[np.unique(np.searchsorted(ends, rows[rows <= ends[-1]]))]  # F1 is highest right after a hit
    draws = []
    for _ in range(samples):
        counts = np.bincount(rng.integers(matches.image_count, size=matches.image_count), minlength=matches.image_count)
        weights = counts[matches.images]
        found = np.cumsum(weights[rows])[np.searchsorted(rows, places, side="right") - 1]
        total = int(counts @ objects)
        if not total or not found[-1]:
            continue  # a sample without an object, or without one that was found
        values = 2 * found / (np.cumsum(weights)[places] + total)
        best = int(np.argmax(values))
        draws.append((values[best], _threshold(matches.scores, int(places[best]))))
    low, high = np.quantile(np.array(draws), (0.025, 0.975), axis=0)
    return (float(low[0]), float(high[0])), (float(low[1]), float(high[1]))


def _ends(scores: np.ndarray) -> np.ndarray:
    """Where each run of equal scores ends: no threshold lies within one, and none is below 0."""
    return np.flatnonzero(np.append(scores[1:] != scores[:-1], True) & (scores > 0))


def _threshold(scores: np.ndarray, last: int) -> float:
    """A number that the scores up to the position `last` are above, and no other.

    It is a float32, as which it is compared with the scores of a model.
    """
    lowest = np.float32(scores[last])
    if last + 1 == len(scores):  # what an evaluation with a lower threshold would have kept is not known
        return float(np.nextafter(lowest, np.float32(0)))
    below = float(scores[last + 1])
    middle = float(np.float32((float(lowest) + below) / 2))
    return middle if below <= middle < scores[last] else below
