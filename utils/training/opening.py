"""What is said when a training begins."""

from __future__ import annotations

import logging
from pathlib import Path

from utils import dist
from utils.training.config import TrainConfig
from utils.training.state import TrainState, amp_dtype
from utils.training.step import Stepper

logger = logging.getLogger(__name__)


def describe_training(config: TrainConfig, folder: Path, stepper: Stepper, state: TrainState, data: list[str]) -> None:
    """Folder, model, data, length and precision of a training.

    Args:
        folder: of the run.
        data: lines about the data set.
    """
    recipe, device = config.recipe, stepper.device
    count = sum(parameter.numel() for parameter in state.model.parameters() if parameter.requires_grad)
    height, width = config.image_size
    batch = f"{recipe.batch_size} x {recipe.accumulate}" if recipe.accumulate > 1 else str(recipe.batch_size)
    amp = amp_dtype(recipe, device)
    precision = "full precision" if amp is None else str(amp).removeprefix("torch.")
    where = f"{device} x {dist.world_size()}" if dist.world_size() > 1 else str(device)
    logger.info("Run folder: %s", folder)
    logger.info("Model: %s, %.2f M trainable parameters", config.model["name"], count / 1e6)
    logger.info("Data: %s", "\n  ".join(data))
    logger.info("Training: %d epochs of %.0f steps, batch %s", recipe.epochs, stepper.steps_per_epoch, batch)
    logger.info("  %d x %d px, %s, on %s", height, width, precision, where)
    planned = recipe.optimizer.lr_batch
    if planned is not None:
        images = recipe.batch_size * recipe.accumulate
        how = "in proportion" if recipe.optimizer.type == "sgd" else "by the square root"
        rates = f"{recipe.lr:.3g} for steps of {images} images (the recipe's {recipe.optimizer.lr:g} is for {planned}"
        logger.info("  learning rate %s; %s)", rates, how)
