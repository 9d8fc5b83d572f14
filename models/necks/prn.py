"""Partial residual network: levels joined by additions of leading channels.

Wang et al., ICCVW 2019; layers in docs/networks.md, PRN.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from models.layers import Activation, ConvNormAct, Shortcut
from models.necks.stack import coarsest
from models.parts import Neck
from utils.structures import Features


class PRN(Neck):
    """The neck of yolov3-tiny-prn on any backbone; three levels make it PRN-3l.

    Args:
        features: the backbone's maps; the coarsest `len(channels)` maps are used.
        channels: width of each level, finest first.
    """

    def __init__(self, *, features: Features, channels: list[int], activation: Activation = "leaky") -> None:
        super().__init__()
        levels = len(channels)
        used = coarsest(features, levels, named=f"channels {channels}")
        self.levels = levels
        taps = used.channels
        top = channels[-1]
        self.reduce = ConvNormAct(taps[-1], top, activation=activation)
        self.conv = ConvNormAct(top, top, 3, activation=activation)
        self.shortcut = Shortcut(top, top, activation=activation)
        self.finer = nn.ModuleList(
            _FinerLevel(coarse, fine, tap, activation)
            for (coarse, fine), tap in zip(pairwise(channels[::-1]), taps[-2::-1], strict=True)
        )
        self.features = Features(tuple(channels), used.strides)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The backbone's maps (B, Ci, Hi, Wi) -> the maps that `features` names, finest first."""
        *finer, coarse = maps[-self.levels :]
        reduced = self.reduce(coarse)
        x = self.conv(reduced)
        outputs = [self.shortcut(x, reduced)]
        for level, tap in zip(self.finer, reversed(finer), strict=True):
            x, output = level(x, tap)
            outputs.append(output)
        return outputs[::-1]


class _FinerLevel(nn.Module):
    """The coarser level's convolution (before its additions) upsampled and added to the leading channels of a tap."""

    def __init__(self, coarse: int, width: int, tap: int, activation: Activation) -> None:
        super().__init__()
        self.reduce = ConvNormAct(coarse, width, activation=activation)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.join = Shortcut(width, tap, activation=activation)
        self.conv = ConvNormAct(width, width, 3, activation=activation)
        self.add_upsampled = Shortcut(width, width, activation=activation)
        self.add_tap = Shortcut(width, tap, activation=activation)

    def forward(self, coarse: Tensor, tap: Tensor) -> tuple[Tensor, Tensor]:
        """(B, coarse, H, W) and (B, tap, 2H, 2W) -> (B, width, 2H, 2W) twice: for the next level, for the head."""
        upsampled = self.upsample(self.reduce(coarse))
        x = self.conv(self.join(upsampled, tap))
        return x, self.add_tap(self.add_upsampled(x, upsampled), tap)
