"""Layers that two or more parts of a network share, with darknet's conventions (spec 5.2 to 5.6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["leaky", "relu", "mish", "swish", "linear"]


def make_activation(name: Activation) -> nn.Module:
    """The activation of that name; 'linear' is none at all. Leaky has darknet's slope 0.1.

    Raises:
        ValueError: the name is unknown.
    """
    if name == "leaky":
        return nn.LeakyReLU(0.1, inplace=True)
    if name == "relu":
        return nn.ReLU(inplace=True)
    if name == "mish":
        return nn.Mish()
    if name == "swish":
        return nn.SiLU()
    if name == "linear":
        return nn.Identity()
    raise ValueError(f"activation '{name}' is unknown; choose leaky, relu, mish, swish or linear")


class ConvNormAct(nn.Module):
    """Convolution without bias, batch normalisation, activation; at stride 1 an odd kernel keeps the map's size."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        activation: Activation = "leaky",
    ) -> None:
        super().__init__()
        if min(in_channels, out_channels) < 1:
            raise ValueError(
                f"a convolution from {in_channels} to {out_channels} channels: expected at least 1 of each"
            )
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False
        )
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        self.norm = nn.BatchNorm2d(out_channels, eps=1e-5, momentum=0.03)
        self.act = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class Shortcut(nn.Module):
    """Darknet's shortcut: adds a source of any width to a map (partial residual, spec 5.6).

    A narrower source is added to the leading channels only; of a wider one only the leading channels are used. With a
    stride the source is sampled at every stride-th pixel, without averaging.
    """

    def __init__(
        self, channels: int, source_channels: int, *, stride: int = 1, activation: Activation = "linear"
    ) -> None:
        super().__init__()
        self.channels = channels
        self.missing = channels - source_channels
        self.stride = stride
        self.act = make_activation(activation)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """(B, channels, H, W) plus (B, source_channels, H * stride, W * stride)."""
        if self.stride > 1:
            source = source[:, :, :: self.stride, :: self.stride]
        if self.missing > 0:
            source = F.pad(source, (0, 0, 0, 0, 0, self.missing))
        elif self.missing < 0:
            source = source[:, : self.channels]
        return self.act(x + source)


class ResidualBlock(nn.Module):
    """Darknet's block: 1x1 to `hidden_channels`, 3x3 back to `channels`, and a shortcut without activation."""

    def __init__(
        self, channels: int, hidden_channels: int, *, shortcut: bool = True, activation: Activation = "leaky"
    ) -> None:
        super().__init__()
        self.in_channels = self.out_channels = channels
        self.reduce = ConvNormAct(channels, hidden_channels, activation=activation)
        self.expand = ConvNormAct(hidden_channels, channels, 3, activation=activation)
        self.shortcut = Shortcut(channels, channels) if shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.expand(self.reduce(x))
        return out if self.shortcut is None else self.shortcut(out, x)


class SPP(nn.Module):
    """Spatial pyramid pooling: the map beside its own max-pooled copies, widest window first (spec 3.1).

    Args:
        kernels: odd window sizes; darknet's are 5, 9, 13.
    """

    def __init__(self, in_channels: int, kernels: Sequence[int]) -> None:
        super().__init__()
        even = [kernel for kernel in kernels if kernel % 2 == 0 or kernel < 1]
        if even:
            raise ValueError(f"spp_kernels {list(kernels)}: {even[0]} is not a positive odd number")
        self.kernels = tuple(sorted(kernels))
        self.out_channels = in_channels * (len(self.kernels) + 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C * (1 + kernels), H, W)."""
        maps, covered = [x], 1
        for kernel in self.kernels:  # a window of 5 over a window of 5 sees 9: same values, fewer comparisons
            step = kernel - covered + 1
            maps.append(F.max_pool2d(maps[-1], step, stride=1, padding=step // 2))
            covered = kernel
        return torch.cat(maps[::-1], dim=1)


def halving_pool() -> nn.MaxPool2d:
    """Darknet's 2/2 max pool: an odd side is padded at the right or bottom, so it rounds up."""
    return nn.MaxPool2d(2, ceil_mode=True)


def check_lengths(**lists: Sequence[object]) -> None:
    """One entry a stage in every list.

    Raises:
        ValueError: the lists differ in length, or are empty.
    """
    lengths = {name: len(entries) for name, entries in lists.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        found = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"expected one entry per stage in each list, found: {found}")
