"""Res2NetLite-72: residual blocks whose groups of channels see more from one to the next (spec 1.6)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from models.csp import CrossStagePartial, CSPConfig
from models.layers import Activation, ConvNormAct, Shortcut, check_lengths, make_excitation
from utils.structures import Features


class Res2Block(nn.Module):
    """1x1; groups of channels in turn through 3x3 convolutions, each with the result before it added; 1x1; shortcut.

    The first group goes past the convolutions, so that the 3x3 windows of the others see 3, 5, 7, ... cells.

    Args:
        channels: width of input and output, a multiple of `scales`.
        scales: groups of channels.
        groups: of the 3x3 convolutions.
    Raises:
        ValueError: a width that does not fall into so many scales.
    """

    def __init__(
        self, channels: int, *, scales: int, groups: int, se: int | None = None, activation: Activation = "leaky"
    ) -> None:
        super().__init__()
        if channels % scales:
            raise ValueError(f"a block of {channels} channels: expected a multiple of its {scales} scales")
        self.in_channels = self.out_channels = channels
        self.scales = scales
        width = channels // scales
        self.enter = ConvNormAct(channels, channels, activation=activation)
        self.convs = nn.ModuleList(
            ConvNormAct(width, width, 3, groups=groups, activation=activation) for _ in range(scales - 1)
        )
        self.adds = nn.ModuleList(Shortcut(width, width) for _ in range(scales - 2))
        self.leave = ConvNormAct(channels, channels, activation=activation)
        self.se = make_excitation(channels, se, activation=activation)
        self.shortcut = Shortcut(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.enter(x).chunk(self.scales, dim=1)
        maps = [parts[0], self.convs[0](parts[1])]
        for index, add in enumerate(self.adds):
            maps.append(self.convs[index + 1](add(parts[index + 2], maps[-1])))
        return self.shortcut(self.se(self.leave(torch.cat(maps, dim=1))), x)


class Res2Net(nn.Module):
    """A strided stem, max pool, stages of a strided bottleneck and Res2 blocks; gives the last three stages' maps.

    Args:
        depths: Res2 blocks per stage.
        channels: width of each stage.
        scales: groups of channels of the blocks; the bottlenecks are as wide inside as one of them.
        groups: of the 3x3 convolutions after the stem.
        csp: makes the blocks of every stage cross-stage-partial; null is the plain network.
        se: squeeze-and-excitation in every block, the reduction of its width; null for none.
    """

    def __init__(
        self,
        *,
        depths: list[int],
        channels: list[int],
        scales: int = 4,
        groups: int = 2,
        stem_channels: int = 32,
        csp: CSPConfig | None = None,
        se: int | None = None,
        activation: Activation = "leaky",
    ) -> None:
        super().__init__()
        check_lengths(depths=depths, channels=channels)
        if min(depths) < 1 or scales < 2:
            raise ValueError(f"depths {depths}, scales {scales}: expected at least 1 block a stage, at least 2 scales")
        if any(width % (scales * groups) for width in channels):
            raise ValueError(
                f"channels {channels}: expected multiples of {scales * groups}, for {scales} scales in {groups} groups"
            )
        stem = ConvNormAct(3, stem_channels, 3, stride=2, activation=activation)
        self.stem = nn.Sequential(stem, nn.MaxPool2d(3, 2, padding=1))
        self.stages = nn.ModuleList()
        width, widths = stem_channels, []
        for depth, wanted in zip(depths, channels, strict=True):
            inside = wanted // scales
            down = [
                ConvNormAct(width, inside, activation=activation),
                ConvNormAct(inside, inside, 3, stride=2, groups=groups, activation=activation),
                ConvNormAct(inside, wanted, activation=activation),
            ]
            options = {"scales": scales, "groups": groups, "se": se, "activation": activation}
            blocks = partial(_blocks, depth=depth, **options)
            if csp is None:
                rest, width = blocks(wanted), wanted
            else:
                rest = [CrossStagePartial(wanted, wanted, blocks, csp=csp, activation=activation)]
                width = rest[0].out_channels
            self.stages.append(nn.Sequential(*down, *rest))
            widths.append(width)
        strides = [8 * 2**index for index in range(len(widths))]
        self.features = Features(tuple(widths[-3:]), tuple(strides[-3:]))

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the maps that `features` names, finest first."""
        x, maps = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[-3:]


def _blocks(channels: int, *, depth: int, **options: Any) -> list[Res2Block]:
    return [Res2Block(channels, **options) for _ in range(depth)]
