"""What a recipe leaves to the program, fixed when a training starts and its images are known."""

from __future__ import annotations

import logging
from dataclasses import replace

from utils.training.config import TrainConfig

logger = logging.getLogger(__name__)

FEWEST, MOST = 50, 300
"""Epochs that `epochs: auto` gives,"""

LEAST_STEPS = 1000
"""and the steps that it makes of them at least, however few images there are."""


def epochs_for(images: int, *, batch: int) -> int:
    """Epochs for a number of training images: 3000 / sqrt(images), from 50 to 300, and at least 1,000 steps.

    A rule of thumb: four times as many images are seen half as often each, and so make the training twice as long. It
    gives 300 epochs for up to 100 images, 95 for 1,000, and 50 from 3,600 on. Some dozen images make a step or two an
    epoch, and no network learns in 300 of those.

    Args:
        batch: images of a step.
    """
    steps = max(-(-images // batch), 1)
    return max(min(max(round(3000 / images**0.5), FEWEST), MOST), -(-LEAST_STEPS // steps))


def settled(config: TrainConfig, images: int) -> TrainConfig:
    """The configuration with a number for `epochs: auto`.

    Args:
        images: for training.
    """
    if config.recipe.epochs != "auto":
        return config
    recipe = config.recipe
    epochs = epochs_for(images, batch=recipe.batch_size * recipe.accumulate)
    rule = f"3000 / sqrt(images), {FEWEST} to {MOST}, at least {LEAST_STEPS} steps"
    logger.info("Epochs: %d for %d training images (%s)", epochs, images, rule)
    return replace(config, recipe=replace(recipe, epochs=epochs))
