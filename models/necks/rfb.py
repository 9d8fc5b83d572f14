"""Receptive field block (Liu et al., arXiv:1711.07767), in the form that the authors' RFB and RFBN rows come from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.layers import ConvNormAct


class RFB(nn.Module):
    """Four branches that see 1, 3, 7 and 11 cells, side by side, added to the map itself.

    The form is that of ASFF (Liu et al., arXiv:1911.09516) and of darknet's example (AlexeyAB/darknet issue 4507): a
    quarter of the width each, no activations, and a plain addition. ASFF's code has no batch normalisation, darknet's
    example has: we read the authors' RFB and RFBN as these two.

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
