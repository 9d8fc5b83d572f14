"""Fine-tuning: which parameters move when, and how fast, as a function of what the weights of the start gave.

All rules and constants of `finetune` with 'auto' are here.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from engine.optim import has_prefix, warmup_length
from models.darknet.loss import trained_loss
from models.detector import Detector
from models.pretrained import Started
from utils.finetune_config import StartConfig
from utils.recipe import RecipeConfig
from utils.train_config import TrainConfig

logger = logging.getLogger(__name__)

HEAD_SHARE, HEAD_STEPS = 0.1, 300
"""What is new learns alone for this share of the epochs, but for no more steps than this (rounded up to an epoch)."""

LEAST_RATE = 0.001
"""The smallest share of the rate for loaded weights that `next_rate` gives."""

LOST_SHARE, WATCHED_SHARE = 0.03, 0.5
"""The share of the start's figure by which the average may be worse, and the first share of the epochs, in which it is
watched.
"""

KNOWN_FIGURE = 0.2
"""The figure of the start (AP) from which on it counts fully in the running average."""

AVERAGE_SHARE = 0.5
"""A start that finds all that can be expected counts in the running average as much as this share of the steps."""


def with_start(config: TrainConfig, started: Started | None, model: Detector, *, images: int) -> TrainConfig:
    """The configuration of a new training with what its weights gave, and what follows from it.

    Args:
        started: None for random weights.
        images: for training.
    """
    recipe = config.recipe
    if started is None:
        return config
    new = prefixes_of(started.new, [name for name, _ in model.named_parameters()])
    start = StartConfig(known=started.known, new=new, scales=started.scales)
    if recipe.finetune is None:
        return replace(config, start=start)
    if started.is_darknet and config.model["head"].get("type") == "anchor":
        loss = trained_loss(config.model)
        changed = ", ".join(f"{key} {value}" for key, value in loss.items() if key not in recipe.loss)
        logger.info("Loss: as these weights were trained with in darknet (%s); the recipe's keys go before", changed)
        recipe = replace(recipe, loss={**loss, **recipe.loss})
    assert recipe.finetune is not None
    if recipe.finetune.head_epochs == "auto":
        steps = max(images / (recipe.batch_size * recipe.accumulate), 1.0)
        epochs = head_epochs_for(recipe.total_epochs, steps_per_epoch=steps) if new else 0
        recipe = replace(recipe, finetune=replace(recipe.finetune, head_epochs=epochs))
    return replace(config, recipe=recipe, start=start)


def head_epochs_for(epochs: int, *, steps_per_epoch: float) -> int:
    """Epochs in which what is new learns alone: a tenth, at least one of several, and no more than 300 steps.

    >>> head_epochs_for(50, steps_per_epoch=20), head_epochs_for(50, steps_per_epoch=2000)
    (5, 1)
    """
    return min(max(round(HEAD_SHARE * epochs), 1), math.ceil(HEAD_STEPS / steps_per_epoch), epochs - 1)


def next_rate(rate: float, *, figure: float, start: float, epoch: int, epochs: int) -> float | None:
    """The rate of loaded weights with which the training begins anew from its best weights; None where it goes on.

    Whether weights have more to gain or to lose at a high rate cannot be told from their figure and the number of
    images: measured, 100 images improved one start from 0.245 to 0.339 AP at the full rate, and 80 took another from
    0.34 to 0.09. The first epochs tell.

    Args:
        rate: of loaded weights so far, as a share of that of new ones.
        figure: of the average after `epoch` of `epochs`, counted from 1.
        start: figure of the weights that the training started from.
    """
    watched = epoch <= max(WATCHED_SHARE * epochs, 1) and epoch < epochs
    if not watched or figure >= (1 - LOST_SHARE) * start or rate <= LEAST_RATE:
        return None
    return max(rate / 10, LEAST_RATE)


def known_share(figure: float) -> float:
    """How much of what can be expected a start finds, in [0, 1]."""
    return min(max(figure, 0.0) / KNOWN_FIGURE, 1.0)


def average_begins_at(figure: float, total_steps: int) -> int:
    """Updates that the running average is said to have had, so that it forgets the start slowly (see EmaConfig).

    After n steps the start has the share (m / (m + n))^(ramp - 1) or so of it, where m is this number. A start that
    finds nothing is forgotten at once.

    Args:
        figure: as of `rate_for`.
    """
    return round(AVERAGE_SHARE * known_share(figure) * total_steps)


def prefixes_of(chosen: Iterable[str], names: Sequence[str]) -> list[str]:
    """The fewest prefixes that cover the chosen ones among dotted names, and no others.

    >>> prefixes_of(["a.b.x", "a.b.y", "a.c.x"], ["a.b.x", "a.b.y", "a.c.x", "a.c.y", "d"])
    ['a.b', 'a.c.x']
    """
    wanted = set(chosen)

    def visit(depth: int, group: list[str]) -> list[str]:
        inside = [name for name in group if name in wanted]
        if not inside:
            return []
        if len(inside) == len(group) and depth:
            return [".".join(group[0].split(".")[:depth])]
        parts: dict[str, list[str]] = {}
        for name in group:
            parts.setdefault(".".join(name.split(".")[: depth + 1]), []).append(name)
        return [prefix for part in parts.values() for prefix in visit(depth + 1, part)]

    return visit(0, list(names))


def parts_of(model: nn.Module, start: StartConfig) -> list[tuple[list[nn.Parameter], dict[str, Any]]]:
    """The trainable parameters by how they are treated, each with what the groups of the optimizer say of it.

    'trained': they came with the weights; 'held': they stay as they are while the head learns alone; 'scale': how many
    times larger they are than others; 'rate': the share of the learning rate, which the start decides.
    """
    parts: dict[tuple[bool, bool, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            trained = not is_new(name, start)
            kind = (trained, trained and not has_prefix(name, "head"), start.scales.get(name, 1.0) if trained else 1.0)
            parts.setdefault(kind, []).append(parameter)
    return [
        (parts[kind], {"trained": kind[0], "held": kind[1], "scale": kind[2], "rate": 1.0}) for kind in sorted(parts)
    ]


def is_new(name: str, start: StartConfig) -> bool:
    """Whether a parameter, or all of a module, did not come with the weights."""
    return any(has_prefix(name, prefix) for prefix in start.new)


def holds(recipe: RecipeConfig, epoch: int) -> bool:
    """Whether the head and what else is new learn alone in an epoch, counted from 0."""
    return epoch < head_epochs_of(recipe)


def head_epochs_of(recipe: RecipeConfig) -> int:
    """`finetune.head_epochs` of a settled recipe; 0 where nothing is fine-tuned."""
    epochs = 0 if recipe.finetune is None else recipe.finetune.head_epochs
    return 0 if epochs == "auto" else epochs


def keep_held_statistics_(model: nn.Module, recipe: RecipeConfig, start: StartConfig | None, epoch: int) -> None:
    """Put the batch normalisation of what is held in an epoch into evaluation mode; call after model.train()."""
    if start is None or not holds(recipe, epoch):
        return
    for name, module in model.named_modules():
        is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if is_norm and not has_prefix(name, "head") and not is_new(name, start):
            module.eval()


def drop_held_gradients_(optimizer: torch.optim.Optimizer, recipe: RecipeConfig, epoch: int) -> None:
    """Leave what is held out of the coming update: optimizers pass over parameters without a gradient.

    They are computed all the same, since other processes wait for them.
    """
    if holds(recipe, epoch):
        for group in optimizer.param_groups:
            for parameter in group["params"] if group.get("held") else []:
                parameter.grad = None


def trained_rate(optimizer: torch.optim.Optimizer) -> float:
    """The share of the learning rate that weights of the start have; 1 where there are none."""
    return next((group["rate"] for group in optimizer.param_groups if group.get("trained")), 1.0)


def trained_momentum(optimizer: torch.optim.Optimizer, recipe: RecipeConfig) -> float:
    """The weight of a batch in norm statistics that came with the weights: they move as slowly as the weights do.

    Augmented images have other statistics than those to come, so that good ones get worse while nothing is learnt.
    """
    return recipe.norm_momentum * min(trained_rate(optimizer), 1.0)


def share_of_rate(
    group: dict[str, Any], recipe: RecipeConfig, step: int, *, total_steps: int, steps_per_epoch: float
) -> float:
    """What the learning rate of a step is multiplied by for one group of the optimizer.

    What was held warms up as the training did at its start.
    """
    share = group.get("scale", 1.0) * group.get("rate", 1.0)
    epochs = head_epochs_of(recipe)
    if epochs == 0 or not group.get("held"):
        return share
    warmup = warmup_length(total_steps=total_steps, steps_per_epoch=steps_per_epoch, config=recipe.schedule)
    since = step - epochs * steps_per_epoch
    return share * min(max((since + 1) / (warmup + 1), 0.0), 1.0)
