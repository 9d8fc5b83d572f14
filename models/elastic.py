"""Elastic: half of a block's channels at full resolution, half at half resolution (Wang et al., arXiv:1812.05262)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.layers import Activation, Shortcut, halving_pool, make_excitation
from models.parts import Block


class ElasticBlock(Block):
    """A residual block at two resolutions, as the "-elastic" darknet files build it.

    See docs/networks.md, Elastic variants.

        x -> first half of the channels  -> convs ---------------------> concatenation -> shortcut
        x -> second half -> max pool 2/2 -> convs -> upsampling by 2 ----^

    Both sides of the map must be even.

    Args:
        channels: width of input and output; even.
        convs: makes the convolutions of one half from the half's width.
        se: reduction of squeeze-and-excitation before the shortcut; null for none.
        activation: after the shortcut.
    Raises:
        ValueError: an odd width.
    """

    def __init__(
        self,
        channels: int,
        convs: Callable[[int], nn.Module],
        *,
        se: int | None = None,
        se_activation: Activation = "leaky",
        activation: Activation = "linear",
    ) -> None:
        if channels % 2:
            raise ValueError(f"an elastic block of {channels} channels: expected an even number, one half a resolution")
        super().__init__(channels, channels)
        self.fine = convs(channels // 2)
        self.pool = halving_pool()
        self.coarse = convs(channels // 2)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.se = make_excitation(channels, se, activation=se_activation)
        self.shortcut = Shortcut(channels, channels, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same shape; H and W even."""
        halves = x.chunk(2, dim=1)
        fine = self.fine(halves[0])
        coarse = self.upsample(self.coarse(self.pool(halves[1])))
        return self.shortcut(self.se(torch.cat((fine, coarse), dim=1)), x)
