"""Start a model from the weights of another: what fits is copied, and everything is counted."""

from __future__ import annotations

import logging
from pathlib import Path

from models.detector import Detector
from utils.config import ConfigError
from utils.training.checkpoint import load_checkpoint, load_matching_

logger = logging.getLogger(__name__)


def start_from_(model: Detector, path: Path) -> None:
    """Copy the averaged weights of a checkpoint wherever name and shape agree, and say what that was.

    Raises:
        ConfigError: not a checkpoint of ours, or nothing in it fits.
    """
    if path.suffix != ".pt":
        raise ConfigError(f"--weights {path}: expected a checkpoint of CSPDet (.pt)")
    weights = load_checkpoint(path)["ema"]
    loaded, other_shape, absent = load_matching_(model, weights)
    if not loaded:
        raise ConfigError(f"--weights {path}: none of its {len(weights)} tensors fits this model; is it another --cfg?")
    logger.info("Weights: %d of %d tensors loaded from %s", len(loaded), len(model.state_dict()), path)
    for what, names in (("of another shape, left as initialised", other_shape), ("not in the file", absent)):
        if names:
            logger.info("  %d %s: %s%s", len(names), what, ", ".join(names[:6]), ", ..." if len(names) > 6 else "")
