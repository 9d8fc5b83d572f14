"""Feature pyramids with a top-down path only: those of YOLOv3 and its relatives, and of Lin et al."""

from __future__ import annotations

from torch import Tensor, nn

from models.csp import CSPConfig
from models.layers import Activation, Attention, Shortcut
from models.necks.stack import MORE_LEVELS, Stack, TopDown, coarsest, output_widths
from models.parts import Neck
from utils.structures import Features


class FPN(Neck):
    """PANet without the bottom-up path: the neck of the authors' "-fpn-spp" and "-yolo-spp", of YOLOv3 and YOLOv3-SPP.

    Args:
        features: the backbone's maps; the coarsest `len(channels)` maps are used.
        channels: width of each level, finest first.
        lateral: the backbone's maps join by a 1x1 convolution ("-fpn-spp"), otherwise unchanged ("-yolo-spp", YOLOv3).
        spp_kernels, out_channels, csp, depth, depthwise_blocks, sam: as in PANet.
    """

    def __init__(
        self,
        *,
        features: Features,
        channels: list[int],
        lateral: bool = True,
        spp_kernels: list[int] | None = None,
        out_channels: list[int] | None = None,
        csp: CSPConfig | None = None,
        depth: int = 1,
        depthwise_blocks: int | None = None,
        sam: Attention | None = None,
        activation: Activation = "leaky",
    ) -> None:
        super().__init__()
        levels = len(channels)
        used = coarsest(features, levels, named=f"channels {channels}")
        widths = output_widths(channels, out_channels)
        stack = Stack(csp, depth, activation, sam, depthwise_blocks=depthwise_blocks)
        self.levels = levels
        self.top = stack(used.channels[-1], channels[-1], spp_kernels or ())
        self.top_down = nn.ModuleList(
            TopDown(channels[i + 1], used.channels[i], channels[i], stack, lateral=lateral)
            for i in reversed(range(levels - 1))
        )
        self.outputs = stack.outputs(channels, widths)
        self.features = Features(tuple(widths or channels), used.strides)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The backbone's maps (B, Ci, Hi, Wi) -> the maps that `features` names, finest first."""
        *finer, coarse = maps[-self.levels :]
        x = self.top(coarse)
        outputs = [self.outputs[-1](x)]
        for step, tap, output in zip(self.top_down, reversed(finer), list(self.outputs)[-2::-1], strict=True):
            x = step(x, tap)
            outputs.append(output(x))
        return outputs[::-1]


class AdditiveFPN(Neck):
    """The feature pyramid of Lin et al. (arXiv:1612.03144): laterals of one width, added to what comes from above.

    Args:
        features: the backbone's maps; the coarsest `levels` maps are used.
        channels: width of every level.
        spp_kernels: pyramid pooling on the coarsest lateral, and a 1x1 convolution after it.
        sam: attention on the input of each 3x3 convolution.
    """

    def __init__(
        self,
        *,
        features: Features,
        channels: int = 256,
        levels: int = 3,
        spp_kernels: list[int] | None = None,
        sam: Attention | None = None,
        activation: Activation = "leaky",
    ) -> None:
        super().__init__()
        if not 1 <= levels <= len(features.channels):
            raise ValueError(f"levels {levels}: the backbone gives {len(features.channels)} maps{MORE_LEVELS}")
        stack = Stack(None, 1, activation, sam)
        self.levels = levels
        self.laterals = nn.ModuleList(stack.conv(tap, channels) for tap in features.channels[-levels:])
        self.pooling = nn.Sequential(*stack.pooling(channels, spp_kernels or ()))
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.add = Shortcut(channels, channels)
        self.outputs = nn.ModuleList(
            nn.Sequential(stack.attention(channels), stack.conv(channels, channels, 3)) for _ in range(levels)
        )
        self.features = Features((channels,) * levels, features.strides[-levels:])

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The backbone's maps (B, Ci, Hi, Wi) -> the maps that `features` names, finest first."""
        maps = maps[-self.levels :]
        x = self.pooling(self.laterals[-1](maps[-1]))
        outputs = [self.outputs[-1](x)]
        for i in reversed(range(self.levels - 1)):
            up = self.upsample(x)
            x = self.add(self.laterals[i](maps[i]), up)
            outputs.append(self.outputs[i](x))
        return outputs[::-1]
