"""Darknet-53, CSPDarknet-53 and its Elastic version, of any depth and width (docs/networks.md, CSPDarknet-53)."""

from __future__ import annotations

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

        def block(width: int, hidden: int) -> Block:
            if not elastic:
                return ResidualBlock(width, hidden, se=se, activation=activation)

            def convs(inside: int) -> ResidualBlock:
                return ResidualBlock(inside, hidden // 2, shortcut=False, activation=activation)

            return ElasticBlock(width, convs, se=se, se_activation=activation, activation="linear")

        def make_stage(index: int, in_channels: int) -> tuple[nn.Module, int]:
            width, depth, full = channels[index], depths[index], full_first_stage and index == 0
            down = ConvNormAct(in_channels, width, 3, stride=2, activation=activation)
            if csp is None or depth == 0:
                return nn.Sequential(down, *(block(width, width // 2) for _ in range(depth))), width

            def blocks(inside: int) -> list[Block]:  # half the channels: no need to squeeze them again
                hidden = inside // 2 if full and not elastic else inside
                return [block(inside, hidden) for _ in range(depth)]

            split = 2 * width if full else width
            cross = CrossStagePartial(width, width, blocks, csp=csp, split_channels=split, activation=activation)
            return nn.Sequential(down, cross), cross.out_channels

        stem = ConvNormAct(3, stem_channels, 3, stride=stem_stride, activation=activation)
        super().__init__(stem, stem_channels, make_stage, count=len(depths), first_stride=2 * stem_stride)
        if elastic:
            self.stride = 2 * self.features.strides[-1]
