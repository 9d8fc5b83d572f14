"""Operations of a network, counted as darknet counts its BFLOPs (spec 5.8)."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.darknet.layers import DepthMaxPool, WeightedShortcut
from models.layers import SPP, Shortcut


def count_bflops(model: nn.Module, size: tuple[int, int]) -> float:
    """Billions of operations for one image of `size` (height, width).

    Convolutions count two per multiply-add, pools their window per output, shortcuts one per output; bias, batch
    normalisation, activation, global pools and upsampling count nothing. Nothing is computed: shapes are enough.
    """
    twin = copy.deepcopy(model).to("meta").eval()
    counts: list[int] = []

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        counts.append(_COUNTERS[type(module)](module, output))

    for module in twin.modules():
        if type(module) in _COUNTERS:
            module.register_forward_hook(count)
    with torch.no_grad():
        twin(torch.zeros(1, 3, *size, device="meta"))
    return sum(counts) / 1e9


def _convolution(module: nn.Conv2d, output: Tensor) -> int:
    return 2 * module.weight[0].numel() * output.numel()


def _pool(module: nn.MaxPool2d | nn.AvgPool2d, output: Tensor) -> int:
    return module.kernel_size**2 * output.numel()


def _pyramid_pooling(module: SPP, output: Tensor) -> int:
    inputs = output.numel() // (len(module.kernels) + 1)
    return sum(kernel**2 for kernel in module.kernels) * inputs


def _shortcut(module: Shortcut, output: Tensor) -> int:
    return output.numel()


def _weighted_shortcut(module: WeightedShortcut, output: Tensor) -> int:
    return len(module.source_channels) * output.numel()


def _depth_max_pool(module: DepthMaxPool, output: Tensor) -> int:
    return module.in_channels * output[:, 0].numel()


_COUNTERS: dict[type[nn.Module], Callable[..., int]] = {
    nn.Conv2d: _convolution,
    nn.MaxPool2d: _pool,
    nn.AvgPool2d: _pool,
    SPP: _pyramid_pooling,
    Shortcut: _shortcut,
    WeightedShortcut: _weighted_shortcut,
    DepthMaxPool: _depth_max_pool,
}
