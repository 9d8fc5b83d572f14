"""Layers that only darknet cfgs need, by darknet's rules (docs/networks.md, Darknet's conventions)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.layers import make_activation


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
        self.act = make_activation(activation)

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
    """Darknet's max pool: `padding` is that of both sides together, the odd one goes right and below."""
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
