"""Exact and global fusion models (Wang et al., CSPNet, arXiv:1911.11929, Fig. 6): several scales fused at once.

Scales are compressed by Maxout, and one 3x3 convolution joins them. Neither model was released: the layouts are
fits to their published BFLOPs (docs/networks.md, EFM and GFM as built).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from models.layers import SPP, Activation, Attention, ConvNormAct, Maxout, halving_pool, make_attention
from models.necks.stack import coarsest
from models.parts import Neck
from utils.structures import Features


class _MultiScale(Neck):
    """The coarsest scale reduced, then one fusion a level.

    Args:
        channels: width of each level's fusion, finest first.
        reduced: width of the coarsest scale after its reduction.
        widths: for each level, index of each scale it fuses -> the width that scale is compressed to.
    """

    def __init__(
        self,
        features: Features,
        channels: Sequence[int],
        *,
        reduced: int,
        widths: Sequence[Mapping[int, int]],
        spp_kernels: Sequence[int] | None,
        spp_channels: int,
        sam: Attention | None,
        activation: Activation,
    ) -> None:
        super().__init__()
        levels = len(channels)
        used = coarsest(features, levels, named=f"channels {list(channels)}")
        self.levels = levels
        width, pooling = used.channels[-1], list[nn.Module]()
        if spp_kernels:
            spp = SPP(spp_channels, spp_kernels)
            pooling = [ConvNormAct(width, spp_channels, activation=activation), spp]
            width = spp.out_channels
        reduce = ConvNormAct(width, reduced, activation=activation)
        self.reduce = nn.Sequential(*pooling, reduce, make_attention(reduced, sam))
        scales = [*used.channels[:-1], reduced]
        gates = [sam] * (levels - 1) + [None]  # the coarsest level has its attention in the reduction
        self.fusions = nn.ModuleList(
            _Fusion(scales, i, widths[i], channels[i], sam=gates[i], activation=activation) for i in range(levels)
        )
        self.features = Features(tuple(channels), used.strides)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The backbone's maps (B, Ci, Hi, Wi) -> the maps that `features` names, finest first."""
        *finer, coarse = maps[-self.levels :]
        scales = [*finer, self.reduce(coarse)]
        return [fusion(scales) for fusion in self.fusions]


class EFM(_MultiScale):
    """Every level from its own scale and its two neighbours: a 3x3 convolution over [same, finer, coarser].

    The coarsest scale is reduced by a 1x1 convolution; the others, and what goes to another level, by Maxout.

    Args:
        features: the backbone's maps; the coarsest `len(channels)` maps are used.
        channels: width of each level's 3x3 convolution, finest first.
        same: width of each level's own scale in its fusion.
        finer: width of the next finer scale in the fusion of every level but the finest; that scale's own in `same`
            when left out.
        coarser: width of the next coarser scale in the fusion of every level but the coarsest; the finest level's in
            `same` when left out.
        spp_kernels: windows of spatial pyramid pooling on the coarsest scale; null or [] for none.
        spp_channels: width that the pooled map has.
        sam: attention on the reduced coarsest scale, and on what the finer levels fuse.
    """

    def __init__(
        self,
        *,
        features: Features,
        channels: list[int],
        same: list[int],
        finer: list[int] | None = None,
        coarser: list[int] | None = None,
        spp_kernels: list[int] | None = None,
        spp_channels: int = 96,
        sam: Attention | None = None,
        activation: Activation = "leaky",
    ) -> None:
        levels = len(channels)
        finer = same[:-1] if finer is None else finer
        coarser = same[:1] * (levels - 1) if coarser is None else coarser
        for name, entries, expected in (
            ("same", same, levels),
            ("finer", finer, levels - 1),
            ("coarser", coarser, levels - 1),
        ):
            if len(entries) != expected:
                raise ValueError(f"{name} {entries}: expected {expected} entries for the levels of channels {channels}")
        widths: list[dict[int, int]] = []
        for i in range(levels):
            before = {i - 1: finer[i - 1]} if i else {}
            after = {i + 1: coarser[i]} if i + 1 < levels else {}
            widths.append({i: same[i], **before, **after})
        super().__init__(
            features,
            channels,
            reduced=same[-1] if same else 0,
            widths=widths,
            spp_kernels=spp_kernels,
            spp_channels=spp_channels,
            sam=sam,
            activation=activation,
        )


class GFM(_MultiScale):
    """Every level from all scales: a 3x3 convolution over [same, the others], each compressed by Maxout to one width.

    Args:
        features: the backbone's maps; the coarsest `len(channels)` maps are used.
        channels: width of each level's 3x3 convolution, finest first.
        compressed: width of every scale in every fusion.
        reduced: width of the coarsest scale after its 1x1 convolution.
        spp_kernels, spp_channels, sam: as in EFM.
    """

    def __init__(
        self,
        *,
        features: Features,
        channels: list[int],
        compressed: int = 48,
        reduced: int = 256,
        spp_kernels: list[int] | None = None,
        spp_channels: int = 96,
        sam: Attention | None = None,
        activation: Activation = "leaky",
    ) -> None:
        scales = range(len(channels))
        super().__init__(
            features,
            channels,
            reduced=reduced,
            widths=[dict.fromkeys((i, *(j for j in scales if j != i)), compressed) for i in scales],
            spp_kernels=spp_kernels,
            spp_channels=spp_channels,
            sam=sam,
            activation=activation,
        )


class _Fusion(nn.Module):
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
