"""Layers that only darknet cfgs need, by darknet's rules (spec 5.2 to 5.6)."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from models.layers import Activation, make_activation


def make_darknet_activation(name: str) -> nn.Module:
    """The activation of that name, those of `make_activation` and a few more.

    Raises:
        ValueError: the name is unknown.
    """
    if name == "logistic":
        return nn.Sigmoid()
    if name == "relu6":
        return nn.ReLU6()
    if name == "tanh":
        return nn.Tanh()
    return make_activation(cast("Activation", name))


class Convolution(nn.Module):
    """Convolution, batch normalisation or bias, activation.

    Args:
        stride, padding, dilation: (y, x) or one number for both.
        normalize: batch normalisation in place of the bias.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int | tuple[int, int] = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        normalize: bool = True,
        activation: str = "leaky",
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=not normalize,
        )
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        self.norm = nn.BatchNorm2d(out_channels, eps=1e-5, momentum=0.03) if normalize else nn.Identity()
        self.act = make_darknet_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H', W'), by darknet's stride and padding."""
        return self.act(self.norm(self.conv(x)))


class Route(nn.Module):
    """Maps side by side by channel; with groups, only chunk `group_id` of each of them."""

    def __init__(self, *, groups: int = 1, group_id: int = 0) -> None:
        super().__init__()
        self.groups = groups
        self.group_id = group_id

    def forward(self, *maps: Tensor) -> Tensor:
        """Maps (B, Ci, H, W) -> (B, sum of Ci / groups, H, W)."""
        if self.groups > 1:
            maps = tuple(x.chunk(self.groups, dim=1)[self.group_id] for x in maps)
        return torch.cat(maps, dim=1) if len(maps) > 1 else maps[0]


class Product(nn.Module):
    """Two maps multiplied; one of them may have a single channel (a mask), or a single position (channel weights)."""

    def __init__(self, *, activation: str = "linear") -> None:
        super().__init__()
        self.act = make_darknet_activation(activation)

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """(B, C, H, W), (B, 1, H, W) or (B, C, 1, 1), and (B, C, H, W) -> (B, C, H, W)."""
        return self.act(x * source)


class Upsample(nn.Module):
    """Every cell repeated in a square of `stride`, times `scale`."""

    def __init__(self, stride: int, *, scale: float = 1.0) -> None:
        super().__init__()
        self.upsample = nn.Upsample(scale_factor=stride, mode="nearest")
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H * stride, W * stride)."""
        x = self.upsample(x)
        return x if self.scale == 1 else x * self.scale


def max_pool(size: int, stride: tuple[int, int], padding: int) -> nn.Module:
    """Darknet's max pool: `padding` is that of both sides together, the odd one goes right and below (spec 5.5)."""
    if stride[0] == stride[1]:
        if (size, stride[0], padding) == (2, 2, 1):
            return nn.MaxPool2d(2, ceil_mode=True)
        if padding % 2 == 0 and padding <= size:
            return nn.MaxPool2d(size, stride[0], padding=padding // 2)
    before, after = padding // 2, padding - padding // 2
    return nn.Sequential(nn.ConstantPad2d((before, after, before, after), -math.inf), nn.MaxPool2d(size, stride))


def average_pool(size: int, stride: tuple[int, int], padding: int) -> nn.Module:
    """Darknet's local average pool: windows as in `max_pool`, the mean of the cells inside of the map.

    Raises:
        ValueError: an odd padding of another shape than size 2, stride 2.
    """
    if (size, stride, padding) == (2, (2, 2), 1):
        return nn.AvgPool2d(2, ceil_mode=True)
    if padding % 2:
        raise ValueError(f"size {size} with padding {padding}: expected an even padding, or size 2 with stride 2")
    return nn.AvgPool2d(size, stride, padding=padding // 2, count_include_pad=False)
