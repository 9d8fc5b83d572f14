"""ResNet-50, ResNeXt-50 and their CSP versions as darknet builds them (spec 1.2, 1.3 and 1.6)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from models.csp import CrossStagePartial, CSPConfig
from models.layers import Activation, ConvNormAct, Shortcut, check_lengths, halving_pool
from utils.structures import Features


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 without activation; then the shortcut, partial where the widths differ, and the activation."""

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        groups: int = 1,
        activation: Activation = "leaky",
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.convs = nn.Sequential(
            ConvNormAct(in_channels, hidden_channels, activation=activation),
            ConvNormAct(hidden_channels, hidden_channels, 3, stride=stride, groups=groups, activation=activation),
            ConvNormAct(hidden_channels, out_channels, activation="linear"),
        )
        self.shortcut = Shortcut(out_channels, in_channels, stride=stride, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(self.convs(x), x)


class ResNet(nn.Module):
    """7x7 stem, max pool, stages of bottlenecks without projections; gives the last three stages' maps.

    The plain network strides inside the first block of stages 2, 3, ...; the CSP one by a 3x3 convolution before them.

    Args:
        depths: bottlenecks per stage.
        channels: width of each plain stage; with csp, of its two parts together.
        hidden_channels: width inside the bottlenecks of each stage.
        groups: of the 3x3 convolutions; 32 is ResNeXt.
        transition_channels: with csp, width after each stage's transition 2 and of the next strided convolution;
            `channels` when left out.
        linear_splits: with csp, stages (the first is 1) whose split convolutions have no activation; 2 and 3 in the
            darknet files.
        csp: makes every stage cross-stage-partial; null is the plain network.
    """

    def __init__(
        self,
        *,
        depths: list[int],
        channels: list[int],
        hidden_channels: list[int],
        groups: int = 1,
        stem_channels: int = 64,
        transition_channels: list[int] | None = None,
        linear_splits: list[int] | None = None,
        csp: CSPConfig | None = None,
        activation: Activation = "leaky",
    ) -> None:
        super().__init__()
        transitions = transition_channels or channels
        linear = [2, 3] if linear_splits is None else linear_splits
        check_lengths(
            depths=depths, channels=channels, hidden_channels=hidden_channels, transition_channels=transitions
        )
        if min(depths) < 1:
            raise ValueError(f"depths {depths}: every stage needs at least one block")
        self.stem = nn.Sequential(
            ConvNormAct(3, stem_channels, 7, stride=2, activation=activation),
            halving_pool(),
        )
        self.stages = nn.ModuleList()
        width, widths = stem_channels, []
        for index, depth in enumerate(depths):
            plan = _Stage(
                in_channels=width,
                channels=channels[index],
                hidden_channels=hidden_channels[index],
                depth=depth,
                stride=1 if index == 0 else 2,
                groups=groups,
                activation=activation,
            )
            if csp is None:
                stage, width = plan.plain()
            else:
                split_activation = "linear" if index + 1 in linear else activation
                stage, width = plan.partial(csp, transitions[index], split_activation)
            self.stages.append(stage)
            widths.append(width)
        strides = [4 * 2**index for index in range(len(widths))]
        self.features = Features(tuple(widths[-3:]), tuple(strides[-3:]))

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the maps that `features` names, finest first."""
        x, maps = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[-3:]


@dataclass(frozen=True)
class _Stage:
    """The numbers of one stage, and the stage in both forms, each with its width."""

    in_channels: int
    channels: int
    hidden_channels: int
    depth: int
    stride: int
    groups: int
    activation: Activation

    def bottlenecks(self, enter: int, width: int, *, stride: int = 1) -> list[Bottleneck]:
        """`depth` blocks from `enter` to `width` channels; the first one strides."""
        return [
            Bottleneck(
                enter if i == 0 else width,
                self.hidden_channels,
                width,
                stride=stride if i == 0 else 1,
                groups=self.groups,
                activation=self.activation,
            )
            for i in range(self.depth)
        ]

    def plain(self) -> tuple[nn.Sequential, int]:
        return nn.Sequential(*self.bottlenecks(self.in_channels, self.channels, stride=self.stride)), self.channels

    def partial(self, csp: CSPConfig, out_channels: int, split_activation: Activation) -> tuple[nn.Sequential, int]:
        def blocks(width: int) -> list[Bottleneck]:
            # Part 2 of the first stage keeps the stem's width, so its first shortcut reaches only those channels.
            keeps = self.stride == 1 and csp.split == "conv"
            return self.bottlenecks(self.in_channels if keeps else width, width)

        cross = CrossStagePartial(
            self.in_channels,
            out_channels,
            blocks,
            csp=csp,
            split_channels=self.channels,
            split_activation=split_activation,
            activation=self.activation,
        )
        if self.stride == 1:
            return nn.Sequential(cross), cross.out_channels
        down = ConvNormAct(
            self.in_channels, self.in_channels, 3, stride=self.stride, groups=self.groups, activation=self.activation
        )
        return nn.Sequential(down, cross), cross.out_channels
