"""DenseNet-201 as darknet builds it, its Elastic and its CSP version; dense stages for others.

See docs/networks.md, Plain baselines and DenseNet-201-Elastic and its CSP version.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from models.backbones.stages import StagedBackbone, check_lengths, last_features
from models.csp import CrossStagePartial, CSPConfig, CSPStages, csp_by_stage
from models.layers import Activation, ConvNormAct, Shortcut, halving_pool, make_excitation
from models.parts import Block


class DenseBackbone(StagedBackbone):
    """A stem, then dense stages with pools between; gives the last stages' maps.

    The tap of a stage is its map before the pool: plain, that of its transition; with csp, the concatenation, and
    transition 2 runs after the pool, which makes it cheaper. The last stage gives its output.

    Args:
        stem: images -> a map of `stem_channels` at stride 4.
        pool: halves a map.
        make_stage: (index, in_channels) -> what `dense_stage` gives.
        count: stages.
        levels: as in `last_features`.
    """

    def __init__(
        self,
        stem: nn.Module,
        stem_channels: int,
        pool: nn.Module,
        make_stage: Callable[[int, int], tuple[nn.Module, int]],
        *,
        count: int,
        levels: int | None,
    ) -> None:
        super().__init__(stem, stem_channels, make_stage, count=count, first_stride=4, levels=levels)
        self.pool = pool
        *inner, last = self._dense_stages()
        self.features = last_features([*(stage.fused_channels for stage in inner), last.out_channels], 4, levels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the maps that `features` names, finest first."""
        x, maps = self.stem(images), []
        *inner, last = self._dense_stages()
        for stage in inner:
            maps.append(stage.fuse(x))
            x = stage.transition2(self.pool(maps[-1]))
        return [*maps, last(x)][-len(self.features.strides) :]

    def _dense_stages(self) -> list[DenseStage | CrossStagePartial]:
        return cast("list[DenseStage | CrossStagePartial]", list(self.stages))


class DenseNet(DenseBackbone):
    """7x7 stem, max pool, dense stages with transitions and max pools between.

    The last stage has a transition only with csp, where it makes the plain stage's width. With csp's fusion 'last',
    transition 1 narrows the map.

    Args:
        depths: dense layers per stage.
        growth: channels that each layer adds.
        hidden_channels: width of the layers' 1x1 convolutions.
        transition_channels: width between the stages, one number less than stages; half of what the plain stage holds
            when left out.
        csp: makes every stage cross-stage-partial; null is DenseNet; a list has one entry a stage.
        elastic: every layer works at two resolutions, each with half of `hidden_channels`, except in the last stage,
            where both have the map's own (Wang et al., arXiv:1812.05262); images must then be multiples of the coarsest
            stride.
        se: squeeze-and-excitation of each layer's new channels, the reduction of their width; null for none.
        levels: how many maps it gives, the coarsest; three when left out.
    """

    def __init__(
        self,
        *,
        depths: list[int],
        growth: int = 32,
        hidden_channels: int = 128,
        stem_channels: int = 64,
        transition_channels: list[int] | None = None,
        csp: CSPStages = None,
        elastic: bool = False,
        se: int | None = None,
        levels: int | None = None,
        activation: Activation = "leaky",
    ) -> None:
        if not depths or min(depths) < 1:
            raise ValueError(f"depths {depths}: every stage needs at least one dense layer")
        if transition_channels is not None:
            check_lengths(depths=depths[1:], transition_channels=transition_channels)
        partial = csp_by_stage(csp, len(depths))

        def make_stage(index: int, in_channels: int) -> tuple[nn.Module, int]:
            last, own = index == len(depths) - 1, partial[index]

            def layer(width: int) -> Block:
                if not elastic:
                    return DenseLayer(width, growth, hidden_channels, se=se, activation=activation)
                return ElasticDenseLayer(width, growth, hidden_channels, pool=not last, se=se, activation=activation)

            plain_width = in_channels + depths[index] * growth
            narrowed: int | None = transition_channels[index] if transition_channels and not last else plain_width // 2
            ratio = 1.0
            if last:
                narrowed = plain_width if own else None
            elif own is not None and own.fusion == "last":  # transition 1 is then the one that narrows
                bypass = own.bypass_of(in_channels)
                ratio = max((narrowed or 0) - bypass, 1) / (plain_width - bypass)
            layers = dense_layers(layer, growth, depths[index])
            return dense_stage(in_channels, narrowed, layers, csp=own, transition1_ratio=ratio, activation=activation)

        first = ConvNormAct(3, stem_channels, 7, stride=2, activation=activation)
        stem = nn.Sequential(first, halving_pool())
        super().__init__(stem, stem_channels, halving_pool(), make_stage, count=len(depths), levels=levels)
        if elastic:
            self.stride = self.features.strides[-1]


