"""The necks of YOLOv3-tiny and YOLOv4-tiny, with two levels or three (docs/networks.md, YOLOv4-tiny)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.layers import Activation, Attention
from models.necks.stack import Stack, coarsest
from models.parts import Neck
from utils.structures import Features


class TinyFPN(Neck):
    """The neck of YOLOv3-tiny, of YOLOv4-tiny and of their versions with three levels (-3l).

    The coarsest map goes through a 1x1 and a 3x3 convolution. Each finer level joins the level before it (of the
    coarsest the 1x1 convolution), reduced and upsampled, with the backbone's map by one 3x3 convolution.

    Args:
        features: the backbone's maps; the coarsest `len(channels)` maps are used.
        channels: width of each level's 3x3 convolution, finest first.
        reduced: width of each level's 1x1 convolution; half of `channels` when left out.
        spp_kernels: pyramid pooling after the coarsest level's 1x1 convolution, and another of these after it.
        sam: attention on the inputs of the finer levels' 3x3 convolutions.
    """

    def __init__(
        self,
        *,
        features: Features,
        channels: list[int],
        reduced: list[int] | None = None,
        spp_kernels: list[int] | None = None,
        sam: Attention | None = None,
        activation: Activation = "leaky",
    ) -> None:
        super().__init__()
        levels = len(channels)
        used = coarsest(features, levels, named=f"channels {channels}")
        widths = [width // 2 for width in channels] if reduced is None else reduced
        if len(widths) != levels:
            raise ValueError(f"reduced {widths}: expected {levels} entries, one per level of channels {channels}")
        stack = Stack(None, 1, activation, sam)
        self.levels = levels
        self.top = nn.Sequential(
            stack.conv(used.channels[-1], widths[-1]), *stack.pooling(widths[-1], spp_kernels or ())
        )
        self.output = stack.conv(widths[-1], channels[-1], 3)
        carried = [*channels[1:-1], widths[-1]]
        self.finer = nn.ModuleList(
            _TinyLevel(carried[i], used.channels[i], widths[i], channels[i], stack) for i in reversed(range(levels - 1))
        )
        self.features = Features(tuple(channels), used.strides)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The backbone's maps (B, Ci, Hi, Wi) -> the maps that `features` names, finest first."""
        *finer, coarse = maps[-self.levels :]
        x = self.top(coarse)
        outputs = [self.output(x)]
        for level, tap in zip(self.finer, reversed(finer), strict=True):
            x = level(x, tap)
            outputs.append(x)
        return outputs[::-1]


class _TinyLevel(nn.Module):
    """A coarser level, reduced and upsampled, beside a map of the backbone; one 3x3 convolution joins them."""

    def __init__(self, coarse: int, tap: int, reduced: int, width: int, stack: Stack) -> None:
        super().__init__()
        self.reduce = stack.conv(coarse, reduced)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.attention = stack.attention(reduced + tap)
        self.conv = stack.conv(reduced + tap, width, 3)

    def forward(self, coarse: Tensor, tap: Tensor) -> Tensor:
        """(B, coarse, H, W) and (B, tap, 2H, 2W) -> (B, width, 2H, 2W)."""
        joined = torch.cat((self.upsample(self.reduce(coarse)), tap), dim=1)
        return self.conv(self.attention(joined))
