"""Darknet-53 and CSPDarknet-53 (spec 1.4 and 1.6), of any depth and width."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from models.csp import CrossStagePartial, CSPConfig
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
        activation: Activation = "leaky",
    ) -> None:
        super().__init__()
        check_lengths(depths=depths, channels=channels)
        self.stem = ConvNormAct(3, stem_channels, 3, stride=stem_stride, activation=activation)
        self.stages = nn.ModuleList()
        width, widths, strides = stem_channels, [], []
        for index, (depth, wanted) in enumerate(zip(depths, channels, strict=True)):
            full = full_first_stage and index == 0
            stage, width = _stage(width, wanted, depth, csp=csp, full=full, activation=activation)
            self.stages.append(stage)
            widths.append(width)
            strides.append(stem_stride * 2 ** (index + 1))
        self.features = Features(tuple(widths[-3:]), tuple(strides[-3:]))

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the maps that `features` names, finest first."""
        x, maps = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[-3:]


def _stage(
    in_channels: int, channels: int, depth: int, *, csp: CSPConfig | None, full: bool, activation: Activation
) -> tuple[nn.Sequential, int]:
    """One stage and its width."""
    down = ConvNormAct(in_channels, channels, 3, stride=2, activation=activation)
    if csp is None or depth == 0:
        blocks = [ResidualBlock(channels, channels // 2, activation=activation) for _ in range(depth)]
        return nn.Sequential(down, *blocks), channels

    def partial_blocks(width: int) -> list[ResidualBlock]:  # half the channels: no need to squeeze them again
        hidden = width // 2 if full else width
        return [ResidualBlock(width, hidden, activation=activation) for _ in range(depth)]

    split = 2 * channels if full else channels
    cross = CrossStagePartial(channels, channels, partial_blocks, csp=csp, split_channels=split, activation=activation)
    return nn.Sequential(down, cross), cross.out_channels
