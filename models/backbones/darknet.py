"""Darknet-53, CSPDarknet-53 and its Elastic version (spec 1.4, 1.6 and 1.8), of any depth and width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from models.csp import CrossStagePartial, CSPConfig
from models.elastic import ElasticBlock
from models.layers import Activation, ConvNormAct, ResidualBlock, check_lengths
from utils.structures import Features


class Darknet(nn.Module):
    """A stem, then stages of one 3x3 convolution of stride 2 and residual blocks; gives the last three stages' maps.

    Args:
        depths: blocks per stage; a stage of 0 blocks is its strided convolution alone.
        channels: width of each stage.
        stem_channels, stem_stride: the 3x3 convolution before the stages.
        csp: makes every stage cross-stage-partial; null is the plain network.
        full_first_stage: with csp, each part of the first stage keeps the stage's full width, as in csdarknet53.cfg;
            else the first stage halves like the others.
        elastic: every block works at two resolutions, each with half of the channels; images must then be multiples of
            twice the coarsest stride.
        se: squeeze-and-excitation in every block, the reduction of its width; null for none.
        activation: of every convolution; the shortcuts have none.
    """

    def __init__(
        self,
        *,
        depths: list[int],
        channels: list[int],
        stem_channels: int = 32,
        stem_stride: Literal[1, 2] = 1,
        csp: CSPConfig | None = None,
        full_first_stage: bool = True,
        elastic: bool = False,
        se: int | None = None,
        activation: Activation = "leaky",
    ) -> None:
        super().__init__()
        check_lengths(depths=depths, channels=channels)
        self.stem = ConvNormAct(3, stem_channels, 3, stride=stem_stride, activation=activation)
        self.stages = nn.ModuleList()
        blocks = _Blocks(elastic, se, activation)
        width, widths, strides = stem_channels, [], []
        for index, (depth, wanted) in enumerate(zip(depths, channels, strict=True)):
            full = full_first_stage and index == 0
            stage, width = _stage(width, wanted, depth, csp=csp, full=full, blocks=blocks)
            self.stages.append(stage)
            widths.append(width)
            strides.append(stem_stride * 2 ** (index + 1))
        self.features = Features(tuple(widths[-3:]), tuple(strides[-3:]))
        self.stride = 2 * strides[-1] if elastic else 1

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the maps that `features` names, finest first."""
        x, maps = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[-3:]


@dataclass(frozen=True)
class _Blocks:
    """Makes the residual blocks of a stage."""

    elastic: bool
    se: int | None
    activation: Activation

    def __call__(self, depth: int, channels: int, hidden_channels: int) -> list[nn.Module]:
        if not self.elastic:
            options = {"se": self.se, "activation": self.activation}
            return [ResidualBlock(channels, hidden_channels, **options) for _ in range(depth)]

        def convs(width: int) -> ResidualBlock:
            return ResidualBlock(width, hidden_channels // 2, shortcut=False, activation=self.activation)

        return [
            ElasticBlock(channels, convs, se=self.se, se_activation=self.activation, activation="linear")
            for _ in range(depth)
        ]


def _stage(
    in_channels: int, channels: int, depth: int, *, csp: CSPConfig | None, full: bool, blocks: _Blocks
) -> tuple[nn.Sequential, int]:
    """One stage and its width."""
    activation = blocks.activation
    down = ConvNormAct(in_channels, channels, 3, stride=2, activation=activation)
    if csp is None or depth == 0:
        return nn.Sequential(down, *blocks(depth, channels, channels // 2)), channels

    def partial_blocks(width: int) -> list[nn.Module]:  # half the channels: no need to squeeze them again
        return blocks(depth, width, width // 2 if full and not blocks.elastic else width)

    split = 2 * channels if full else channels
    cross = CrossStagePartial(channels, channels, partial_blocks, csp=csp, split_channels=split, activation=activation)
    return nn.Sequential(down, cross), cross.out_channels
