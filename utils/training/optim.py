"""Parameter groups, optimizers, and freezing by name."""

from __future__ import annotations

import torch
from torch import nn

from utils.config import ConfigError, nearest
from utils.training.config import OptimizerConfig
from utils.training.muon import Muon


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The recipe's optimizer over the trainable parameters; decay on weights of two dimensions or more (spec 7.2)."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.type == "muon":
        groups[0]["orthogonal"] = True
    groups = [group for group in groups if group["params"]]
    if config.type == "muon":
        momentum = float(config.momentum)
        return Muon(groups, lr=config.lr, momentum=momentum, nesterov=config.nesterov, betas=(momentum, 0.999))
    if config.type == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=(float(config.momentum), 0.999))
    nesterov = config.nesterov and config.momentum > 0
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=nesterov)


def freeze_(model: nn.Module, prefixes: list[str]) -> int:
    """Switch off the gradients of parameters whose names start with a prefix; returns how many tensors that were.

    Their batch normalisation keeps its statistics too: see `keep_frozen_statistics_`.

    Raises:
        ConfigError: a prefix that no parameter has, or nothing left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    for prefix in prefixes:
        if not any(_has_prefix(name, prefix) for name in names):
            known = sorted({".".join(name.split(".")[:depth]) for name in names for depth in (1, 2)})
            near = nearest(prefix, known)
            hint = f" Did you mean '{near}'?" if near else ""
            raise ConfigError(
                f"freeze: no parameter's name starts with '{prefix}'.{hint} Known: {', '.join(known[:20])}"
            )
    frozen = [name for name in names if any(_has_prefix(name, prefix) for prefix in prefixes)]
    if len(frozen) == len(names):
        raise ConfigError(f"freeze: {', '.join(prefixes)} are all parameters; nothing is left to train")
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    return len(frozen)


def keep_frozen_statistics_(model: nn.Module, prefixes: list[str]) -> None:
    """Put the batch normalisation of frozen parts into evaluation mode; call after model.train()."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and any(_has_prefix(name, p) for p in prefixes):
            module.eval()


def _has_prefix(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix.rstrip(".") + ".")
