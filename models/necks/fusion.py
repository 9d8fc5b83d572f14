"""What the necks that fuse several scales at once are made of: compression by Maxout, and one 3x3 convolution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from models.layers import SPP, Activation, Attention, ConvNormAct, Maxout, halving_pool, make_attention


class Reduction(nn.Sequential):
    """The coarsest scale in few channels: a 1x1 convolution, or pyramid pooling between two of them; then attention.

    Args:
        spp_channels: width that is pooled.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        spp_kernels: Sequence[int],
        spp_channels: int,
        sam: Attention | None,
        activation: Activation,
    ) -> None:
        layers: list[nn.Module] = []
        if spp_kernels:
            spp = SPP(spp_channels, spp_kernels)
            layers = [ConvNormAct(in_channels, spp_channels, activation=activation), spp]
            in_channels = spp.out_channels
        layers.append(ConvNormAct(in_channels, out_channels, activation=activation))
        super().__init__(*layers, make_attention(out_channels, sam))


class Fusion(nn.Module):
    """Scales side by side, each compressed by Maxout and then brought to one size; a 3x3 convolution joins them.

    Args:
        channels: of every scale, finest first.
        target: index of the scale whose size the fusion has.
        widths: index of each scale that is fused -> width it is compressed to; in the order of the concatenation.
    """

    def __init__(
        self,
        channels: Sequence[int],
        target: int,
        widths: Mapping[int, int],
        out_channels: int,
        *,
        sam: Attention | None,
        activation: Activation,
    ) -> None:
        super().__init__()
        self.sources = tuple(widths)
        self.compress = nn.ModuleList(
            nn.Sequential(*_compress(channels[source], width), *_resize(target - source))
            for source, width in widths.items()
        )
        fused = sum(widths.values())
        self.attention = make_attention(fused, sam)
        self.conv = ConvNormAct(fused, out_channels, 3, activation=activation)

    def forward(self, scales: list[Tensor]) -> Tensor:
        """All scales -> (B, out_channels, H, W) at the size of `target`."""
        maps = [compress(scales[source]) for source, compress in zip(self.sources, self.compress, strict=True)]
        return self.conv(self.attention(torch.cat(maps, dim=1)))


def _compress(channels: int, width: int) -> list[nn.Module]:
    return [] if width == channels else [Maxout(channels, width)]


def _resize(levels: int) -> list[nn.Module]:
    """To a map so many levels coarser, by max pools; below 0 finer, by repetition."""
    if levels < 0:
        return [nn.Upsample(scale_factor=2**-levels, mode="nearest")]
    return [halving_pool() for _ in range(levels)]
