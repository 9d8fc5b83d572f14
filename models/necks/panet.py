"""PANet with SPP: features go down the pyramid and up again, fused by concatenation (spec 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.csp import CrossStagePartial, CSPConfig
from models.layers import SPP, Activation, ConvNormAct, ResidualBlock
from utils.structures import Features


class PANet(nn.Module):
    """The "-panet-spp" neck of the CSPNet detectors and of YOLOv4.

    Args:
        features: what the backbone gives; the coarsest `len(channels)` maps are used.
        channels: width of each level, finest first.
        spp_kernels: windows of spatial pyramid pooling at the coarsest level; null or [] for none.
        out_channels: width of the 3x3 convolution that ends each level; twice `channels` when left out, [] for none.
        csp: a cross-stage-partial stage of `depth` blocks in place of each stack of five convolutions.
        depth: blocks of each such stage.
    """

    def __init__(
        self,
        *,
        features: Features,
        channels: list[int],
        spp_kernels: list[int] | None = None,
        out_channels: list[int] | None = None,
        csp: CSPConfig | None = None,
        depth: int = 1,
        activation: Activation = "leaky",
    ) -> None:
        super().__init__()
        levels = len(channels)
        if not 1 <= levels <= len(features.channels):
            raise ValueError(
                f"channels {channels}: expected 1 to {len(features.channels)} entries, "
                f"one per level; the backbone gives strides {list(features.strides)}"
            )
        widths = [2 * width for width in channels] if out_channels is None else out_channels
        if widths and len(widths) != levels:
            raise ValueError(f"out_channels {widths}: expected {levels} entries, one per level of channels {channels}")

        if depth < 1:
            raise ValueError(f"depth: expected at least 1 block, found {depth}")

        taps = features.channels[-levels:]
        stack = _Stack(csp, depth, activation)
        self.levels = levels
        self.top = stack(taps[-1], channels[-1], spp_kernels or ())
        self.top_down = nn.ModuleList(
            _TopDown(channels[i + 1], taps[i], channels[i], stack) for i in reversed(range(levels - 1))
        )
        self.bottom_up = nn.ModuleList(_BottomUp(channels[i - 1], channels[i], stack) for i in range(1, levels))
        self.outputs = nn.ModuleList(
            ConvNormAct(channels[i], widths[i], 3, activation=activation) if widths else nn.Identity()
            for i in range(levels)
        )
        self.features = Features(tuple(widths or channels), features.strides[-levels:])

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The backbone's maps -> one map per level, finest first."""
        *finer, coarsest = maps[-self.levels :]
        pyramid = [self.top(coarsest)]
        for step, tap in zip(self.top_down, reversed(finer), strict=True):
            pyramid.append(step(pyramid[-1], tap))
        x = pyramid.pop()
        outputs = [self.outputs[0](x)]
        for step, output in zip(self.bottom_up, self.outputs[1:], strict=True):
            x = step(x, pyramid.pop())
            outputs.append(output(x))
        return outputs


@dataclass(frozen=True)
class _Stack:
    """Makes the convolutions of one level: five in turn, or a cross-stage-partial stage."""

    csp: CSPConfig | None
    depth: int
    activation: Activation

    def __call__(self, in_channels: int, width: int, spp_kernels: Sequence[int] = ()) -> nn.Sequential:
        """`in_channels` -> `width`; pyramid pooling goes after the third convolution, or before the partial stage."""
        if self.csp is None:
            enter = [self.conv(in_channels, width), self.conv(width, 2 * width, 3), self.conv(2 * width, width)]
            leave = [self.conv(width, 2 * width, 3), self.conv(2 * width, width)]
            return nn.Sequential(*enter, *self.pooling(width, spp_kernels), *leave)
        if not spp_kernels:
            return nn.Sequential(self.partial(in_channels, width))
        return nn.Sequential(
            self.conv(in_channels, width), *self.pooling(width, spp_kernels), self.partial(width, width)
        )

    def conv(self, in_channels: int, out_channels: int, kernel: int = 1, *, stride: int = 1) -> ConvNormAct:
        return ConvNormAct(in_channels, out_channels, kernel, stride=stride, activation=self.activation)

    def pooling(self, width: int, spp_kernels: Sequence[int]) -> list[nn.Module]:
        if not spp_kernels:
            return []
        spp = SPP(width, spp_kernels)
        return [spp, self.conv(spp.out_channels, width)]

    def partial(self, in_channels: int, width: int) -> CrossStagePartial:
        def blocks(inside: int) -> list[ResidualBlock]:
            return [
                ResidualBlock(inside, inside, shortcut=False, activation=self.activation) for _ in range(self.depth)
            ]

        return CrossStagePartial(
            in_channels, width, blocks, csp=self.csp, split_channels=width, activation=self.activation
        )


class _TopDown(nn.Module):
    """A coarser level joins a map of the backbone."""

    def __init__(self, coarse: int, tap: int, width: int, stack: _Stack) -> None:
        super().__init__()
        self.reduce = stack.conv(coarse, width)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.lateral = stack.conv(tap, width)
        self.stack = stack(2 * width, width)

    def forward(self, coarse: Tensor, tap: Tensor) -> Tensor:
        up = self.upsample(self.reduce(coarse))
        return self.stack(torch.cat((self.lateral(tap), up), dim=1))


class _BottomUp(nn.Module):
    """A finer level joins the same level of the way down."""

    def __init__(self, fine: int, width: int, stack: _Stack) -> None:
        super().__init__()
        self.down = stack.conv(fine, width, 3, stride=2)
        self.stack = stack(2 * width, width)

    def forward(self, fine: Tensor, skip: Tensor) -> Tensor:
        return self.stack(torch.cat((self.down(fine), skip), dim=1))
