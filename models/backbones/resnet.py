"""ResNet-10, ResNet-50, ResNeXt-50, their CSP and Elastic versions as darknet builds them.

See docs/networks.md, CSPResNet-50, CSPResNeXt-50, Plain baselines and Elastic variants.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from models.backbones.stages import StagedBackbone, check_lengths
from models.csp import CrossStagePartial, CSPStages, csp_by_stage
from models.elastic import ElasticBlock
from models.layers import Activation, ConvNormAct, Shortcut, halving_pool, make_excitation
from models.parts import Block


@dataclass(frozen=True)
class BlockKind:
    """The properties that all blocks of a network share.

    Args:
        block: 'bottleneck' is 1x1, 3x3, 1x1; 'basic' is 3x3, 3x3. The last convolution has no activation.
        groups: of the bottleneck's 3x3 convolution.
        elastic, se: as in `ResNet`.
    """

    block: Literal["bottleneck", "basic"]
    groups: int
    elastic: bool
    se: int | None
    activation: Activation

    def convs(self, in_channels: int, hidden: int, out_channels: int, *, stride: int, groups: int) -> nn.Sequential:
        """The convolutions of one block, (B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride)."""
        if self.block == "basic":
            return nn.Sequential(
                ConvNormAct(in_channels, hidden, 3, stride=stride, groups=groups, activation=self.activation),
                ConvNormAct(hidden, out_channels, 3, groups=groups, activation="linear"),
            )
        return nn.Sequential(
            ConvNormAct(in_channels, hidden, activation=self.activation),
            ConvNormAct(hidden, hidden, 3, stride=stride, groups=groups, activation=self.activation),
            ConvNormAct(hidden, out_channels, activation="linear"),
        )

    def make(self, in_channels: int, hidden: int, out_channels: int, *, stride: int = 1) -> Block:
        """One block; elastic where it keeps width and resolution."""
        if not self.elastic or stride > 1 or in_channels != out_channels:
            return Residual(self, in_channels, hidden, out_channels, stride=stride)

        def convs(width: int) -> nn.Sequential:
            return self.convs(width, hidden // 2, width, stride=1, groups=max(self.groups // 2, 1))

        activation = self.activation
        return ElasticBlock(out_channels, convs, se=self.se, se_activation=activation, activation=activation)

    def blocks(self, enter: int, hidden: int, width: int, depth: int, *, stride: int = 1) -> list[Block]:
        """`depth` blocks from `enter` to `width` channels; the first one strides."""
        first = self.make(enter, hidden, width, stride=stride)
        return [first, *(self.make(width, hidden, width) for _ in range(depth - 1))]


class Residual(Block):
    """Convolutions, the last without activation; then the shortcut, partial where the widths differ, and activation."""

    def __init__(self, kind: BlockKind, in_channels: int, hidden: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels)
        self.convs = kind.convs(in_channels, hidden, out_channels, stride=stride, groups=kind.groups)
        self.se = make_excitation(out_channels, kind.se, activation=kind.activation)
        self.shortcut = Shortcut(out_channels, in_channels, stride=stride, activation=kind.activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride)."""
        return self.shortcut(self.se(self.convs(x)), x)


class ResNet(StagedBackbone):
    """7x7 stem, max pool, stages of residual blocks without projections; gives the last stages' maps.

    The plain network strides inside the first block of stages 2, 3, ...; the CSP one by a 3x3 convolution before them.

    Args:
        depths: blocks per stage.
        channels: width of each plain stage; with csp, of its two parts together.
        hidden_channels: width inside the blocks of each stage.
        block: 'bottleneck' (ResNet-50) or 'basic' (ResNet-10).
        groups: of the 3x3 convolutions; 32 is ResNeXt.
        transition_channels: with csp, width after each stage's transition 2 and of the next strided convolution;
            `channels` when left out.
        linear_splits: with csp, stages (the first is 1) whose split convolutions have no activation; 2 and 3 in the
            darknet files.
        csp: makes every stage cross-stage-partial; null is the plain network; a list has one entry a stage.
        elastic: blocks that keep width and resolution work at two resolutions, each with half of the channels, hidden
            channels and groups; images must then be multiples of twice the coarsest stride.
        se: squeeze-and-excitation in every block, the reduction of its width; null for none.
        levels: how many maps it gives, the coarsest; three when left out.
    """

    def __init__(
        self,
        *,
        depths: list[int],
        channels: list[int],
        hidden_channels: list[int],
        block: Literal["bottleneck", "basic"] = "bottleneck",
        groups: int = 1,
        stem_channels: int = 64,
        transition_channels: list[int] | None = None,
        linear_splits: list[int] | None = None,
        csp: CSPStages = None,
        elastic: bool = False,
        se: int | None = None,
        levels: int | None = None,
        activation: Activation = "leaky",
    ) -> None:
        transitions = transition_channels or channels
        linear = [2, 3] if linear_splits is None else linear_splits
        check_lengths(
            depths=depths, channels=channels, hidden_channels=hidden_channels, transition_channels=transitions
        )
        if min(depths) < 1:
            raise ValueError(f"depths {depths}: every stage needs at least one block")
        partial = csp_by_stage(csp, len(depths))
        kind = BlockKind(block, groups, elastic, se, activation)

        def make_stage(index: int, in_channels: int) -> tuple[nn.Module, int]:
            width, hidden, depth = channels[index], hidden_channels[index], depths[index]
            own = partial[index]
            if own is None:
                stride = 2 if index else 1
                return nn.Sequential(*kind.blocks(in_channels, hidden, width, depth, stride=stride)), width
            # Part 2 of the first stage keeps the stem's width, so its first shortcut reaches only those channels. The
            # elastic networks have no such stage: their blocks keep the width.
            keeps = index == 0 and own.split == "conv" and not elastic

            def blocks(inside: int) -> list[Block]:
                return kind.blocks(in_channels if keeps else inside, hidden, inside, depth)

            cross = CrossStagePartial(
                in_channels,
                transitions[index],
                blocks,
                csp=own,
                split_channels=width,
                split_activation="linear" if index + 1 in linear else activation,
                activation=activation,
            )
            if index == 0:
                return nn.Sequential(cross), cross.out_channels
            down = ConvNormAct(in_channels, in_channels, 3, stride=2, groups=groups, activation=activation)
            return nn.Sequential(down, cross), cross.out_channels

        stem = nn.Sequential(ConvNormAct(3, stem_channels, 7, stride=2, activation=activation), halving_pool())
        super().__init__(stem, stem_channels, make_stage, count=len(depths), first_stride=4, levels=levels)
        if elastic:
            self.stride = 2 * self.features.strides[-1]
