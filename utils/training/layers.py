"""What layers must know of a training: the step they are in, and how fast their statistics move."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def begin_batch_(model: nn.Module, *, index: int, count: int, progress: float) -> None:
    """Call `begin_batch` of every layer that has it (CrossBatchNorm2d, DropBlock).

    Args:
        index, count: the coming batch's place among those of its step.
        progress: of the training, in [0, 1].
    """
    for module in model.modules():
        if hasattr(type(module), "begin_batch"):
            module.begin_batch(index=index, count=count, progress=progress)


@contextmanager
def norm_statistics(model: nn.Module, step: int, least: float) -> Iterator[None]:
    """The weight of the batch that runs in this block in the running statistics of batch normalisation.

    A plain mean over the steps at first, then `least`. Statistics start at mean 0 and variance 1. Without the plain
    mean that start would stay in them for some 100 steps, and a deep network evaluated on them finds nothing.

    While the weight still changes, layers take the batch in whole (momentum 1), and what they then hold is averaged
    with what they held before: for a compiled model each other momentum would be another program.
    """
    weight = 1 / (step + 1)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    statistics = [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var) if buffer is not None]
    for norm in norms:
        norm.momentum = 1.0 if weight > least else least
    before = [buffer.clone() for buffer in statistics] if weight > least else []
    yield
    if before:
        with torch.no_grad():
            torch._foreach_lerp_(before, statistics, weight)
            torch._foreach_copy_(statistics, before)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Every layer in evaluation mode while the block runs, then each as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