class DenseLayer(Block):
    """1x1 and 3x3 convolution; their `growth` channels go before those of the input, as in densenet201.cfg."""

    def __init__(
        self, in_channels: int, growth: int, hidden_channels: int, *, se: int | None, activation: Activation
    ) -> None:
        super().__init__(in_channels, in_channels + growth)
        self.reduce = ConvNormAct(in_channels, hidden_channels, activation=activation)
        self.conv = ConvNormAct(hidden_channels, growth, 3, activation=activation)
        self.se = make_excitation(growth, se, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, in_channels + growth, H, W)."""
        return torch.cat((self.se(self.conv(self.reduce(x))), x), dim=1)


class ElasticDenseLayer(Block):
    """A dense layer whose new channels are the sum of two: seen at full and, with `pool`, at half resolution."""

    def __init__(
        self, in_channels: int, growth: int, hidden_channels: int, *, pool: bool, se: int | None, activation: Activation
    ) -> None:
        super().__init__(in_channels, in_channels + growth)

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
        """(B, in_channels, H, W) -> (B, in_channels + growth, H, W); with `pool` H and W are even."""
        fine = self.fine(x)
        added = self.add(self.upsample(self.coarse(self.pool(x))), fine)
        return torch.cat((self.se(added), x), dim=1)


class DenseStage(Block):
    """A plain dense stage: the layers and a transition, or none; with the interface of a partial one."""

    def __init__(
        self, in_channels: int, layers: list[Block], out_channels: int | None, *, activation: Activation
    ) -> None:
        width = layers[-1].out_channels
        super().__init__(in_channels, width if out_channels is None else out_channels)
        self.fused_channels = self.out_channels
        self.blocks = nn.Sequential(*layers)
        narrow = out_channels is not None
        self.transition1 = ConvNormAct(width, self.out_channels, activation=activation) if narrow else nn.Identity()
        self.transition2 = nn.Identity()

    def fuse(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, fused_channels, H, W)."""
        return self.transition1(self.blocks(x))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        return self.fuse(x)


def dense_layers(layer: Callable[[int], Block], growth: int, depth: int) -> Callable[[int], list[Block]]:
    """Makes the layers of a stage from the width of its input: `depth` layers, each for the width of all before it."""
    return lambda in_channels: [layer(in_channels + i * growth) for i in range(depth)]


def dense_stage(
    in_channels: int,
    out_channels: int | None,
    layers: Callable[[int], list[Block]],
    *,
    csp: CSPConfig | None,
    transition1_ratio: float = 1.0,
    activation: Activation,
) -> tuple[nn.Module, int]:
    """A dense stage, plain or partial, and its width.

    Args:
        out_channels: after the transition; None is a plain stage without one.
        layers: makes the dense layers for an input of the given width.
        transition1_ratio: as in `CrossStagePartial`.
    """
    stage: DenseStage | CrossStagePartial
    if csp is None or out_channels is None:
        stage = DenseStage(in_channels, layers(in_channels), out_channels, activation=activation)
    else:
        stage = CrossStagePartial(
            in_channels, out_channels, layers, csp=csp, transition1_ratio=transition1_ratio, activation=activation
        )
    return stage, stage.out_channels
