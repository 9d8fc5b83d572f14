"""What a recipe leaves to the program, fixed when a training starts and its images are known."""

from __future__ import annotations

import logging
from dataclasses import replace

from utils.training.config import TrainConfig

logger = logging.getLogger(__name__)

FEWEST, MOST = 50, 300
"""Epochs that `epochs: auto` gives."""


def epochs_for(images: int) -> int:
    """Epochs for a number of training images: 3000 / sqrt(images), from 50 to 300.

    A rule of thumb: four times as many images are seen half as often each, and so make the training twice as long. It
    gives 300 epochs for up to 100 images, 95 for 1,000, and 50 from 3,600 on.
    """
    return min(max(round(3000 / images**0.5), FEWEST), MOST)


def settled(config: TrainConfig, images: int) -> TrainConfig:
    """The configuration with a number for `epochs: auto`.

    Args:
        images: for training.
    """
    if config.recipe.epochs != "auto":
        return config
    epochs = epochs_for(images)
    logger.info("Epochs: %d for %d training images (3000 / sqrt(images), %d to %d)", epochs, images, FEWEST, MOST)
    return replace(config, recipe=replace(config.recipe, epochs=epochs))
