"""What a model costs wherever it runs: parameters, operations and memory, without computing anything."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from models.build import build_model
from models.config import ModelConfig
from models.darknet.cfg import declared_classes
from models.detector import Detector
from models.flops import count_bflops, count_conv_values
from models.memory import forward_bytes


@dataclass(frozen=True)
class Costs:
    """The size of a model, and what one pass takes.

    Args:
        params: trainable numbers; weights: those of convolutions alone, without biases and norms, as the CSPNet README
            counts; floats: all numbers that a darknet file holds, as the PRN README counts.
        bflops: billions of operations for one image, as darknet counts them.
        cio: values that convolutions read and write for one image, the paper's measure of memory traffic.
        activations_mb: MB (1e6 bytes) of the images, and of the most that a pass holds beside weights and images at
            once; memory_mb: the same with the weights.
    """

    params: int
    weights: int
    floats: int
    bflops: float
    cio: int
    activations_mb: float
    memory_mb: float


def count_costs(config: ModelConfig, *, num_classes: int | None = None, batch_size: int = 1) -> Costs:
    """The costs of a model at its configuration's image size.

    Args:
        num_classes: see `classes_of`.
        batch_size: images in a pass, for the memory.
    Raises:
        ConfigError: wrong keys or values, or an image size that does not fit.
    """
    with torch.device("meta"):  # shapes are enough
        model = build_model(config, num_classes or classes_of(config)).eval()
        images = torch.zeros(batch_size, 3, *config.size)
    held = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    memory = forward_bytes(model, images)
    return Costs(
        params=sum(p.numel() for p in model.parameters() if p.requires_grad),
        weights=count_weights(model),
        floats=count_numbers(model),
        bflops=count_bflops(model, config.size),
        cio=count_conv_values(model, config.size),
        activations_mb=(memory - held) / 1e6,
        memory_mb=memory / 1e6,
    )


def classes_of(config: ModelConfig) -> int:
    """The classes to build a model for: those its .cfg names, else COCO's 80 or, of a classifier, ImageNet's 1000."""
    declared = declared_classes(config.backbone)
    return declared or (1000 if config.head.get("type") == "classify" else 80)


def count_weights(model: nn.Module) -> int:
    """Numbers in the kernels of the convolutions and linear layers."""
    layers = (module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear)))
    return sum(layer.weight.numel() for layer in layers)


def count_numbers(model: Detector) -> int:
    """Parameters and running statistics of the norms: what a darknet file of the model holds after its header."""
    norms = (module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    statistics = sum(norm.running_mean.numel() + norm.running_var.numel() for norm in norms)
    return sum(p.numel() for p in model.parameters()) + statistics
