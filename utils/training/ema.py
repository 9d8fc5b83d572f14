"""The running average of the weights, on torch.optim.swa_utils.AveragedModel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from utils.training.config import EmaConfig


def build_ema(model: nn.Module, config: EmaConfig) -> AveragedModel:
    """An average that starts as a copy of `model` and forgets ever more slowly (see EmaConfig).

    Buffers are averaged like weights; whole-number buffers (counts) are copied.
    """

    @torch.no_grad()
    def average(averaged: list[Tensor], current: list[Tensor], updates: Tensor | int) -> None:
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1 - decay_at(int(updates), config))
        else:
            torch._foreach_copy_(averaged, current)

    ema = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    ema.requires_grad_(False)
    return ema.eval()


def decay_at(updates: int, config: EmaConfig) -> float:
    """Share of the old average that is kept after `updates` steps."""
    return min(config.decay, (1 + updates) / (config.ramp + updates))
