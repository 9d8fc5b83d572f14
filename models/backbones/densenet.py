"""DenseNet-201 as darknet builds it, its Elastic and its CSP version (spec 1.6 and 2.4); dense stages for others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from models.csp import CrossStagePartial, CSPConfig
from models.layers import Activation, ConvNormAct, Shortcut, check_lengths, halving_pool, make_excitation
from utils.structures import Features


class DenseNet(nn.Module):
    """7x7 stem, max pool, dense stages with transitions and max pools between; gives the last three stages' maps.

    The tap of a stage is its map before the pool: plain, that of its transition; with csp, the concatenation, and
    transition 2 runs after the pool. The last stage has no pool, and a transition only with csp, where it makes the
    plain stage's width. With csp's fusion 'last', transition 1 narrows the map.

    Args:
        depths: dense layers per stage.
        growth: channels that each layer adds.
        hidden_channels: width of the layers' 1x1 convolutions.
        transition_channels: width between the stages, one number less than stages; half of what the plain stage holds
            when left out.
        csp: makes every stage cross-stage-partial; null is DenseNet.
        elastic: every layer works at two resolutions, each with half of `hidden_channels`, except in the last stage,
            where both have the map's own (Wang et al., arXiv:1812.05262); images must then be multiples of the coarsest
            stride.
        se: squeeze-and-excitation of each layer's new channels, the reduction of their width; null for none.
    """

    def __init__(
        self,
        *,
        depths: list[int],
        growth: int = 32,
        hidden_channels: int = 128,
        stem_channels: int = 64,
        transition_channels: list[int] | None = None,
        csp: CSPConfig | None = None,
        elastic: bool = False,
        se: int | None = None,
        activation: Activation = "leaky",
    ) -> None:
        super().__init__()
        if not depths or min(depths) < 1:
            raise ValueError(f"depths {depths}: every stage needs at least one dense layer")
        if transition_channels is not None:
            check_lengths(depths=depths[1:], transition_channels=transition_channels)
        stem = ConvNormAct(3, stem_channels, 7, stride=2, activation=activation)
        self.stem = nn.Sequential(stem, halving_pool())
        self.pool = halving_pool()
        self.stages = nn.ModuleList()
        width, taps = stem_channels, []
        for index, depth in enumerate(depths):
            last = index == len(depths) - 1
            plain_width = width + depth * growth
            narrowed = transition_channels[index] if transition_channels and not last else plain_width // 2
            if last:
                narrowed = plain_width if csp else None
            make = partial(ElasticDenseLayer, pool=not last) if elastic else DenseLayer
            make = partial(make, growth=growth, hidden_channels=hidden_channels, se=se, activation=activation)
            layers = partial(dense_layers, make=make, growth=growth, depth=depth)
            ratio = 1.0
            if csp is not None and csp.fusion == "last" and not last:  # transition 1 is then the one that narrows
                bypass = csp.bypass_of(width)
                ratio = max(narrowed - bypass, 1) / (plain_width - bypass)
            stage = dense_stage(width, narrowed, layers, csp=csp, transition1_ratio=ratio, activation=activation)
            self.stages.append(stage)
            taps.append(stage.out_channels if last else stage.fused_channels)
            width = stage.out_channels
        strides = [4 * 2**index for index in range(len(taps))]
        self.features = Features(tuple(taps[-3:]), tuple(strides[-3:]))
        self.stride = strides[-1] if elastic else 1

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the maps that `features` names, finest first."""
        x, maps = self.stem(images), []
        for stage in self.stages[:-1]:
            maps.append(stage.fuse(x))
            x = stage.transition2(self.pool(maps[-1]))
        maps.append(self.stages[-1](x))
        return maps[-3:]


class DenseLayer(nn.Module):
    """1x1 and 3x3 convolution; their `growth` channels go before those of the input, as in densenet201.cfg."""

    def __init__(
        self, in_channels: int, growth: int, hidden_channels: int, *, se: int | None, activation: Activation
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = in_channels + growth
        self.reduce = ConvNormAct(in_channels, hidden_channels, activation=activation)
        self.conv = ConvNormAct(hidden_channels, growth, 3, activation=activation)
        self.se = make_excitation(growth, se, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.se(self.conv(self.reduce(x))), x), dim=1)


class ElasticDenseLayer(nn.Module):
    """A dense layer whose new channels are the sum of two: seen at full and, with `pool`, at half resolution."""

    def __init__(
        self, in_channels: int, growth: int, hidden_channels: int, *, pool: bool, se: int | None, activation: Activation
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = in_channels + growth

        def convs() -> nn.Sequential:
            half = hidden_channels // 2
            reduce = ConvNormAct(in_channels, half, activation=activation)
            return nn.Sequential(reduce, ConvNormAct(half, growth, 3, activation=activation))

        self.fine = convs()
        self.pool = halving_pool() if pool else nn.Identity()
        self.coarse = convs()
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest") if pool else nn.Identity()
        self.add = Shortcut(growth, growth)
        self.se = make_excitation(growth, se, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(x)
        added = self.add(self.upsample(self.coarse(self.pool(x))), fine)
        return torch.cat((self.se(added), x), dim=1)


class DenseStage(nn.Module):
    """A plain dense stage: the layers and a transition, or none; with the interface of a partial one."""

    def __init__(self, layers: Sequence[nn.Module], out_channels: int | None, *, activation: Activation) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*layers)
        width = layers[-1].out_channels
        self.fused_channels = self.out_channels = width if out_channels is None else out_channels
        self.transition1: nn.Module = nn.Identity()
        if out_channels is not None:
            self.transition1 = ConvNormAct(width, out_channels, activation=activation)
        self.transition2 = nn.Identity()

    def fuse(self, x: Tensor) -> Tensor:
        return self.transition1(self.blocks(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.fuse(x)


def dense_layers(in_channels: int, *, make: Callable[[int], nn.Module], growth: int, depth: int) -> list[nn.Module]:
    """`depth` layers, each made for the width of all before it."""
    return [make(in_channels + i * growth) for i in range(depth)]


def dense_stage(
    in_channels: int,
    out_channels: int | None,
    layers: Callable[[int], Sequence[nn.Module]],
    *,
    csp: CSPConfig | None,
    transition1_ratio: float = 1.0,
    activation: Activation,
) -> DenseStage | CrossStagePartial:
    """A dense stage, plain or partial.

    Args:
        out_channels: after the transition; None is a plain stage without one.
        layers: makes the dense layers for an input of the given width.
        transition1_ratio: as in `CrossStagePartial`.
    """
    if csp is None:
        return DenseStage(layers(in_channels), out_channels, activation=activation)
    options = {"csp": csp, "transition1_ratio": transition1_ratio, "activation": activation}
    return CrossStagePartial(in_channels, out_channels, layers, **options)
