"""What a detector is shipped with: the threshold of the best F1, what is confused at it, and what its scores mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.metrics.calibration import BINS, calibration_error, log_loss
from utils.metrics.confusion import confusion_matrix
from utils.metrics.detection import DetectionMetric
from utils.metrics.f1 import SAMPLES, BestF1, best_f1, of_class, rates_above, spread_of_best
from utils.metrics.figures import figure_text
from utils.metrics.matches import MATCH_IOU, Matches
from utils.thresholds import LEAST_OBJECTS, Thresholds

GRID = np.linspace(0, 1, 501)
"""Thresholds of the curves."""


def with_operating_point(figures: Mapping[str, Any], metric: DetectionMetric) -> dict[str, Any]:
    """The figures of `DetectionMetric.compute` with 'f1' and 'calibration', and 'f1', 'conf', 'objects' of each class.

    All at IoU 0.5. None where there is nothing to measure on. 'f1': the best F1 of all classes together ('best'), its
    threshold ('conf'), precision and recall there, and the middle 95 % of both over samples of the images.
    'calibration': D-ECE of the detections above that threshold, and of all.
    """
    matches = metric.matches()
    best = best_f1(matches.scores, matches.hits, len(matches.object_labels))
    spread = spread_of_best(matches) or (None, None)
    f1: dict[str, Any] = {"best": _zero_or_none(matches), "conf": None, "precision": None, "recall": None}
    if best is not None:
        f1 = {"best": best.f1, "conf": best.conf, "precision": best.precision, "recall": best.recall}
    f1 |= {"best_interval": spread[0] and list(spread[0]), "conf_interval": spread[1] and list(spread[1])}
    fit = fit_of(metric)
    calibration = {
        "d_ece": fit.shown,
        "detections": fit.shown_count,
        "d_ece_all": fit.every,
        "detections_all": fit.count,
        "bins": BINS,
        "log_loss": fit.loss,
        "temperature": metric.temperature,
    }
    per_class = {}
    for label, (name, row) in enumerate(figures["per_class"].items()):
        scores, hits, objects = of_class(matches, label)
        own = best_f1(scores, hits, objects)
        value = own.f1 if own else 0.0 if objects else None
        per_class[name] = {**row, "f1": value, "conf": own and own.conf, "objects": objects}
    return {**figures, "per_class": per_class, "f1": {**f1, "iou": MATCH_IOU}, "calibration": calibration}


@dataclass(frozen=True)
class Fit:
    """How well scores say what they mean.

    Args:
        shown: D-ECE of the `shown_count` detections above the threshold of the best F1.
        every: D-ECE of all `count` detections, most of which have low scores.
        loss: log loss of all. Each is None where there is nothing to measure on.
    """

    shown: float | None
    shown_count: int
    every: float | None
    count: int
    loss: float | None


def fit_of(metric: DetectionMetric) -> Fit:
    """Of what a metric has, with its temperature. Detections above the best F1 are the same at any temperature."""
    matches = metric.matches()
    shown = _above_best(matches, best_f1(matches.scores, matches.hits, len(matches.object_labels)))
    every = calibration_error(matches.scores, matches.hits)
    loss = log_loss(matches.scores, matches.hits)
    return Fit(calibration_error(shown.scores, shown.hits), len(shown), every, len(matches), loss)


def thresholds_of(figures: Mapping[str, Any]) -> Thresholds | None:
    """The thresholds to ship, of the figures of `with_operating_point`; None where nothing was found."""
    if figures["f1"]["conf"] is None:
        return None
    rows = figures["per_class"].values()
    return Thresholds(
        figures["f1"]["conf"], tuple(row["conf"] if row["objects"] >= LEAST_OBJECTS else None for row in rows)
    )


def operating_text(figures: Mapping[str, Any]) -> str:
    """The figures of `with_operating_point` that a user should see, in words."""
    f1, calibration = figures["f1"], figures["calibration"]
    if f1["conf"] is None:
        best = figure_text(f1["best"])
        return f"Best F1 at IoU {MATCH_IOU:g}: {best}, no threshold: nothing was found, or nothing is there"
    spans = ["{:.3f} to {:.3f}".format(*f1[key]) for key in ("best_interval", "conf_interval")]
    line = (
        f"Best F1 at IoU {MATCH_IOU:g}: {f1['best']:.3f} at scores above {f1['conf']:.3f}, precision "
        f"{f1['precision']:.3f}, recall {f1['recall']:.3f}\n"
        f"  95 % of {SAMPLES} samples of the images: F1 {spans[0]}, threshold {spans[1]}\n"
        f"D-ECE of the {calibration['detections']:,} detections above it: {figure_text(calibration['d_ece'])}, of all "
        f"{calibration['detections_all']:,}: {figure_text(calibration['d_ece_all'])}"
    )
    heated = calibration["temperature"] != 1
    return line + (f", with the file's temperature {calibration['temperature']:.3f}" if heated else "")


def curves(matches: Matches, names: tuple[str, ...]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Over GRID: precision, recall and F1 of all classes together, and F1 by the name of each class with objects."""
    of_all = rates_above(GRID, matches.scores, matches.hits, len(matches.object_labels))
    by_class = {}
    for label, name in enumerate(names):
        scores, hits, objects = of_class(matches, label)
        if objects:
            by_class[name] = rates_above(GRID, scores, hits, objects)[2]
    return dict(zip(("precision", "recall", "F1"), of_all, strict=True)), by_class


def confusion_at_best(figures: Mapping[str, Any], matches: Matches) -> np.ndarray:
    """`confusion_matrix` at the threshold of the best F1; where there is none, of no detection."""
    conf = figures["f1"]["conf"]
    return confusion_matrix(matches, 1.0 if conf is None else conf)


def _above_best(matches: Matches, best: BestF1 | None) -> Matches:
    return matches.select(matches.scores > (1 if best is None else best.conf))


def _zero_or_none(matches: Matches) -> float | None:
    return 0.0 if len(matches.object_labels) else None
