"""Operations of a network, counted as darknet counts its BFLOPs (spec 5.8)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.layers import SPP, Maxout, Shortcut, WeightedShortcut

Counter = Callable[[Any, Tensor, Tensor], int]
"""What one layer counts: (layer, its first input, its output) -> operations."""


def count_bflops(model: nn.Module, size: tuple[int, int]) -> float:
    """Billions of operations for one image of `size` (height, width).

    Convolutions and linear layers count two per multiply-add, pools their window per output, shortcuts one per output;
    bias, batch normalisation, activation, global pools and upsampling count nothing. Nothing is computed: shapes are
    enough.
    """
    return sum(_each_layer(model, size, _COUNTERS)) / 1e9


def count_conv_values(model: nn.Module, size: tuple[int, int]) -> int:
    """Values that the convolutions read and write for one image: the CIO of HarDNet and of the CSPNet paper."""
    return sum(_each_layer(model, size, {nn.Conv2d: lambda module, x, output: x.numel() + output.numel()}))


def _each_layer(model: nn.Module, size: tuple[int, int], counters: Mapping[type[nn.Module], Counter]) -> list[int]:
    """What the counters say of each layer of their types, for one image; the model is left alone."""
    twin = copy.deepcopy(model).to("meta").eval()
    counts: list[int] = []

    for module in twin.modules():
        counter = next((counters[kind] for kind in type(module).__mro__ if kind in counters), None)
        if counter is not None:

            def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, counter: Counter = counter) -> None:
                counts.append(counter(layer, inputs[0], output))

            module.register_forward_hook(count)
    with torch.no_grad():
        twin(torch.zeros(1, 3, *size, device="meta"))
    return counts


def _convolution(module: nn.Conv2d | nn.Linear, x: Tensor, output: Tensor) -> int:
    return 2 * module.weight[0].numel() * output.numel()


def _pool(module: nn.MaxPool2d | nn.AvgPool2d, x: Tensor, output: Tensor) -> int:
    size = module.kernel_size
    height, width = size if isinstance(size, tuple) else (size, size)
    return height * width * output.numel()


def _pyramid_pooling(module: SPP, x: Tensor, output: Tensor) -> int:
    inputs = output.numel() // (len(module.kernels) + 1)
    return sum(kernel**2 for kernel in module.kernels) * inputs


def _shortcut(module: Shortcut, x: Tensor, output: Tensor) -> int:
    return output.numel()


def _weighted_shortcut(module: WeightedShortcut, x: Tensor, output: Tensor) -> int:
    return len(module.source_channels) * output.numel()


def _maxout(module: Maxout, x: Tensor, output: Tensor) -> int:
    return module.in_channels * output[:, 0].numel()


_COUNTERS: dict[type[nn.Module], Counter] = {
    nn.Conv2d: _convolution,
    nn.Linear: _convolution,
    nn.MaxPool2d: _pool,
    nn.AvgPool2d: _pool,
    SPP: _pyramid_pooling,
    Shortcut: _shortcut,
    WeightedShortcut: _weighted_shortcut,
    Maxout: _maxout,
}
