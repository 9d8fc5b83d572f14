"""val.py --calibrate: one temperature, fitted on val, judged on the split at hand, stored in the checkpoint."""

from __future__ import annotations

from pathlib import Path

from utils.checkpoint import add_to_checkpoint
from utils.config import ConfigError
from utils.metrics.calibration import TEMPERATURES, fit_temperature
from utils.metrics.detection import DetectionMetric
from utils.metrics.figures import figure_text
from utils.metrics.operating import Fit, fit_of, thresholds_of, with_operating_point


def calibrate(on_val: DetectionMetric, judged: DetectionMetric, weights: Path, *, split: str) -> str:
    """Fit a temperature to the scores of val, store it with the thresholds of best F1, and apply it to both metrics.

    Args:
        on_val, judged: what was found in val, and in the split to judge by, which may be val itself.
        weights: the checkpoint.
        split: the name of the latter.
    Returns:
        What changed, for the output.
    Raises:
        ConfigError: val says nothing about the scores.
        OSError: the checkpoint cannot be written; what was there stays.
    """
    before = fit_of(judged)
    former = on_val.temperature
    on_val.calibrate(1.0)  # what is fitted is the model's own scores
    matches = on_val.matches()
    temperature = fit_temperature(matches.scores, matches.hits)
    if temperature is None:
        which = "all" if len(matches) and matches.hits.all() else "none"
        raise ConfigError(
            f"--calibrate: of the {len(matches):,} detections in val, {which} found an object, so there is no "
            "temperature to fit; nothing was stored"
        )
    for metric in (on_val, judged):
        metric.calibrate(temperature)
    thresholds = thresholds_of(with_operating_point(on_val.compute(), on_val))
    assert thresholds is not None  # something was found
    add_to_checkpoint(weights, {"temperature": temperature, "thresholds": thresholds.to_plain()})
    lines = [
        f"Temperature {temperature:.3f}, fitted to the {len(matches):,} detections in val (before: {former:.3f})",
        *_change(before, fit_of(judged), split),
        f"Stored in {weights}, with the thresholds of best F1. AP is the same: the order of the detections is",
    ]
    if temperature in TEMPERATURES or not TEMPERATURES[0] * 1.001 < temperature < TEMPERATURES[1] / 1.001:
        lines.append("Note: that is the limit of what is fitted. Scores so far off are no matter of a temperature")
    return "\n".join(lines)


def _change(before: Fit, after: Fit, split: str) -> list[str]:
    seen = " (fitted on it; --split test is the judge)" if split == "val" else ""
    rows = (
        (f"D-ECE of the {after.shown_count:,} detections above the best F1's threshold", before.shown, after.shown, 3),
        (f"D-ECE of all {after.count:,}", before.every, after.every, 3),
        ("log loss of all", before.loss, after.loss, 4),
    )
    changes = [f"  {name}: {figure_text(a, digits=n)} -> {figure_text(b, digits=n)}" for name, a, b, n in rows]
    return [f"On {split}{seen}:", *changes]
