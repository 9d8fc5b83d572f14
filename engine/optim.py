"""Parameter groups, optimizers, freezing by name, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import nn

from engine.muon import Muon
from utils.config import ConfigError, did_you_mean
from utils.recipe import OptimizerConfig, ScheduleConfig

Parts: TypeAlias = Sequence[tuple[list[nn.Parameter], dict[str, Any]]]
"""Parameters, and keys for the groups of the optimizer that hold them."""


def build_optimizer(model: nn.Module, config: OptimizerConfig, *, parts: Parts | None = None) -> torch.optim.Optimizer:
    """The recipe's optimizer over the trainable parameters; decay on weights of two dimensions or more.

    Args:
        parts: the trainable parameters in parts, each with keys for its groups (engine/finetune.py); of weights that
            are `scale` times larger than others, steps and decay have the effect that they have on others.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = []
    for parameters, about in parts or [(trainable, {})]:
        # A gradient is as many times smaller, which matters to SGD, whose steps follow its size.
        scale = about.get("scale", 1.0) ** (2 if config.type == "sgd" else 1)
        more = {**about, "scale": scale} if about else {}
        weights = {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay / scale, **more}
        if config.type == "muon":
            weights["orthogonal"] = True
        groups += [weights, {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0, **more}]
    groups = [group for group in groups if group["params"]]
    if config.type == "muon":
        momentum = float(config.momentum)
        return Muon(groups, lr=config.lr, momentum=momentum, nesterov=config.nesterov, betas=(momentum, 0.999))
    if config.type == "adamw":
        fused = all(parameter.device.type in ("cpu", "cuda") for parameter in trainable)
        return torch.optim.AdamW(groups, lr=config.lr, betas=(float(config.momentum), 0.999), fused=fused)
    # Not fused: a step that fp16's scaler leaves out would move a fused momentum all the same.
    nesterov = config.nesterov and config.momentum > 0
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=nesterov, foreach=True)


def freeze_(model: nn.Module, prefixes: list[str]) -> int:
    """Switch off the gradients of parameters whose names start with a prefix; returns how many tensors that were.

    Their batch normalisation keeps its statistics too: see `keep_frozen_statistics_`.

    Raises:
        ConfigError: a prefix that no parameter has, or nothing left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    for prefix in prefixes:
        if not any(has_prefix(name, prefix) for name in names):
            known = sorted({".".join(name.split(".")[:depth]) for name in names for depth in (1, 2)})
            hint = did_you_mean(prefix, known)
            raise ConfigError(
                f"freeze: no parameter's name starts with '{prefix}'.{hint} Known: {', '.join(known[:20])}"
            )
    frozen = [name for name in names if any(has_prefix(name, prefix) for prefix in prefixes)]
    if len(frozen) == len(names):
        raise ConfigError(f"freeze: {', '.join(prefixes)} are all parameters; nothing is left to train")
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    return len(frozen)


def keep_frozen_statistics_(model: nn.Module, prefixes: list[str]) -> None:
    """Put the batch normalisation of frozen parts into evaluation mode; call after model.train()."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and any(has_prefix(name, p) for p in prefixes):
            module.eval()


def has_prefix(name: str, prefix: str) -> bool:
    """Whether a dotted name is `prefix`, or below it."""
    return name == prefix or name.startswith(prefix.rstrip(".") + ".")


def learning_rate_factor(step: int, *, total_steps: int, steps_per_epoch: float, config: ScheduleConfig) -> float:
    """What the peak learning rate is multiplied by at `step`, counted from 0.

    The decay counts from step 0, not from the end of the warm-up, which multiplies it.

    Args:
        total_steps: of the whole training.
        steps_per_epoch: their mean, where epochs differ.
    Returns:
        A factor in (0, 1].
    """
    warmup = warmup_length(total_steps=total_steps, steps_per_epoch=steps_per_epoch, config=config)
    rise = min((step + 1) / (warmup + 1), 1.0) ** config.warmup_power
    progress = min(step / max(total_steps, 1), 1.0)
    if config.type == "step":
        return rise * config.factor ** sum(progress >= milestone for milestone in config.milestones)
    if config.type == "poly":
        return rise * (1 - progress) ** config.power
    if config.type == "sgdr" and config.cycle_epochs is not None and progress < 1:
        progress = progress_in_cycle(step, config.cycle_epochs * steps_per_epoch, config.cycle_mult)
    return rise * (config.final + (1 - config.final) * 0.5 * (1 + math.cos(math.pi * progress)))


def warmup_length(*, total_steps: int, steps_per_epoch: float, config: ScheduleConfig) -> float:
    """Steps in which the rate rises."""
    return min(max(config.warmup_epochs * steps_per_epoch, config.warmup_steps), 0.2 * total_steps)


def progress_in_cycle(step: int, length: float, mult: float) -> float:
    """Share of its cycle, in [0, 1), that lies behind `step`, where the first cycle has `length` steps.

    Each cycle is `mult` times as long as the one before and begins at the peak; darknet's starts one step later.
    """
    length = max(length, 1.0)
    if mult == 1:
        return step % length / length
    begin = 0.0
    while step >= begin + length:
        begin, length = begin + length, length * mult
    return (step - begin) / length
