"""Darknet-53, CSPDarknet-53 and its Elastic version, of any depth and width (docs/networks.md, CSPDarknet-53)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from models.backbones.stages import StagedBackbone, check_lengths
from models.csp import CrossStagePartial, CSPConfig
from models.elastic import ElasticBlock
from models.layers import Activation, ConvNormAct, ResidualBlock
from models.parts import Block


class Darknet(StagedBackbone):
    """A stem, then stages of one strided 3x3 convolution and residual blocks; returns the last three stages' maps.

    Args:
        depths: blocks per stage; a stage of 0 blocks is its strided convolution alone.
        channels: width of each stage.
        stem_channels, stem_stride: the 3x3 convolution before the stages.
        csp: makes every stage cross-stage-partial; null is the plain network.
        full_first_stage: with csp, each part of the first stage keeps the stage's full width, as in csdarknet53.cfg;
            otherwise it has half of it, as in the other stages.
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
        check_lengths(depths=depths, channels=channels)
        blocks = _Blocks(elastic, se, activation)

        def make_stage(index: int, in_channels: int) -> tuple[nn.Module, int]:
            full = full_first_stage and index == 0
            return _stage(in_channels, channels[index], depths[index], csp=csp, full=full, blocks=blocks)

        stem = ConvNormAct(3, stem_channels, 3, stride=stem_stride, activation=activation)
        super().__init__(stem, stem_channels, make_stage, count=len(depths), first_stride=2 * stem_stride)
        if elastic:
            self.stride = 2 * self.features.strides[-1]


@dataclass(frozen=True)
class _Blocks:
    """Builds the residual blocks of a stage."""

    elastic: bool
    se: int | None
    activation: Activation

    def __call__(self, depth: int, channels: int, hidden_channels: int) -> list[Block]:
        """`depth` blocks that keep the width `channels`."""
        if not self.elastic:
            return [
                ResidualBlock(channels, hidden_channels, se=self.se, activation=self.activation) for _ in range(depth)
            ]

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

    def partial_blocks(width: int) -> list[Block]:  # half the channels: no need to squeeze them again
        return blocks(depth, width, width // 2 if full and not blocks.elastic else width)

    split = 2 * channels if full else channels
    cross = CrossStagePartial(channels, channels, partial_blocks, csp=csp, split_channels=split, activation=activation)
    return nn.Sequential(down, cross), cross.out_channels
