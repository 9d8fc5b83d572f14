"""Darknet-53, CSPDarknet-53, its Elastic version and YOLOX's, of any depth and width (docs/networks.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from torch import nn

from models.backbones.stages import StagedBackbone, check_lengths
from models.blocks import ResidualBlock, conv3x3
from models.csp import CrossStagePartial, CSPConfig, CSPStages, csp_by_stage
from models.elastic import ElasticBlock
from models.layers import SPP, Activation, ConvNormAct
from models.parts import Block


class Darknet(StagedBackbone):
    """A stem, then stages of one strided 3x3 convolution and residual blocks; gives the last stages' maps.

    Args:
        depths: blocks per stage; a stage of 0 blocks is its strided convolution alone.
        channels: width of each stage.
        stem_channels, stem_stride: the convolution before the stages.
        stem_kernel: 3, or 6 with stride 2: the same function as YOLOv5's and YOLOX's Focus, which sorts the pixels of
            each 2x2 square into channels and then convolves 3x3.
        csp: makes every stage cross-stage-partial; null is the plain network; a list has one entry a stage.
        full_first_stage: with csp, each part of the first stage keeps the stage's full width, as in csdarknet53.cfg;
            otherwise it has half of it, as in the other stages.
        elastic: every block works at two resolutions, each with half of the channels; images must then be multiples of
            twice the coarsest stride.
        se: squeeze-and-excitation in every block, the reduction of its width; null for none.
        spp_kernels: windows of spatial pyramid pooling, between two 1x1 convolutions after the last stage's strided
            convolution (YOLOX); null for none.
        last_shortcut: whether the blocks of the last stage have shortcuts.
        depthwise: build the 3x3 convolutions of the stages depthwise-separable.
        depthwise_blocks: build those of the blocks alone so, with depthwise convolutions of this odd kernel; null for
            dense 3x3 ones. The strided convolutions, which widen the map, stay dense.
        levels: how many maps it gives, the coarsest; three when left out.
        activation: of every convolution; the shortcuts have none.
    """

    def __init__(
        self,
        *,
        depths: list[int],
        channels: list[int],
        stem_channels: int = 32,
        stem_stride: Literal[1, 2] = 1,
        stem_kernel: Literal[3, 6] = 3,
        csp: CSPStages = None,
        full_first_stage: bool = True,
        elastic: bool = False,
        se: int | None = None,
        spp_kernels: list[int] | None = None,
        last_shortcut: bool = True,
        depthwise: bool = False,
        depthwise_blocks: int | None = None,
        levels: int | None = None,
        activation: Activation = "leaky",
    ) -> None:
        check_lengths(depths=depths, channels=channels)
        if stem_kernel == 6 and stem_stride != 2:
            raise ValueError(f"stem_kernel: 6 goes with stem_stride 2 alone, found {stem_stride}")
        if elastic and (depthwise or depthwise_blocks or not last_shortcut):
            raise ValueError("elastic: goes without depthwise and depthwise_blocks, and with last_shortcut")
        partial = _csp_of_stages(csp, depths)
        block = _block_maker(
            elastic=elastic, se=se, depthwise=depthwise, kernel=depthwise_blocks, activation=activation
        )

        def make_stage(index: int, in_channels: int) -> tuple[nn.Module, int]:
            width, depth, full = channels[index], depths[index], full_first_stage and index == 0
            last = index == len(depths) - 1
            shortcut = last_shortcut or not last
            down = [conv3x3(in_channels, width, stride=2, depthwise=depthwise, activation=activation)]
            if last and spp_kernels:
                down += _pooling(width, spp_kernels, activation)
            own = partial[index]
            if own is None or depth == 0:
                return nn.Sequential(*down, *(block(width, width // 2, shortcut) for _ in range(depth))), width

            def blocks(inside: int) -> list[Block]:  # half the channels: no need to squeeze them again
                hidden = inside // 2 if full and not elastic else inside
                return [block(inside, hidden, shortcut) for _ in range(depth)]

            split = 2 * width if full else width
            cross = CrossStagePartial(width, width, blocks, csp=own, split_channels=split, activation=activation)
            return nn.Sequential(*down, cross), cross.out_channels

        padding = 2 if stem_kernel == 6 else None
        stem = ConvNormAct(3, stem_channels, stem_kernel, stride=stem_stride, padding=padding, activation=activation)
        finest = 2 * stem_stride
        super().__init__(stem, stem_channels, make_stage, count=len(depths), first_stride=finest, levels=levels)
        if elastic:
            self.stride = 2 * self.features.strides[-1]


def _csp_of_stages(csp: CSPStages, depths: Sequence[int]) -> list[CSPConfig | None]:
    """The configuration of each stage, as in `csp_by_stage`.

    Raises:
        ValueError: a list with another number of entries, or with one for a stage without blocks.
    """
    partial = csp_by_stage(csp, len(depths))
    if isinstance(csp, list) and any(entry and not depth for entry, depth in zip(partial, depths, strict=True)):
        raise ValueError(f"csp: a stage of 0 blocks has nothing to bypass, expected null there (depths {depths})")
    return partial


def _block_maker(
    *, elastic: bool, se: int | None, depthwise: bool, kernel: int | None, activation: Activation
) -> Callable[[int, int, bool], Block]:
    """What makes a block: (width, width inside, whether it has a shortcut) -> (B, width, H, W) to the same shape."""

    def block(width: int, hidden: int, shortcut: bool) -> Block:
        if not elastic:
            return ResidualBlock(
                width, hidden, shortcut=shortcut, se=se, depthwise=depthwise, kernel=kernel, activation=activation
            )

        def convs(inside: int) -> ResidualBlock:
            return ResidualBlock(inside, hidden // 2, shortcut=False, activation=activation)

        return ElasticBlock(width, convs, se=se, se_activation=activation, activation="linear")

    return block


def _pooling(channels: int, kernels: Sequence[int], activation: Activation) -> list[nn.Module]:
    """Pyramid pooling at half the width, (B, channels, H, W) -> the same shape."""
    spp = SPP(channels // 2, kernels)
    enter = ConvNormAct(channels, channels // 2, activation=activation)
    return [enter, spp, ConvNormAct(spp.out_channels, channels, activation=activation)]
