"""Adaptively spatial feature fusion (Liu et al., arXiv:1911.09516)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.layers import Activation, ConvNormAct


class ASFF(nn.Module):
    """Every level becomes a sum of all levels at its own size and width, weighted at each position.

    A coarser level comes by a 1x1 convolution and repetition, a finer one by max pools and a strided 3x3 convolution.

    Args:
        channels: width of each level, finest first; they stay.
        weight_channels: what each level is reduced to where its weights come from (16 in the paper's code, 8 with RFB).
    """

    def __init__(self, channels: Sequence[int], *, weight_channels: int = 16, activation: Activation = "leaky") -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            _Level(channels, target, weight_channels, activation) for target in range(len(channels))
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """One map a level, finest first -> the same shapes."""
        return [level(maps) for level in self.levels]


class _Level(nn.Module):
    """The fusion for one level, `target`."""

    def __init__(self, channels: Sequence[int], target: int, weight_channels: int, activation: Activation) -> None:
        super().__init__()
        width = channels[target]

        def resize(source: int) -> nn.Module:
            if source == target:
                return nn.Identity()
            if source > target:
                up = nn.Upsample(scale_factor=2 ** (source - target), mode="nearest")
                return nn.Sequential(ConvNormAct(channels[source], width, activation=activation), up)
            pools = [nn.MaxPool2d(3, stride=2, padding=1) for _ in range(target - source - 1)]
            return nn.Sequential(*pools, ConvNormAct(channels[source], width, 3, stride=2, activation=activation))

        self.resize = nn.ModuleList(resize(source) for source in range(len(channels)))
        self.reduce = nn.ModuleList(ConvNormAct(width, weight_channels, activation=activation) for _ in channels)
        self.weigh = nn.Conv2d(weight_channels * len(channels), len(channels), 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """All levels -> (B, width, H, W) at this level's size."""
        resized = [resize(x) for resize, x in zip(self.resize, maps, strict=True)]
        reduced = [reduce(x) for reduce, x in zip(self.reduce, resized, strict=True)]
        weights = self.weigh(torch.cat(reduced, dim=1)).softmax(dim=1)
        return sum(x * weights[:, i : i + 1] for i, x in enumerate(resized))
