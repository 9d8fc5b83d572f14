"""Does a score of 0.8 mean 0.8? The calibration error of detections, and one temperature that makes it smaller."""

from __future__ import annotations

import numpy as np

BINS = 20
TEMPERATURES = (0.1, 10.0)
"""Range of what is fitted: beyond, a temperature is no answer."""
_EDGE = 1e-7


def calibrated(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Scores whose log-odds are divided by a temperature (Guo et al., arXiv:1706.04599); their order stays.

    `calibrated(calibrated(scores, t), 1 / t)` gives the scores again.

    Args:
        scores: (N,) in [0, 1]. 0, 0.5 and 1 stay what they are.
        temperature: above 1 takes scores towards 0.5, below 1 away from it.
    Returns:
        (N,) float64.

    >>> calibrated(np.array([0.0, 0.2, 0.5, 0.8, 1.0]), 2.0).round(3).tolist()
    [0.0, 0.333, 0.5, 0.667, 1.0]
    """
    values = np.asarray(scores, np.float64)
    with np.errstate(divide="ignore", over="ignore"):
        odds = (np.log1p(-values) - np.log(values)) / temperature
        return 1 / (1 + np.exp(odds))


def uncalibrated(score: float, temperature: float) -> float:
    """The score that `calibrated` makes this one of; to the last bit at temperature 1."""
    return score if temperature == 1 else float(calibrated(np.array(score), 1 / temperature))


def calibrated_in_order(scores: np.ndarray, temperature: float) -> np.ndarray:
    """As `calibrated`, and different scores stay different: where rounding makes them equal, by the last bit.

    So every figure that depends on the order of the detections alone, such as AP, is the same before and after.
    """
    values, place = np.unique(np.asarray(scores, np.float64), return_inverse=True)
    new = calibrated(values, temperature)
    if (np.diff(new) <= 0).any():
        half = int(np.searchsorted(new, 0.5))
        for index in range(1, half):  # towards 0.5, so that all stay between 0 and 1
            new[index] = max(new[index], np.nextafter(new[index - 1], 1))
        for index in range(len(new) - 2, half - 1, -1):
            new[index] = min(new[index], np.nextafter(new[index + 1], 0))
    return new[place]


def calibration_error(scores: np.ndarray, hits: np.ndarray, *, bins: int = BINS) -> float | None:
    """D-ECE by confidence alone: how far mean score and precision are apart (Küppers et al., CVPR Workshops 2020).

    The mean over bins of equal width in [0, 1], weighted by the detections in each; None without detections.

    Args:
        scores: (N,) in [0, 1]; hits: (N,) bool, whether a detection found an object.

    >>> calibration_error(np.array([0.9, 0.9, 0.6, 0.6]), np.array([True, True, False, True])).__round__(3)
    0.1
    """
    if not len(scores):
        return None
    place = np.minimum((scores * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(place, scores, minlength=bins) - np.bincount(place, hits, minlength=bins)
    return float(np.abs(gaps).sum() / len(scores))


def log_loss(scores: np.ndarray, hits: np.ndarray) -> float | None:
    """Mean negative log-likelihood of what is a hit and what is not; None without detections."""
    if not len(scores):
        return None
    values = np.clip(scores, _EDGE, 1 - _EDGE)
    return float(-np.log(np.where(hits, values, 1 - values)).mean())


def fit_temperature(scores: np.ndarray, hits: np.ndarray) -> float | None:
    """The temperature in TEMPERATURES with the least log loss, None where all or none are hits.

    The loss is convex in the inverse of the temperature, so its derivative has one zero, which bisection finds.

    Args:
        scores, hits: as in `calibration_error`, of all detections, those with low scores too: those above a threshold
            alone would pull the temperature to where that threshold is.
    """
    if not len(scores) or hits.all() or not hits.any():
        return None
    values = np.clip(np.asarray(scores, np.float64), _EDGE, 1 - _EDGE)
    logits = np.log(values) - np.log1p(-values)
    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    while high - low > 1e-9:
        middle = (low + high) / 2
        with np.errstate(over="ignore"):
            slope = logits @ (1 / (1 + np.exp(-middle * logits)) - hits)
        low, high = (low, middle) if slope > 0 else (middle, high)
    return 2 / (low + high)
