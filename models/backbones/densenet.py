"""PeleeNet (Wang et al., arXiv:1804.06882) and CSPPeleeNet (spec 2.1 and 2.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.csp import CrossStagePartial, CSPConfig
from models.layers import Activation, ConvNormAct, check_lengths, halving_pool
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
    """Adds `growth` channels to its input: half of them seen by one 3x3 convolution, half by two in a row."""

    def __init__(
        self, in_channels: int, growth: int, hidden_channels: int, *, activation: Activation = "leaky"
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = in_channels + growth
        half = growth // 2

        def branch(convs: int) -> nn.Sequential:
            reduce = ConvNormAct(in_channels, hidden_channels, activation=activation)
            widths = [hidden_channels, *[half] * (convs - 1)]
            return nn.Sequential(reduce, *(ConvNormAct(width, half, 3, activation=activation) for width in widths))

        self.near = branch(1)
        self.far = branch(2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.near(x), self.far(x)), dim=1)


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
    """

    def __init__(
        self,
        *,
        depths: list[int],
        hidden_channels: list[int],
        growth: int = 32,
        stem_channels: int = 32,
        csp: CSPConfig | None = None,
        activation: Activation = "leaky",
    ) -> None:
        super().__init__()
        check_lengths(depths=depths, hidden_channels=hidden_channels)
        if min(depths) < 1 or growth % 2:
            raise ValueError(f"depths {depths}, growth {growth}: expected at least one layer a stage, an even growth")
        self.stem = PeleeStem(stem_channels, activation=activation)
        self.stages = nn.ModuleList()
        self.pool = nn.AvgPool2d(2)
        width, taps = stem_channels, []
        for depth, hidden in zip(depths, hidden_channels, strict=True):
            last = len(self.stages) == len(depths) - 1
            stage = _dense_stage(width, depth, growth, hidden, csp, activation)
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


class DenseStage(nn.Module):
    """A plain dense stage: the layers and a transition that keeps their width, with the interface of a partial one."""

    def __init__(self, layers: list[TwoWayDenseLayer], *, activation: Activation) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*layers)
        self.fused_channels = self.out_channels = layers[-1].out_channels
        self.transition1 = ConvNormAct(self.out_channels, self.out_channels, activation=activation)
        self.transition2 = nn.Identity()

    def fuse(self, x: Tensor) -> Tensor:
        return self.transition1(self.blocks(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.fuse(x)


def _dense_stage(
    in_channels: int, depth: int, growth: int, hidden: int, csp: CSPConfig | None, activation: Activation
) -> DenseStage | CrossStagePartial:
    def layers(width: int) -> list[TwoWayDenseLayer]:
        return [TwoWayDenseLayer(width + i * growth, growth, hidden, activation=activation) for i in range(depth)]

    if csp is None:
        return DenseStage(layers(in_channels), activation=activation)
    out_channels = in_channels + depth * growth
    return CrossStagePartial(in_channels, out_channels, layers, csp=csp, activation=activation)
