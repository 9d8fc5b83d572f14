"""PANet with SPP: features go down the pyramid and up again, fused by concatenation (docs/networks.md).

It may end in receptive field blocks (RFB, Liu et al., arXiv:1711.07767) and in adaptively spatial feature fusion (ASFF,
Liu et al., arXiv:1911.09516).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from models.csp import CSPConfig
from models.layers import Activation, Attention, ConvNormAct
from models.necks.stack import BottomUp, Stack, TopDown, coarsest, output_widths
from models.parts import Neck
from utils.structures import Features


class PANet(Neck):
    """The "-panet-spp" neck of the CSPNet detectors and of YOLOv4.

    Args:
        features: the backbone's maps; the coarsest `len(channels)` maps are used.
        channels: width of each level, finest first.
        spp_kernels: windows of spatial pyramid pooling at the coarsest level; null or [] for none.
        out_channels: width of the 3x3 convolution that ends each level; twice `channels` when left out, [] for none.
        csp: a cross-stage-partial stage of `depth` blocks in place of each stack of five convolutions.
        depth: blocks of each such stage.
        depthwise_blocks: build their 3x3 convolutions depthwise-separable, with this odd kernel; null for dense ones.
        sam: attention on every concatenation of two levels, 'pointwise' as in YOLOv4 or 'cbam'.
        rfb: a receptive field block before the 3x3 convolution that ends each level: 'plain', or 'norm' with batch
            normalisation (which we take to be the authors' RFB and RFBN).
        asff: every level's output is a sum of all levels, weighted at each position (the authors' ASFF).
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
        depthwise_blocks: int | None = None,
        sam: Attention | None = None,
        rfb: Literal["plain", "norm"] | None = None,
        asff: bool = False,
        activation: Activation = "leaky",
    ) -> None:
        super().__init__()
        levels = len(channels)
        used = coarsest(features, levels, named=f"channels {channels}")
        taps = used.channels
        widths = output_widths(channels, out_channels)
        stack = Stack(csp, depth, activation, sam, depthwise_blocks=depthwise_blocks)
        self.levels = levels
        self.top = stack(taps[-1], channels[-1], spp_kernels or ())
        self.top_down = nn.ModuleList(
            TopDown(channels[i + 1], taps[i], channels[i], stack) for i in reversed(range(levels - 1))
        )
        self.bottom_up = nn.ModuleList(BottomUp(channels[i - 1], channels[i], stack) for i in range(1, levels))
        self.rfb = nn.ModuleList(nn.Identity() if rfb is None else RFB(width, norm=rfb == "norm") for width in channels)
        self.asff = ASFF(channels, weight_channels=16 if rfb is None else 8, activation=activation) if asff else None
        self.outputs = stack.outputs(channels, widths)
        self.features = Features(tuple(widths or channels), used.strides)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The backbone's maps (B, Ci, Hi, Wi) -> the maps that `features` names, finest first."""
        *finer, coarse = maps[-self.levels :]
        pyramid = [self.top(coarse)]
        for step, tap in zip(self.top_down, reversed(finer), strict=True):
            pyramid.append(step(pyramid[-1], tap))
        if self.asff is not None:
            return self._fuse(pyramid, self.asff)
        x = pyramid.pop()
        outputs = [self.outputs[0](self.rfb[0](x))]
        for step, rfb, output in zip(self.bottom_up, self.rfb[1:], self.outputs[1:], strict=True):
            x = step(x, pyramid.pop())
            outputs.append(output(rfb(x)))
        return outputs

    def _fuse(self, pyramid: list[Tensor], asff: ASFF) -> list[Tensor]:
        """The levels of the top-down path, coarsest first -> the outputs, by the bottom-up path and the fusion."""
        levels = [pyramid.pop()]
        for step in self.bottom_up:
            levels.append(step(levels[-1], pyramid.pop()))
        levels = [rfb(x) for rfb, x in zip(self.rfb, levels, strict=True)]
        return [output(x) for output, x in zip(self.outputs, asff(levels), strict=True)]


class RFB(nn.Module):
    """Four branches that see 1, 3, 7 and 11 cells, side by side, added to the map itself.

    The form is that of ASFF (Liu et al., arXiv:1911.09516) and of darknet's example (AlexeyAB/darknet issue 4507): a
    quarter of the width each, no activations, and a plain addition. ASFF's code has no batch normalisation, darknet's
    example does: we take the authors' RFB and RFBN to be these two.

    Args:
        channels: of the map, a multiple of 4; the width stays.
        norm: batch normalisation in place of biases.
    """

    def __init__(self, channels: int, *, norm: bool) -> None:
        super().__init__()
        if channels % 4:
            raise ValueError(f"rfb: expected a width that four branches divide, found {channels} channels")
        quarter = channels // 4

        def conv(in_channels: int, kernel: int = 1, dilation: int = 1) -> nn.Module:
            if norm:
                return ConvNormAct(in_channels, quarter, kernel, dilation=dilation, activation="linear")
            return nn.Conv2d(in_channels, quarter, kernel, padding=kernel // 2 * dilation, dilation=dilation)

        def branch(*kernels_and_dilations: tuple[int, int]) -> nn.Sequential:
            return nn.Sequential(conv(channels), *(conv(quarter, *pair) for pair in kernels_and_dilations))

        self.branches = nn.ModuleList((branch(), branch((3, 1)), branch((3, 1), (3, 2)), branch((5, 1), (3, 3))))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return torch.cat([branch(x) for branch in self.branches], dim=1) + x


class ASFF(nn.Module):
    """Every level becomes a sum of all levels at its own size and width, weighted at each position.

    A coarser level is resized by a 1x1 convolution and repetition, a finer one by max pools and a strided 3x3
    convolution.

    Args:
        channels: width of each level, finest first, which does not change.
        weight_channels: width from which each level's weights are computed (16 in the paper's code, 8 with RFB).
    """

    def __init__(self, channels: Sequence[int], *, weight_channels: int = 16, activation: Activation = "leaky") -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            _ASFFLevel(channels, target, weight_channels, activation) for target in range(len(channels))
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """One map (B, Ci, Hi, Wi) a level, finest first -> the same shapes."""
        return [level(maps) for level in self.levels]


class _ASFFLevel(nn.Module):
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
        """All levels, finest first -> (B, width, H, W) at this level's size."""
        resized = [resize(x) for resize, x in zip(self.resize, maps, strict=True)]
        reduced = [reduce(x) for reduce, x in zip(self.reduce, resized, strict=True)]
        weights = self.weigh(torch.cat(reduced, dim=1)).softmax(dim=1)
        return sum(x * weights[:, i : i + 1] for i, x in enumerate(resized))
