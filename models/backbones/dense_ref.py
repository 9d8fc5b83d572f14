"""The "Ref." family: dense partial stages on the stem of Darknet Reference (docs/networks.md, Ref. family)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from models.backbones.densenet import dense_layers, dense_stage
from models.backbones.peleenet import TwoWayDenseLayer
from models.backbones.stages import StagedBackbone, check_lengths
from models.csp import CSPStages, csp_by_stage
from models.layers import Activation, ConvNormAct, halving_pool, make_excitation
from models.parts import Block


class OneWayDenseLayer(Block):
    """Adds `growth` channels to its input by one 3x3 convolution, after a 1x1 convolution where there is one.

    Args:
        hidden_channels: width of the 1x1 convolution; None for none.
        se: squeeze-and-excitation after the first convolution, the reduction of its width.
    """

    def __init__(
        self, in_channels: int, growth: int, hidden_channels: int | None, *, se: int | None, activation: Activation
    ) -> None:
        super().__init__(in_channels, in_channels + growth)
        width = hidden_channels or growth
        first = ConvNormAct(in_channels, width, 1 if hidden_channels else 3, activation=activation)
        layers: list[nn.Module] = [first, make_excitation(width, se, activation=activation)]
        if hidden_channels:
            layers.append(ConvNormAct(width, growth, 3, activation=activation))
        self.convs = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, in_channels + growth, H, W)."""
        return torch.cat((x, self.convs(x)), dim=1)


class DenseRef(StagedBackbone):
    """3x3 convolutions with max pools, then dense stages with max pools between; gives the last stages' maps.

    Args:
        depths: dense layers per stage.
        growth: channels that each of a stage's layers adds.
        channels: width of each stage after its last transition.
        two_way: PeleeNet's dense layers ("CSPPeleeNet Ref.") in place of DenseNet's ("CSPDenseNet Ref.").
        bottleneck: width of the layers' 1x1 convolutions as a share of the growth (the "b" models); null for layers
            without one.
        transition_ratio: with csp, width of transition 1 as a share of what leaves the layers.
        stem_channels: width of the convolutions before the stages; each is followed by a max pool.
        csp: makes every stage cross-stage-partial; null is the plain dense network; a list has one entry a stage.
        se: squeeze-and-excitation after each layer's first convolution, the reduction of its width; null for none.
        levels: how many maps it gives, the coarsest; three when left out.
    """

    def __init__(
        self,
        *,
        depths: list[int],
        growth: list[int],
        channels: list[int],
        two_way: bool = False,
        bottleneck: float | None = None,
        transition_ratio: float = 1.0,
        stem_channels: list[int] | None = None,
        csp: CSPStages = None,
        se: int | None = None,
        levels: int | None = None,
        activation: Activation = "leaky",
    ) -> None:
        check_lengths(depths=depths, growth=growth, channels=channels)
        if min(depths) < 1:
            raise ValueError(f"depths {depths}: every stage needs at least one dense layer")
        if transition_ratio <= 0 or (bottleneck is not None and bottleneck <= 0):
            raise ValueError(
                f"transition_ratio {transition_ratio}, bottleneck {bottleneck}: expected shares of a width, above 0"
            )
        partial = csp_by_stage(csp, len(depths))
        kind = TwoWayDenseLayer if two_way else OneWayDenseLayer

        def make_stage(index: int, in_channels: int) -> tuple[nn.Module, int]:
            grow = growth[index]
            hidden = None if bottleneck is None else max(int(bottleneck * grow), 1)

            def layer(width: int) -> Block:
                return kind(width, grow, hidden, se=se, activation=activation)

            layers, width = dense_layers(layer, grow, depths[index]), channels[index]
            own = partial[index]
            return dense_stage(
                in_channels, width, layers, csp=own, transition1_ratio=transition_ratio, activation=activation
            )

        widths = [3, *([16, 32, 64] if stem_channels is None else stem_channels)]
        stem: list[nn.Module] = []
        for before, after in pairwise(widths):
            stem += [ConvNormAct(before, after, 3, activation=activation), halving_pool()]
        finest = 2 ** (len(widths) - 1)
        super().__init__(
            nn.Sequential(*stem), widths[-1], make_stage, count=len(depths), first_stride=finest, levels=levels
        )
        self.pool = halving_pool()

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the maps that `features` names, finest first."""
        x, maps = self.stem(images), []
        for index, stage in enumerate(self.stages):
            x = stage(self.pool(x) if index else x)
            maps.append(x)
        return maps[-len(self.features.strides) :]
