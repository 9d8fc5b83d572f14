"""From a configuration to what a training step needs: the model, ready to be trained, and its Stepper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from data.anchors import fit_anchors_
from data.read import DataSplits
from engine.optim import freeze_
from engine.step import Criterion, StepClock, Stepper
from models.build import build_criterion, build_model, check_image_size
from models.config import model_config_from
from models.detector import Detector
from models.heads.anchor import AnchorHead
from models.pretrained import start_from_
from models.regularization import regularize_
from utils.train_config import TrainConfig


def build_trainable(
    config: TrainConfig, images: DataSplits, device: torch.device, *, fresh: bool, trust: bool = False
) -> Detector:
    """The model of a configuration on its device, frozen where the recipe says so.

    Args:
        fresh: give it initial weights and anchors; else a checkpoint will.
        trust: `config.weights` may run the code in a foreign pickle file.
    """
    model = build_model(model_config_from(config.model, where="model"), len(images.names), pretrained=fresh)
    check_image_size(model, config.image_size, where="--img-size")
    has_head = fresh and config.weights is not None and start_from_(model, Path(config.weights), trust=trust)
    # Anchors belong to the head that was trained with them.
    if fresh and not has_head and isinstance(model.head, AnchorHead) and config.recipe.anchor_recall:
        fit_anchors_(model.head, images.train, config)
    regularize_(model, config.recipe)
    freeze_(model, config.recipe.freeze)
    if config.recipe.channels_last:
        model.to(memory_format=torch.channels_last)
    return model.to(device)


def build_stepper(
    config: TrainConfig,
    model: Detector,
    device: torch.device,
    *,
    class_counts: Sequence[int],
    total_steps: int,
    forward: Callable[[Tensor], Any] | None = None,
) -> Stepper:
    """What the steps of a run have in common.

    Args:
        forward: the model as it is called (in DDP, compiled); None calls the model itself.
    """
    recipe = config.recipe
    criterion = build_criterion(model, recipe.loss, where="recipe: loss", class_counts=class_counts)
    return Stepper(
        forward or model, cast(Criterion, criterion), recipe, total_steps, config.seed, device, StepClock(device)
    )
