"""TrainConfig: the resolved configuration of one run; `settled` gives keys that are `auto` the values for its data."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from utils.config import load_yaml
from utils.finetune_config import StartConfig
from utils.recipe import RecipeConfig
from utils.schema import require, to_dataclass

logger = logging.getLogger(__name__)

FEWEST_EPOCHS, MOST_EPOCHS = 50, 300
"""The range of `epochs: auto`, unless that makes fewer than LEAST_STEPS."""

LEAST_STEPS = 1000
"""That `epochs: auto` makes, however few images there are."""

LEAST_SCALE, MOST_SCALE = 0.1, 0.5
"""The range of `augment.scale: auto`."""


@dataclass(frozen=True)
class TrainConfig:
    """One run, resolved: what config.yaml in its folder says.

    Args:
        model: plain values of a ModelConfig.
        data: path of the data YAML, or 'shapes'.
        image_size: (height, width) of the network input.
        weights: checkpoint to start from; None starts from random weights.
        seed: of weights, order and augmentation.
        workers: loader processes; changes speed only.
        start: what the weights gave, once they are loaded; None for random weights.
    """

    model: dict[str, Any]
    recipe: RecipeConfig
    data: str
    image_size: tuple[int, int]
    weights: str | None
    seed: int
    workers: int
    start: StartConfig | None = None

    def __post_init__(self) -> None:
        for name in ("seed", "workers"):
            require(getattr(self, name) >= 0, name, "a whole number of at least 0", getattr(self, name))


def saved_config(path: Path, *, workers: int | None = None) -> TrainConfig:
    """The configuration in a run's config.yaml, with another number of loader processes if one is given.

    Raises:
        ConfigError: not a file that train.py wrote.
    """
    saved = load_yaml(path)
    if workers is not None:
        saved["workers"] = workers
    return to_dataclass(TrainConfig, saved, where=str(path))


def epochs_for(images: int, *, batch: int) -> int:
    """Epochs for a number of training images: 3000 / sqrt(images), from 50 to 300, and at least 1,000 steps.

    A rule of thumb: four times as many images are seen half as often each, and so make the training twice as long. It
    gives 300 epochs for up to 100 images, 95 for 1,000, and 50 from 3,600 on. Some dozen images make a step or two an
    epoch, and no network learns in 300 of those.

    Args:
        batch: images of a step.
    """
    steps = max(-(-images // batch), 1)
    return max(min(max(round(3000 / images**0.5), FEWEST_EPOCHS), MOST_EPOCHS), -(-LEAST_STEPS // steps))


def scale_for(spread: float) -> float:
    """The change of size in the augmentation: the variance of the objects' own sizes, from 0.1 to 0.5.

    Where objects of a class have nearly one size, images at half their size cost more than they teach. Measured on sets
    with spreads from 0.1 to 0.4 (docs/experiments.md); from 0.7 on, as in COCO, it is the 0.5 that is usual there.

    Args:
        spread: standard deviation of the logarithm of the sizes (`data.anchors.size_spread`).

    >>> scale_for(0.1), scale_for(0.4), scale_for(0.8)
    (0.1, 0.16, 0.5)
    """
    return round(min(max(spread**2, LEAST_SCALE), MOST_SCALE), 2)


def settled(config: TrainConfig, images: int, *, spread: float | None = None) -> TrainConfig:
    """The configuration with numbers for `epochs: auto` and `augment.scale: auto`.

    Args:
        images: for training.
        spread: of the sizes of their objects, as for `scale_for`; None for a classifier. Where the scale is not read
            (`geometry: jitter`), it stays 'auto'.
    """
    recipe = config.recipe
    if recipe.epochs == "auto":
        epochs = epochs_for(images, batch=recipe.batch_size * recipe.accumulate)
        rule = f"3000 / sqrt(images), {FEWEST_EPOCHS} to {MOST_EPOCHS}, at least {LEAST_STEPS} steps"
        logger.info("Epochs: %d for %d training images (%s)", epochs, images, rule)
        recipe = replace(recipe, epochs=epochs)
    if recipe.augment.scale == "auto" and recipe.augment.changes_size and spread is not None:
        scale = scale_for(spread)
        logger.info(
            "Augmentation: scale %g, as objects of one class differ in size by a factor of %.2f",
            scale,
            math.exp(spread),
        )
        recipe = replace(recipe, augment=replace(recipe.augment, scale=scale))
    return config if recipe is config.recipe else replace(config, recipe=recipe)
