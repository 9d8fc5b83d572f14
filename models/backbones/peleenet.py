"""PeleeNet (Wang et al., arXiv:1804.06882), SparsePeleeNet and CSPPeleeNet (spec 2.1 and 2.2)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from models.backbones.densenet import dense_layers, dense_stage
from models.csp import CSPConfig
from models.layers import Activation, ConvNormAct, check_lengths, halving_pool, make_excitation
from utils.structures import Features


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
        x = self.first(images)
        return self.join(torch.cat((self.pool(x), self.branch(x)), dim=1))


class TwoWayDenseLayer(nn.Module):
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
        super().__init__()
        if growth % 2:
            raise ValueError(f"growth {growth}: expected an even growth, half of it for either way")
        self.in_channels = in_channels
        self.out_channels = in_channels + growth
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
        return torch.cat((x, self.near(x), self.far(x)), dim=1)


class SparseLayers(nn.Module):
    """Dense layers that each read only the maps 1, 2, 4, 8, ... steps before (Zhu et al., arXiv:1801.05895).

    The input is step 0, and the output holds the maps of all steps.
    """

    def __init__(
        self, in_channels: int, growth: int, depth: int, hidden_channels: int, *, se: int | None, activation: Activation
    ) -> None:
        super().__init__()
        widths = [in_channels] + [growth] * depth
        options = {"se": se, "activation": activation}
        self.layers = nn.ModuleList(
            TwoWayDenseLayer(sum(widths[i] for i in self.sources(step)), growth, hidden_channels, **options)
            for step in range(1, depth + 1)
        )
        self.in_channels = in_channels
        self.out_channels = sum(widths)

    @staticmethod
    def sources(step: int) -> list[int]:
        """The steps that this one reads, earliest first."""
        return sorted(step - 2**power for power in range(step.bit_length()))

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for step, layer in enumerate(self.layers, 1):
            sources = [maps[i] for i in self.sources(step)]
            maps.append(layer.new_maps(torch.cat(sources, dim=1) if len(sources) > 1 else sources[0]))
        return torch.cat(maps, dim=1)


class PeleeNet(nn.Module):
    """A stem and dense stages, each closed by a transition; gives the last three stages' maps.

    Every stage but the last ends in an average pool that halves the map; its tap is the map before that pool. With csp
    the tap is the concatenation and transition 2 runs after the pool, which is what makes CSPPeleeNet cheaper.

    Args:
        depths: dense layers per stage.
        hidden_channels: width of the dense layers' 1x1 convolutions, per stage.
        growth: channels that each dense layer adds; even.
        csp: makes every stage cross-stage-partial ({split: slice} is the fit to the published CSPPeleeNet); null is
            PeleeNet.
        sparse: layers read only the maps 1, 2, 4, 8, ... layers before them: SparsePeleeNet.
        se: squeeze-and-excitation of the dense layers' 1x1 convolutions, the reduction of their width; null for none.
    """

    def __init__(
        self,
        *,
        depths: list[int],
        hidden_channels: list[int],
        growth: int = 32,
        stem_channels: int = 32,
        csp: CSPConfig | None = None,
        sparse: bool = False,
        se: int | None = None,
        activation: Activation = "leaky",
    ) -> None:
        super().__init__()
        check_lengths(depths=depths, hidden_channels=hidden_channels)
        if min(depths) < 1:
            raise ValueError(f"depths {depths}: every stage needs at least one dense layer")
        self.stem = PeleeStem(stem_channels, activation=activation)
        self.stages = nn.ModuleList()
        self.pool = nn.AvgPool2d(2)
        options = {"se": se, "activation": activation}
        width, taps = stem_channels, []
        for depth, hidden in zip(depths, hidden_channels, strict=True):
            if sparse:
                layers = partial(_sparse, growth=growth, depth=depth, hidden_channels=hidden, **options)
            else:
                make = partial(TwoWayDenseLayer, growth=growth, hidden_channels=hidden, **options)
                layers = partial(dense_layers, make=make, growth=growth, depth=depth)
            last = len(self.stages) == len(depths) - 1
            stage = dense_stage(width, width + depth * growth, layers, csp=csp, activation=activation)
            self.stages.append(stage)
            taps.append(stage.out_channels if last else stage.fused_channels)
            width = stage.out_channels
        strides = [4 * 2**index for index in range(len(taps))]
        self.features = Features(tuple(taps[-3:]), tuple(strides[-3:]))

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the maps that `features` names, finest first."""
        x, maps = self.stem(images), []
        for stage in self.stages[:-1]:
            maps.append(stage.fuse(x))
            x = stage.transition2(self.pool(maps[-1]))
        maps.append(self.stages[-1](x))
        return maps[-3:]


def _sparse(in_channels: int, **options: Any) -> list[nn.Module]:
    return [SparseLayers(in_channels, **options)]
