"""PeleeNet (Wang et al., arXiv:1804.06882), SparsePeleeNet and CSPPeleeNet (docs/networks.md, CSPPeleeNet)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from models.backbones.densenet import DenseBackbone, dense_layers, dense_stage
from models.backbones.stages import check_lengths
from models.csp import CSPStages, csp_by_stage
from models.layers import Activation, ConvNormAct, halving_pool, make_excitation
from models.parts import Block


class PeleeStem(nn.Module):
    """Two strided views of the image joined at stride 4: a max pool, and a bottleneck with a 3x3 convolution."""

    def __init__(self, channels: int, *, activation: Activation = "leaky") -> None:
        super().__init__()
        self.first = ConvNormAct(3, channels, 3, stride=2, activation=activation)
        self.branch = nn.Sequential(
            ConvNormAct(channels, channels // 2, activation=activation),
            ConvNormAct(channels // 2, channels, 3, stride=2, activation=activation),
        )
        self.pool = halving_pool()
        self.join = ConvNormAct(2 * channels, channels, activation=activation)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, channels, H / 4, W / 4)."""
        x = self.first(images)
        return self.join(torch.cat((self.pool(x), self.branch(x)), dim=1))


class TwoWayDenseLayer(Block):
    """Adds `growth` channels to its input: half of them seen by one 3x3 convolution, half by two in a row.

    Args:
        growth: even.
        hidden_channels: width of the 1x1 convolution at the start of either way; None for none.
        se: squeeze-and-excitation after the first convolution of either way, the reduction of its width.
    """

    def __init__(
        self,
        in_channels: int,
        growth: int,
        hidden_channels: int | None,
        *,
        se: int | None = None,
        activation: Activation = "leaky",
    ) -> None:
        if growth % 2:
            raise ValueError(f"growth {growth}: expected an even growth, half of it for either way")
        super().__init__(in_channels, in_channels + growth)
        half = growth // 2

        def way(convs: int) -> nn.Sequential:
            widths = [in_channels, *([hidden_channels] if hidden_channels else []), *[half] * convs]
            kernels = [*([1] if hidden_channels else []), *[3] * convs]
            layers: list[nn.Module] = [
                ConvNormAct(widths[i], widths[i + 1], kernel, activation=activation) for i, kernel in enumerate(kernels)
            ]
            if se is not None:
                layers.insert(1, make_excitation(widths[1], se, activation=activation))
            return nn.Sequential(*layers)

        self.near = way(1)
        self.far = way(2)

    def new_maps(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, growth, H, W)."""
        return torch.cat((self.near(x), self.far(x)), dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, in_channels + growth, H, W)."""
        return torch.cat((x, self.near(x), self.far(x)), dim=1)


class SparseLayers(Block):
    """Dense layers that each read only the maps 1, 2, 4, 8, ... steps before (Zhu et al., arXiv:1801.05895).

    The input is step 0, and the output holds the maps of all steps.
    """

    def __init__(
        self, in_channels: int, growth: int, depth: int, hidden_channels: int, *, se: int | None, activation: Activation
    ) -> None:
        widths = [in_channels] + [growth] * depth
        super().__init__(in_channels, sum(widths))
        inputs = [sum(widths[i] for i in self.sources(step)) for step in range(1, depth + 1)]
        self.layers = nn.ModuleList(
            TwoWayDenseLayer(width, growth, hidden_channels, se=se, activation=activation) for width in inputs
        )

    @staticmethod
    def sources(step: int) -> list[int]:
        """The steps that this one reads, earliest first."""
        return sorted(step - 2**power for power in range(step.bit_length()))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, in_channels + depth * growth, H, W)."""
        maps = [x]
        for step, layer in enumerate(cast("list[TwoWayDenseLayer]", self.layers), 1):
            sources = [maps[i] for i in self.sources(step)]
            maps.append(layer.new_maps(torch.cat(sources, dim=1) if len(sources) > 1 else sources[0]))
        return torch.cat(maps, dim=1)


class PeleeNet(DenseBackbone):
    """A stem and dense stages, each closed by a transition, with average pools between; see DenseBackbone for the taps.

    Args:
        depths: dense layers per stage.
        hidden_channels: width of the dense layers' 1x1 convolutions, per stage.
        growth: channels that each dense layer adds; even.
        csp: makes every stage cross-stage-partial ({split: slice} is the fit to the published CSPPeleeNet); null is
            PeleeNet; a list has one entry a stage.
        sparse: layers read only the maps 1, 2, 4, 8, ... layers before them: SparsePeleeNet.
        se: squeeze-and-excitation of the dense layers' 1x1 convolutions, the reduction of their width; null for none.
        levels: how many maps it gives, the coarsest; three when left out.
    """

    def __init__(
        self,
        *,
        depths: list[int],
        hidden_channels: list[int],
        growth: int = 32,
        stem_channels: int = 32,
        csp: CSPStages = None,
        sparse: bool = False,
        se: int | None = None,
        levels: int | None = None,
        activation: Activation = "leaky",
    ) -> None:
        check_lengths(depths=depths, hidden_channels=hidden_channels)
        if min(depths) < 1:
            raise ValueError(f"depths {depths}: every stage needs at least one dense layer")

        partial = csp_by_stage(csp, len(depths))

        def make_stage(index: int, in_channels: int) -> tuple[nn.Module, int]:
            depth, hidden = depths[index], hidden_channels[index]

            def layer(width: int) -> Block:
                if sparse:
                    return SparseLayers(width, growth, depth, hidden, se=se, activation=activation)
                return TwoWayDenseLayer(width, growth, hidden, se=se, activation=activation)

            layers = dense_layers(layer, growth, 1 if sparse else depth)
            return dense_stage(
                in_channels, in_channels + depth * growth, layers, csp=partial[index], activation=activation
            )

        stem = PeleeStem(stem_channels, activation=activation)
        super().__init__(stem, stem_channels, nn.AvgPool2d(2), make_stage, count=len(depths), levels=levels)
