"""Darknet Reference and the backbones of YOLOv3-tiny(-PRN): convolutions and max pools.

See docs/networks.md, Plain baselines and PRN.
"""

from __future__ import annotations

import operator
from itertools import accumulate

from torch import Tensor, nn

from models.backbones.stages import count_of_levels
from models.csp import CrossStagePartial, CSPConfig, CSPStages, csp_by_stage
from models.layers import Activation, ConvNormAct, Shortcut, halving_pool, make_excitation, same_pool
from models.parts import Backbone, Block
from utils.structures import Features


class DarknetRef(Backbone):
    """3x3 convolutions with max pools between them; gives the last map of each of the coarsest strides.

    A map is taken before the pool that follows it.

    Args:
        channels: width of each convolution.
        pool_strides: of the 2x2 pool after each convolution but the last; a pool of stride 1 keeps the map's size.
        shortcut: adds to the last convolution's output the one before it, as yolov3-tiny-prn.cfg does; the pool between
            them has stride 1.
        csp: a cross-stage-partial stage around every convolution except the first, which reads the image; null is the
            plain network; a list has one entry a convolution, of which the first is null.
        se: squeeze-and-excitation after every convolution, the reduction of its width; null for none.
        levels: how many maps it gives, the coarsest; three when left out.
    Raises:
        ValueError: pools that do not fit the convolutions, or too few of them for three maps.
    """

    def __init__(
        self,
        *,
        channels: list[int],
        pool_strides: list[int],
        shortcut: bool = False,
        csp: CSPStages = None,
        se: int | None = None,
        levels: int | None = None,
        activation: Activation = "leaky",
    ) -> None:
        super().__init__()
        if len(pool_strides) != len(channels) - 1 or set(pool_strides) - {1, 2} or pool_strides.count(2) < 2:
            raise ValueError(
                f"pool_strides {pool_strides}: expected 1 or 2 after each convolution but the last, "
                f"{len(channels) - 1} numbers, and at least two of them 2"
            )
        if shortcut and pool_strides[-1] != 1:
            raise ValueError("shortcut: expected a last pool of stride 1, so that both maps have one size")
        partial = csp_by_stage(csp, len(channels))
        if isinstance(csp, list) and partial[0] is not None:
            raise ValueError("csp: the first convolution reads the image, expected null as the first entry")
        self.convs = nn.ModuleList()
        width, widths = 3, []
        for index, out_channels in enumerate(channels):
            stage = _stage(width, out_channels, csp=partial[index] if index else None, se=se, activation=activation)
            self.convs.append(stage)
            width = stage.out_channels
            widths.append(width)
        strides = list(accumulate(pool_strides, operator.mul, initial=1))
        self.pools = nn.ModuleList(halving_pool() if stride == 2 else same_pool() for stride in pool_strides)
        self.shortcut = Shortcut(widths[-1], widths[-2], activation=activation) if shortcut else None
        last_at = {stride: index for index, stride in enumerate(strides)}
        self.taps = tuple(last_at.values())[-count_of_levels(levels, list(last_at)) :]
        self.features = Features(tuple(widths[i] for i in self.taps), tuple(strides[i] for i in self.taps))

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the maps that `features` names, finest first."""
        x = self.convs[0](images)
        maps = [x]
        for pool, conv in zip(self.pools, self.convs[1:], strict=True):
            x = conv(pool(x))
            maps.append(x)
        if self.shortcut is not None:
            maps[-1] = self.shortcut(maps[-1], maps[-2])
        return [maps[index] for index in self.taps]


class ConvBlock(Block):
    """One 3x3 convolution as the block of a partial stage."""

    def __init__(self, in_channels: int, out_channels: int, *, se: int | None, activation: Activation) -> None:
        super().__init__(in_channels, out_channels)
        self.conv = ConvNormAct(in_channels, out_channels, 3, activation=activation)
        self.se = make_excitation(out_channels, se, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        return self.se(self.conv(x))


def _stage(
    in_channels: int, out_channels: int, *, csp: CSPConfig | None, se: int | None, activation: Activation
) -> ConvBlock | CrossStagePartial:
    """One convolution, or a partial stage in which it has the same ratio of widths."""
    if csp is None:
        return ConvBlock(in_channels, out_channels, se=se, activation=activation)

    def blocks(width: int) -> list[Block]:
        return [ConvBlock(width, max(out_channels * width // in_channels, 1), se=se, activation=activation)]

    return CrossStagePartial(in_channels, out_channels, blocks, csp=csp, activation=activation)
