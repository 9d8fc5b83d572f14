"""Res2NetLite-72: residual blocks whose groups of channels see ever larger windows (docs/networks.md)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.backbones.stages import StagedBackbone, check_lengths
from models.csp import CrossStagePartial, CSPStages, csp_by_stage
from models.layers import Activation, ConvNormAct, Shortcut, make_excitation
from models.parts import Block


class Res2Block(Block):
    """1x1; groups of channels in turn through 3x3 convolutions, each with the result before it added; 1x1; shortcut.

    The first group bypasses the convolutions, so that the 3x3 windows of the others see 3, 5, 7, ... cells.

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
        if channels % scales:
            raise ValueError(f"a block of {channels} channels: expected a multiple of its {scales} scales")
        super().__init__(channels, channels)
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
        """(B, channels, H, W) -> the same shape."""
        parts = self.enter(x).chunk(self.scales, dim=1)
        maps = [parts[0], self.convs[0](parts[1])]
        for index, add in enumerate(self.adds):
            maps.append(self.convs[index + 1](add(parts[index + 2], maps[-1])))
        return self.shortcut(self.se(self.leave(torch.cat(maps, dim=1))), x)


class Res2Net(StagedBackbone):
    """A strided stem, max pool, stages of a strided bottleneck and Res2 blocks; gives the last stages' maps.

    Args:
        depths: Res2 blocks per stage.
        channels: width of each stage.
        scales: groups of channels of the blocks; the bottlenecks are as wide inside as one of them.
        groups: of the 3x3 convolutions after the stem.
        csp: makes the blocks of every stage cross-stage-partial; null is the plain network; a list has one entry a
            stage.
        se: squeeze-and-excitation in every block, the reduction of its width; null for none.
        levels: how many maps it gives, the coarsest; three when left out.
    """

    def __init__(
        self,
        *,
        depths: list[int],
        channels: list[int],
        scales: int = 4,
        groups: int = 2,
        stem_channels: int = 32,
        csp: CSPStages = None,
        se: int | None = None,
        levels: int | None = None,
        activation: Activation = "leaky",
    ) -> None:
        check_lengths(depths=depths, channels=channels)
        if min(depths) < 1 or scales < 2:
            raise ValueError(f"depths {depths}, scales {scales}: expected at least 1 block a stage, at least 2 scales")
        if any(width % (scales * groups) for width in channels):
            raise ValueError(
                f"channels {channels}: expected multiples of {scales * groups}, for {scales} scales in {groups} groups"
            )

        partial = csp_by_stage(csp, len(depths))

        def make_stage(index: int, in_channels: int) -> tuple[nn.Module, int]:
            def blocks(width: int) -> list[Block]:
                return [
                    Res2Block(width, scales=scales, groups=groups, se=se, activation=activation)
                    for _ in range(depths[index])
                ]

            width, inside = channels[index], channels[index] // scales
            down = [
                ConvNormAct(in_channels, inside, activation=activation),
                ConvNormAct(inside, inside, 3, stride=2, groups=groups, activation=activation),
                ConvNormAct(inside, width, activation=activation),
            ]
            own = partial[index]
            if own is None:
                return nn.Sequential(*down, *blocks(width)), width
            cross = CrossStagePartial(width, width, blocks, csp=own, activation=activation)
            return nn.Sequential(*down, cross), cross.out_channels

        first = ConvNormAct(3, stem_channels, 3, stride=2, activation=activation)
        stem = nn.Sequential(first, nn.MaxPool2d(3, 2, padding=1))
        super().__init__(stem, stem_channels, make_stage, count=len(depths), first_stride=8, levels=levels)
