"""How much a file that ends in detections differs from the original and our own suppression."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from models.export.compare import BestClass, Difference, ExportError, compare, made_up_images
from models.export.network import ExportSpec
from models.info import Predictor, Values
from models.layouts import Final
from models.postprocess import postprocess, to_array, with_temperature
from utils.boxes import clip
from utils.metrics.calibration import calibrated, uncalibrated
from utils.structures import Detections

WANTED = 100
"""Candidates of the made-up images that are compared; a trained model may find nothing in them by itself."""
FLIPS = 0.03
"""Share of the detections that may come or go: an overlap or a score on the edge of a threshold."""


def trial_spec(original: Predictor, spec: ExportSpec, shapes: Sequence[tuple[int, int, int]]) -> ExportSpec:
    """The same file with a threshold that some candidates of the made-up images are above."""
    assert spec.layout.final is not None
    scores = [
        to_array(original.predict(made_up_images(shape, seed=index))[1]).ravel() for index, shape in enumerate(shapes)
    ]
    best = np.sort(np.concatenate(scores))[::-1]
    place = min(WANTED, len(best) - 1)
    threshold = float(best[max(place - 1, 0)] + best[place]) / 2
    if not math.isfinite(threshold):
        raise ExportError("the original gives scores that are no finite numbers")
    threshold = float(calibrated(np.array(min(max(threshold, 0.0), 1.0)), spec.info.temperature))
    final = replace(spec.layout.final, conf_thres=threshold)
    return replace(spec, layout=replace(spec.layout, final=final))


def compare_as_layout(
    original: Predictor, exported: Predictor, spec: ExportSpec, shapes: Sequence[tuple[int, int, int]]
) -> Difference:
    """As `compare`, of what the file's layout has of it.

    Raises:
        ExportError: the exported model does not run, or its detections are others.
    """
    if spec.layout.final:
        return compare_detections(original, exported, spec, shapes)
    return compare(BestClass(original) if spec.layout.kind == "deepstream" else original, exported, shapes)


def compare_detections(
    original: Predictor, exported: Predictor, spec: ExportSpec, shapes: Sequence[tuple[int, int, int]]
) -> Difference:
    """As `compare`, of detections: each of the original's with one of its class in the file's.

    Raises:
        ExportError: the exported model does not run.
    """
    assert spec.layout.final is not None
    worst, missed, count, equal = Difference(0.0, 0.0, 0.0), 0, 0, 0
    for index, shape in enumerate(shapes):
        images = made_up_images(shape, seed=index)
        wanted = expected_detections(original, images, spec.layout.final, spec)
        try:
            found = [detections_of(*each) for each in zip(*map(to_array, exported.predict(images)), strict=True)]
        except Exception as error:  # every runtime has exceptions of its own
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ExportError(f"it does not run on {shape[0]} x {shape[1]} x {shape[2]} images: {reason}") from error
        for one, other in zip(wanted, found, strict=True):
            difference, unmatched = compare_matched(one, other, longest=max(shape[1:]))
            worst = worst.larger(difference)
            missed, count = missed + unmatched, count + len(one)
            equal += len(one) - len(np.unique(one.scores))
    if missed > max(FLIPS * count, 1) and spec.calibration is None:  # int8 is judged by its AP
        hint = "; most of its scores are equal, as when a model has hardly been trained" if 2 * equal > count else ""
        raise ExportError(f"{missed} detections are missing or new beside the original's {count}{hint}")
    return worst


def expected_detections(original: Predictor, images: object, final: Final, spec: ExportSpec) -> list[Detections]:
    """What the file should give for images of the network's size."""
    boxes, scores = original.predict(images)  # type: ignore[arg-type]
    found = final_detections(boxes, scores, final, spec)
    if not spec.layout.picture:
        return found
    height, width = images.shape[-2:]  # type: ignore[attr-defined]
    cut = [Detections(clip(each.boxes, height, width), each.scores, each.labels) for each in found]
    return [each.select(np.all(each.boxes[:, 2:] > each.boxes[:, :2], axis=1)) for each in cut]


def final_detections(boxes: Values, scores: Values, final: Final, spec: ExportSpec) -> list[Detections]:
    """`postprocess` with what is built into the file."""
    found = postprocess(
        boxes,
        scores,
        conf_thres=uncalibrated(final.conf_thres, spec.info.temperature),
        iou_thres=final.iou_thres,
        max_det=final.max_det,
        nms=spec.info.nms,
        beta_nms=spec.info.beta_nms,
    )
    return [with_temperature(each, spec.info.temperature) for each in found]


def detections_of(boxes: np.ndarray, scores: np.ndarray) -> Detections:
    """Boxes (M, 4) and scores (M, C), as `Layout.candidates` gives those of a file with detections."""
    rows, labels = np.nonzero(scores)
    return Detections(boxes[rows], scores[rows, labels], labels.astype(np.int64))


def compare_matched(wanted: Detections, found: Detections, *, longest: int) -> tuple[Difference, int]:
    """The largest differences of those that are the same object, and how many have no partner.

    Args:
        longest: side of the image in pixels.
    """
    free = np.ones(len(found), bool)
    pixels = shares = scores = 0.0
    missed = 0
    for box, score, label in zip(wanted.boxes, wanted.scores, wanted.labels, strict=True):
        rows = np.flatnonzero(free & (found.labels == label) & (np.abs(found.scores - score) < 0.05))
        apart = np.abs(found.boxes[rows] - box).max(axis=1, initial=0.0)
        size = np.maximum(np.abs(box).max(), longest)
        if not len(rows) or apart.min() > 0.05 * size:
            missed += 1
            continue
        best = int(apart.argmin())
        free[rows[best]] = False
        pixels, shares = max(pixels, float(apart[best])), max(shares, float(apart[best] / size))
        scores = max(scores, float(abs(found.scores[rows[best]] - score)))
    return Difference(pixels, shares, scores), missed + int(free.sum())
