"""BiFPN: pyramids down and up again, fused by learned weights (Tan et al., EfficientDet, arXiv:1911.09070)."""

from __future__ import annotations

from torch import Tensor, nn

from models.layers import Activation, Attention, ConvNormAct, WeightedShortcut, halving_pool
from models.necks.stack import MORE_LEVELS, Stack
from models.parts import Neck
from utils.structures import Features


class BiFPN(Neck):
    """Laterals of one width, then `repeats` times down and up the pyramid with fast normalised fusion.

    Args:
        features: the backbone's maps; the coarsest `levels` maps are used.
        channels: width of every level.
        repeats: passes down and up.
        separable: a depthwise and a 1x1 convolution follow each fusion, as in EfficientDet; otherwise one 3x3.
        spp_kernels: pyramid pooling on the coarsest lateral, and a 1x1 convolution after it.
        out_channels: width of the 3x3 convolution that ends each level; null or [] for none, as in EfficientDet.
        sam: attention on the inputs of these convolutions.
    """

    def __init__(
        self,
        *,
        features: Features,
        channels: int,
        levels: int = 3,
        repeats: int = 3,
        separable: bool = True,
        spp_kernels: list[int] | None = None,
        out_channels: list[int] | None = None,
        sam: Attention | None = None,
        activation: Activation = "leaky",
    ) -> None:
        super().__init__()
        if not 2 <= levels <= len(features.channels) or repeats < 1:
            raise ValueError(
                f"levels {levels}, repeats {repeats}: expected 2 to {len(features.channels)} levels, 1 pass or more; "
                f"the backbone gives strides {list(features.strides)}{MORE_LEVELS}"
            )
        widths = out_channels or []
        if widths and len(widths) != levels:
            raise ValueError(f"out_channels {widths}: expected {levels} entries, one per level")
        stack = Stack(None, 1, activation, sam)
        self.levels = levels
        self.laterals = nn.ModuleList(stack.conv(tap, channels) for tap in features.channels[-levels:])
        self.pooling = nn.Sequential(*stack.pooling(channels, spp_kernels or ()))
        self.passes = nn.Sequential(*(_Pass(channels, levels, separable, activation) for _ in range(repeats)))
        self.outputs = nn.ModuleList(
            nn.Sequential(stack.attention(channels), *([stack.conv(channels, widths[i], 3)] if widths else []))
            for i in range(levels)
        )
        self.features = Features(tuple(widths or [channels] * levels), features.strides[-levels:])

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The backbone's maps (B, Ci, Hi, Wi) -> the maps that `features` names, finest first."""
        scales = [lateral(x) for lateral, x in zip(self.laterals, maps[-self.levels :], strict=True)]
        scales[-1] = self.pooling(scales[-1])
        return [output(x) for output, x in zip(self.outputs, self.passes(scales), strict=True)]


class _Pass(nn.Module):
    """Once down and up: the levels between the ends fuse three maps on the way up, all others two."""

    def __init__(self, channels: int, levels: int, separable: bool, activation: Activation) -> None:
        super().__init__()

        def fuse(sources: int) -> WeightedShortcut:
            return WeightedShortcut(channels, [channels] * sources, weights_type="per_feature", normalization="relu")

        def conv() -> nn.Module:
            if not separable:
                return ConvNormAct(channels, channels, 3, activation=activation)
            depthwise = ConvNormAct(channels, channels, 3, groups=channels, activation="linear")
            return nn.Sequential(depthwise, ConvNormAct(channels, channels, activation=activation))

        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.pool = halving_pool()
        self.down_fuse = nn.ModuleList(fuse(1) for _ in range(levels - 1))
        self.down_conv = nn.ModuleList(conv() for _ in range(levels - 1))
        self.up_fuse = nn.ModuleList(fuse(2 if i + 1 < levels else 1) for i in range(1, levels))
        self.up_conv = nn.ModuleList(conv() for _ in range(1, levels))

    def forward(self, scales: list[Tensor]) -> list[Tensor]:
        """One map (B, channels, Hi, Wi) a level, finest first -> the same shapes."""
        way_down = [scales[-1]]
        for fuse, conv, x in zip(self.down_fuse, self.down_conv, scales[-2::-1], strict=True):
            way_down.append(conv(fuse(x, self.upsample(way_down[-1]))))
        outputs = [way_down.pop()]
        for fuse, conv, x in zip(self.up_fuse, self.up_conv, scales[1:], strict=True):
            before, finer = way_down.pop(), self.pool(outputs[-1])
            outputs.append(conv(fuse(x, before, finer) if way_down else fuse(x, finer)))
        return outputs
