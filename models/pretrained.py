"""Start a model from the weights of another: what fits is copied, and everything is counted."""

from __future__ import annotations

import logging
from pathlib import Path

from models.darknet.weights import load_weights_
from models.detector import Detector
from utils.config import ConfigError
from utils.training.checkpoint import load_checkpoint, load_matching_

logger = logging.getLogger(__name__)


def start_from_(model: Detector, path: Path) -> None:
    """Copy the averaged weights of a checkpoint wherever name and shape agree, and say what that was.

    A darknet file (.weights, .conv.N) must have the model's layers from the first on: all of them, the first N, or all
    but those before the yolo layers where it was trained on other classes.

    Raises:
        ConfigError: not a checkpoint of ours or a darknet file, or nothing in it fits.
    """
    if path.suffix == ".weights" or ".conv." in path.name:
        _start_from_darknet_(model, path)
        return
    if path.suffix != ".pt":
        raise ConfigError(f"--weights {path}: expected a checkpoint (.pt) or a darknet file (.weights, .conv.N)")
    weights = load_checkpoint(path)["ema"]
    loaded, other_shape, absent = load_matching_(model, weights)
    if not loaded:
        raise ConfigError(f"--weights {path}: none of its {len(weights)} tensors fits this model; is it another --cfg?")
    logger.info("Weights: %d of %d tensors loaded from %s", len(loaded), len(model.state_dict()), path)
    for what, names in (("of another shape, left as initialised", other_shape), ("not in the file", absent)):
        if names:
            logger.info("  %d %s: %s%s", len(names), what, ", ".join(names[:6]), ", ..." if len(names) > 6 else "")


def _start_from_darknet_(model: Detector, path: Path) -> None:
    found = load_weights_(model, path, partial=True)
    logger.info("Weights: %d of %d layers loaded from %s, up to %s", found.layers, found.of, path, found.last)
    if found.skipped:
        logger.info("  %d layers are for other classes and left as initialised", found.skipped)
    rest = found.of - found.layers - found.skipped
    if rest:
        logger.info("  %d layers are not in the file and left as initialised", rest)
