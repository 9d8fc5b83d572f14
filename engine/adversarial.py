"""Self-adversarial training: the network first changes the images so that it overlooks their objects.

It then learns to find them all the same (YOLOv4, arXiv:2004.10934, section 3.3; darknet's adversarial_lr).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from utils.regularize_config import AdversarialConfig
from utils.structures import Batch

STREAM = 7
"""Keeps the draws of this file apart from others of the same seed and step."""


def is_attacked(config: AdversarialConfig, *, seed: int, step: int, index: int) -> bool:
    """Whether batch `index` of a step is changed, once warm-up is over: a function of (seed, step, index)."""
    return config.lr > 0 and np.random.default_rng((seed, step, index, STREAM)).random() < config.probability


def attacked(
    model: nn.Module,
    background: Callable[[list[Tensor]], Tensor],
    batch: Batch,
    *,
    strength: float,
    amp: torch.dtype | None,
) -> Batch:
    """The batch with images in which the model sees less: image - strength * gradient, kept in [0, 1].

    The gradient is that of the loss for images without any object. Layers are in evaluation mode, so that the change
    moves no statistics and draws nothing, and no weight gets a gradient.

    Args:
        background: raw maps -> that loss, a sum over all images.
        batch: on its device, images in [0, 1].
        strength: darknet's adversarial_lr times the progress of the training.
        amp: type of mixed precision.
    """
    images = batch.images.detach().clone().requires_grad_()
    with evaluation_mode(model), torch.enable_grad():
        with torch.autocast(images.device.type, amp or torch.bfloat16, enabled=amp is not None):
            raw_maps = model(images)
        (gradient,) = torch.autograd.grad(background(raw_maps), images)
    # In fp16 a gradient may overflow; what is not finite changes nothing.
    gradient = torch.where(gradient.isfinite(), gradient, 0)
    return replace(batch, images=(images.detach() - strength * gradient).clamp(0, 1))


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
