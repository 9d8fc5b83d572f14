"""The parts of pyramid necks: the convolutions of one level, and the steps from level to level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.blocks import ResidualBlock, conv3x3
from models.csp import CrossStagePartial, CSPConfig
from models.layers import SPP, Activation, Attention, ConvNormAct, make_attention
from models.parts import Block
from utils.structures import Features

MORE_LEVELS = ", and more with its key 'levels' (of timm: 'strides')"
"""What to do about a backbone with fewer maps than a neck has levels, after what it gives."""


def coarsest(features: Features, levels: int, *, named: str) -> Features:
    """The last `levels` maps of a backbone.

    Args:
        named: the neck's key and value that ask for these levels, for the message.
    Raises:
        ValueError: the backbone has fewer.
    """
    if not 1 <= levels <= len(features.channels):
        raise ValueError(
            f"{named}: expected 1 to {len(features.channels)} entries, "
            f"one per level; the backbone gives strides {list(features.strides)}{MORE_LEVELS}"
        )
    return Features(features.channels[-levels:], features.strides[-levels:])


def output_widths(channels: Sequence[int], out_channels: Sequence[int] | None) -> list[int]:
    """Width of the 3x3 convolution that ends each level; empty for none of them.

    Raises:
        ValueError: not one for each level.
    """
    widths = [2 * width for width in channels] if out_channels is None else list(out_channels)
    if widths and len(widths) != len(channels):
        raise ValueError(
            f"out_channels {widths}: expected {len(channels)} entries, one per level of channels {list(channels)}"
        )
    return widths


@dataclass(frozen=True)
class Stack:
    """Makes the convolutions of one level: five in turn, or a cross-stage-partial stage.

    Args:
        csp: null for the five convolutions.
        depth: blocks of the partial stage.
        sam: attention on the concatenation of two levels.
        depthwise: build the 3x3 convolutions between levels and of the partial stages depthwise-separable.
        depthwise_blocks: build those of the partial stages alone so, with this odd kernel; null for dense 3x3 ones.
    """

    csp: CSPConfig | None
    depth: int
    activation: Activation
    sam: Attention | None = None
    depthwise: bool = False
    depthwise_blocks: int | None = None

    def __post_init__(self) -> None:
        if self.depthwise_blocks is not None and self.csp is None:
            raise ValueError("depthwise_blocks: goes with csp, whose stages have blocks")
        if self.depth < 1:
            raise ValueError(f"depth: expected at least 1 block, found {self.depth}")

    def __call__(self, in_channels: int, width: int, spp_kernels: Sequence[int] = ()) -> nn.Sequential:
        """`in_channels` -> `width`; pyramid pooling goes after the third convolution, or before the partial stage."""
        if self.csp is None:
            enter = [self.conv(in_channels, width), self.conv(width, 2 * width, 3), self.conv(2 * width, width)]
            leave = [self.conv(width, 2 * width, 3), self.conv(2 * width, width)]
            return nn.Sequential(*enter, *self.pooling(width, spp_kernels), *leave)
        if not spp_kernels:
            return nn.Sequential(self.partial(in_channels, width, self.csp))
        return nn.Sequential(
            self.conv(in_channels, width), *self.pooling(width, spp_kernels), self.partial(width, width, self.csp)
        )

    def conv(self, in_channels: int, out_channels: int, kernel: int = 1, *, stride: int = 1) -> ConvNormAct:
        """One convolution with the stack's activation."""
        return ConvNormAct(in_channels, out_channels, kernel, stride=stride, activation=self.activation)

    def pooling(self, width: int, spp_kernels: Sequence[int]) -> list[nn.Module]:
        """Pyramid pooling and the 1x1 convolution back to `width`; nothing without kernels."""
        if not spp_kernels:
            return []
        spp = SPP(width, spp_kernels)
        return [spp, self.conv(spp.out_channels, width)]

    def outputs(self, channels: Sequence[int], widths: Sequence[int]) -> nn.ModuleList:
        """The 3x3 convolution that ends each level, to its entry of `widths`; identities where there are none."""
        if not widths:
            return nn.ModuleList(nn.Identity() for _ in channels)
        return nn.ModuleList(self.conv(before, after, 3) for before, after in zip(channels, widths, strict=True))

    def attention(self, channels: int) -> nn.Module:
        """The attention of a map of so many channels, or the identity."""
        return make_attention(channels, self.sam)

    def partial(self, in_channels: int, width: int, csp: CSPConfig) -> CrossStagePartial:
        """A cross-stage-partial stage of `depth` blocks, (B, in_channels, H, W) -> (B, width, H, W)."""

        def blocks(inside: int) -> list[Block]:
            return [
                ResidualBlock(
                    inside,
                    inside,
                    shortcut=False,
                    depthwise=self.depthwise,
                    kernel=self.depthwise_blocks,
                    activation=self.activation,
                )
                for _ in range(self.depth)
            ]

        return CrossStagePartial(in_channels, width, blocks, csp=csp, split_channels=width, activation=self.activation)


class TopDown(nn.Module):
    """A coarser level joins a map of the backbone.

    Args:
        lateral: the map goes through a 1x1 convolution and comes first (PANet); otherwise it joins unchanged, after the
            coarser level (YOLOv3).
    """

    def __init__(self, coarse: int, tap: int, width: int, stack: Stack, *, lateral: bool = True) -> None:
        super().__init__()
        self.reduce = stack.conv(coarse, width)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.lateral = stack.conv(tap, width) if lateral else None
        joined = 2 * width if lateral else width + tap
        self.attention = stack.attention(joined)
        self.stack = stack(joined, width)

    def forward(self, coarse: Tensor, tap: Tensor) -> Tensor:
        """(B, coarse, H, W) and (B, tap, 2H, 2W) -> (B, width, 2H, 2W)."""
        return self.join(self.reduce(coarse), tap)

    def join(self, reduced: Tensor, tap: Tensor) -> Tensor:
        """The step after its first convolution: (B, width, H, W) and (B, tap, 2H, 2W) -> (B, width, 2H, 2W)."""
        up = self.upsample(reduced)
        maps = (up, tap) if self.lateral is None else (self.lateral(tap), up)
        return self.stack(self.attention(torch.cat(maps, dim=1)))


class BottomUp(nn.Module):
    """A finer level joins the same level of the top-down path.

    Args:
        out_channels: width of what comes out; `width` when left out.
    """

    def __init__(self, fine: int, width: int, stack: Stack, *, out_channels: int | None = None) -> None:
        super().__init__()
        self.down = conv3x3(fine, width, stride=2, depthwise=stack.depthwise, activation=stack.activation)
        self.attention = stack.attention(2 * width)
        self.stack = stack(2 * width, out_channels or width)

    def forward(self, fine: Tensor, skip: Tensor) -> Tensor:
        """(B, fine, 2H, 2W) and (B, width, H, W) -> (B, out_channels, H, W)."""
        return self.stack(self.attention(torch.cat((self.down(fine), skip), dim=1)))
