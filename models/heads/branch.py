"""A branch of a head: convolutions of its own for one thing that is predicted, and the 1x1 that ends it."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from models.layers import Activation, ConvNormAct


def last_bias(branch: nn.Module) -> Tensor:
    """(out_channels,) the bias of a branch's 1x1 convolution."""
    return cast("Tensor", list(branch.children())[-1].bias)


def last_layers(head: nn.Module, branches: str) -> list[str]:
    """The names of the 1x1 convolutions that end the branches of all levels."""
    levels = cast("nn.ModuleList", head.get_submodule(branches))
    return [f"{branches}.{level}.{len(list(branch.children())) - 1}" for level, branch in enumerate(levels)]


def make_branch(
    in_channels: int, channels: int, out_channels: int, *, depth: int, depthwise: bool, activation: Activation
) -> nn.Sequential:
    """3x3 convolutions and a 1x1 with bias."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        if depthwise:
            layers.append(ConvNormAct(in_channels, in_channels, 3, groups=in_channels, activation=activation))
            layers.append(ConvNormAct(in_channels, channels, activation=activation))
        else:
            layers.append(ConvNormAct(in_channels, channels, 3, activation=activation))
        in_channels = channels
    return nn.Sequential(*layers, nn.Conv2d(in_channels, out_channels, 1))
