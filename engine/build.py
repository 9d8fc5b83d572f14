"""From a configuration to what a training step needs: the model, ready to be trained, and its Stepper."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from data.anchors import fit_anchors_, size_spread
from data.read import DataSplits
from engine.finetune import with_start
from engine.optim import freeze_, keep_frozen_statistics_
from engine.step import Criterion, StepClock, Stepper
from models.build import build_criterion, build_model, check_image_size
from models.config import model_config_from
from models.detector import Detector
from models.heads.anchor import AnchorHead
from models.info import ModelInfo
from models.normalization import CrossBatchNorm2d
from models.predictor_torch import ModelPredictor
from models.pretrained import start_from_
from models.regularization import regularize_
from utils.config import ConfigError
from utils.recipe import RecipeConfig
from utils.structures import LabelledImages
from utils.train_config import TrainConfig, settled


def settled_for(config: TrainConfig, images: LabelledImages) -> TrainConfig:
    """The configuration with numbers for what follows from the training images (`settled`)."""
    spread = size_spread(images, config.image_size, config.model["resize"]) if images.task == "detect" else None
    return settled(config, len(images), spread=spread)


def build_trainable(
    config: TrainConfig, images: DataSplits, device: torch.device, *, fresh: bool, trust: bool = False
) -> tuple[Detector, TrainConfig]:
    """The model of a configuration on its device, frozen where the recipe says so.

    Args:
        fresh: give it initial weights and anchors; else a checkpoint will.
        trust: `config.weights` may run the code in a foreign pickle file.
    Returns:
        The model, and the configuration with what follows from its initial weights.
    """
    model = build_model(model_config_from(config.model, where="model"), len(images.names), pretrained=fresh)
    check_image_size(model, config.image_size, where="--img-size")
    if fresh:
        config = _with_initial_weights_(config, model, images, trust=trust)
    regularize_(model, config.recipe)
    freeze_(model, config.recipe.freeze)
    if config.recipe.channels_last:
        model.to(memory_format=torch.channels_last)
    return model.to(device), config


def _with_initial_weights_(config: TrainConfig, model: Detector, images: DataSplits, *, trust: bool) -> TrainConfig:
    """The weights that a training starts from, and anchors that suit its images."""
    head, untrained, started = model.head, copy.deepcopy(model.head.state_dict()), None
    if config.weights is not None:
        started = start_from_(model, Path(config.weights), names=images.names, trust=trust)
    # Anchors belong to the head that was trained with them.
    whole = started is not None and started.is_whole
    if isinstance(head, AnchorHead) and config.recipe.anchor_recall and not whole:
        before = [anchors.clone() for anchors in head.anchors]
        fit_anchors_(head, images.train, config)
        if started is not None and not all(map(torch.equal, before, head.anchors)):
            head.convs.load_state_dict({n.removeprefix("convs."): v for n, v in untrained.items() if "convs." in n})
            started = started.without_head(model)
    return with_start(config, started, model, images=len(images.train))


def check_single_images(model: Detector, recipe: RecipeConfig, size: tuple[int, int]) -> None:
    """Refuse a training with one image at a time whose coarsest map is one pixel: its variance is always 0.

    Args:
        size: (height, width), the smallest of the training.
    Raises:
        ConfigError: names the layer.
    """

    def look(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        over_several = isinstance(norm, CrossBatchNorm2d) and recipe.accumulate > 1
        if norm.training and not over_several and inputs[0].numel() == inputs[0].shape[1]:
            raise _LoneValue(names[norm])

    twin = copy.deepcopy(model).to("meta").train()  # without computing anything
    keep_frozen_statistics_(twin, recipe.freeze)
    names: dict[nn.Module, str] = {
        module: name for name, module in twin.named_modules() if isinstance(module, _BatchNorm)
    }
    for norm in names:
        norm.register_forward_pre_hook(look)
    with torch.no_grad(), torch.random.fork_rng(devices=[]), contextlib.suppress(RuntimeError, NotImplementedError):
        try:
            twin(torch.empty((1, 3, *size), device="meta"))
        except _LoneValue as name:
            height, width = size
            raise ConfigError(
                f"--batch-size {recipe.batch_size}: of one image of {height} x {width} px, the batch normalisation "
                f"{name} sees one value per channel, which has no variance; use a larger --batch-size or --img-size"
            ) from None


class _LoneValue(Exception):
    """A batch normalisation that sees one value per channel; its name."""


def build_predictor(config: TrainConfig, images: DataSplits, model: Detector, device: torch.device) -> ModelPredictor:
    """A model as its training evaluates it.

    Args:
        model: put into evaluation mode; of a training, the average.
    """
    info = ModelInfo(
        images.names,
        images.train.category_ids,
        config.image_size,
        config.model["resize"],
        model.stride,
        nms=config.model.get("nms", "default"),
        task=model.task,
    )
    return ModelPredictor(model, info, device=device)


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
        forward or model,
        cast(Criterion, criterion),
        recipe,
        total_steps,
        config.seed,
        device,
        StepClock(device),
        start=None if recipe.finetune is None else config.start,
    )
