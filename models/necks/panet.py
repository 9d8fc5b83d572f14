"""PANet with SPP: features go down the pyramid and up again, fused by concatenation (spec 3.1)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from models.csp import CSPConfig
from models.layers import Activation, Attention, ConvNormAct
from models.necks.asff import ASFF
from models.necks.rfb import RFB
from models.necks.stack import BottomUp, Stack, TopDown, coarsest, output_widths
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
        sam: attention on every concatenation of two levels, 'pointwise' as in YOLOv4 or 'cbam'.
        rfb: a receptive field block before the 3x3 convolution that ends each level: 'plain', or 'norm' with batch
            normalisation (the authors' RFB and RFBN, as we read them).
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
        stack = Stack(csp, depth, activation, sam)
        self.levels = levels
        self.top = stack(taps[-1], channels[-1], spp_kernels or ())
        self.top_down = nn.ModuleList(
            TopDown(channels[i + 1], taps[i], channels[i], stack) for i in reversed(range(levels - 1))
        )
        self.bottom_up = nn.ModuleList(BottomUp(channels[i - 1], channels[i], stack) for i in range(1, levels))
        self.rfb = nn.ModuleList(nn.Identity() if rfb is None else RFB(width, norm=rfb == "norm") for width in channels)
        self.asff = ASFF(channels, weight_channels=16 if rfb is None else 8, activation=activation) if asff else None
        self.outputs = nn.ModuleList(
            ConvNormAct(channels[i], widths[i], 3, activation=activation) if widths else nn.Identity()
            for i in range(levels)
        )
        self.features = Features(tuple(widths or channels), used.strides)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The backbone's maps -> one map per level, finest first."""
        *finer, coarse = maps[-self.levels :]
        pyramid = [self.top(coarse)]
        for step, tap in zip(self.top_down, reversed(finer), strict=True):
            pyramid.append(step(pyramid[-1], tap))
        if self.asff is not None:
            return self._fuse(pyramid)
        x = pyramid.pop()
        outputs = [self.outputs[0](self.rfb[0](x))]
        for step, rfb, output in zip(self.bottom_up, self.rfb[1:], self.outputs[1:], strict=True):
            x = step(x, pyramid.pop())
            outputs.append(output(rfb(x)))
        return outputs

    def _fuse(self, pyramid: list[Tensor]) -> list[Tensor]:
        """The way up, then every level from all of them."""
        levels = [pyramid.pop()]
        for step in self.bottom_up:
            levels.append(step(levels[-1], pyramid.pop()))
        levels = [rfb(x) for rfb, x in zip(self.rfb, levels, strict=True)]
        return [output(x) for output, x in zip(self.outputs, self.asff(levels), strict=True)]
