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


class Grey(nn.Module):
    """RGB to one channel by the weights of Rec. 601, as OpenCV and stb_image (with which darknet reads pictures) do."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) RGB -> (B, 1, H, W)."""
        red, green, blue = x.split(1, dim=1)
        return 0.299 * red + 0.587 * green + 0.114 * blue


class SpaceToDepth(nn.Module):
    """Darknet's [reorg] and [reorg3d]: `stride` x `stride` cells become one, their values channels.

    [reorg3d] puts the cells of a square behind each other, row by row, each with all its channels. [reorg] does so too,
    but with the map's memory read as (C / stride^2, H * stride, W * stride) and the result's as (C * stride^2, ...):
    darknet gives its routine the shape of the wrong side, and YOLOv2 was trained so. OpenCV's reorg layer agrees.

    Args:
        plain: [reorg3d].
    """

    def __init__(self, stride: int, *, plain: bool = False) -> None:
        super().__init__()
        self.stride = stride
        self.plain = plain

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C * stride^2, H / stride, W / stride); [reorg] needs C to be a multiple of stride^2."""
        s = self.stride
        _, channels, height, width = x.shape
        if self.plain:
            cells = x.reshape(-1, channels, height // s, s, width // s, s)
        else:
            cells = x.reshape(-1, channels // s**2, height, s, width, s)
        return cells.permute(0, 3, 5, 1, 2, 4).reshape(-1, channels * s**2, height // s, width // s)


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
