"""Context enhancement module with spatial attention (Qin et al., ThunderNet, arXiv:1903.11752), as a YOLO neck.

The CSPNet authors' own port was never released. Fusing one map at the second coarsest scale, which both levels read, is
our fit to its published BFLOPs (docs/networks.md, CEM(SAM)).
"""

from __future__ import annotations

from torch import Tensor, nn

from models.layers import SPP, Activation, Attention, ConvNormAct, halving_pool, make_attention
from models.necks.stack import coarsest
from models.parts import Neck
from utils.structures import Features


class CEM(Neck):
    """The two coarsest scales and a context, each after a 1x1 convolution, summed; then attention and the two levels.

    Args:
        features: the backbone's maps; the coarsest two maps are used.
        channels: width of the 3x3 convolution of each of the two levels, finer first; the coarser one reads the fused
            map through a max pool.
        fused: width of the fused map, 245 in ThunderNet.
        spp_kernels: the context is a spatial pyramid pooling of the coarsest map, as in the authors' port; null or []
            for ThunderNet's context, the mean of that map over all positions.
        sam: attention on the fused map.
    """

    def __init__(
        self,
        *,
        features: Features,
        channels: list[int],
        fused: int = 245,
        spp_kernels: list[int] | None = None,
        sam: Attention | None = "pointwise",
        activation: Activation = "leaky",
    ) -> None:
        super().__init__()
        if len(channels) != 2:
            raise ValueError(f"channels {channels}: expected 2 entries, one per level")
        used = coarsest(features, 2, named=f"channels {channels}")
        fine, coarse = used.channels
        self.fine = ConvNormAct(fine, fused, activation=activation)
        self.coarse = ConvNormAct(coarse, fused, activation=activation)
        if spp_kernels:
            spp = SPP(fused, spp_kernels)
            self.context = nn.Sequential(spp, ConvNormAct(spp.out_channels, fused, activation=activation))
        else:  # without batch normalisation: in training, one image would give one value per channel
            self.context = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(coarse, fused, 1))
        self.pooled_context = bool(spp_kernels)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.attention = make_attention(fused, sam)
        self.pool = halving_pool()
        self.outputs = nn.ModuleList(ConvNormAct(fused, width, 3, activation=activation) for width in channels)
        self.features = Features(tuple(channels), used.strides)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The backbone's maps (B, Ci, Hi, Wi) -> the two maps that `features` names, finer first."""
        fine, coarse = maps[-2:]
        reduced = self.coarse(coarse)
        context = self.context(reduced if self.pooled_context else coarse)
        x = self.attention(self.fine(fine) + self.upsample(reduced + context))
        return [self.outputs[0](x), self.outputs[1](self.pool(x))]
