"""The backbone of YOLOv4-tiny: partial stages that keep the outputs of both convolutions."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from models.backbones.stages import last_features
from models.csp import CSPConfig, CSPStages, csp_by_stage
from models.layers import Activation, ConvNormAct, halving_pool, make_excitation
from models.parts import Backbone


class DarknetTiny(Backbone):
    """Two strided 3x3 convolutions, stages with max pools between them, and a last 3x3 convolution.

    Gives the map of the last convolution, and before it those of the last stages' blocks, before they join the map that
    bypasses them (256 channels for the finer level of yolov4-tiny).

    Args:
        channels: width of each stage; at least two.
        stem_channels: of the two strided convolutions; half the first stage's width and that width when left out.
        last_channels: of the last convolution; twice the last stage's width when left out.
        csp: as in `PartialTinyStage`; null is the plain network; a list has one entry a stage.
        se: squeeze-and-excitation after each block, the reduction of its width; null for none.
        levels: how many maps it gives, the coarsest; three when left out.
    Raises:
        ValueError: fewer than two stages, or not two stem widths.
    """

    def __init__(
        self,
        *,
        channels: list[int],
        stem_channels: list[int] | None = None,
        last_channels: int | None = None,
        csp: CSPStages = None,
        se: int | None = None,
        levels: int | None = None,
        activation: Activation = "leaky",
    ) -> None:
        super().__init__()
        if len(channels) < 2:
            raise ValueError(f"channels {channels}: expected at least two stages")
        stem = stem_channels or [channels[0] // 2, channels[0]]
        if len(stem) != 2:
            raise ValueError(f"stem_channels {stem}: expected the widths of two convolutions")
        self.stem = nn.Sequential(
            *(ConvNormAct(a, b, 3, stride=2, activation=activation) for a, b in pairwise([3, *stem]))
        )
        self.stages = nn.ModuleList()
        width, taps = stem[-1], []
        for stage_channels, own in zip(channels, csp_by_stage(csp, len(channels)), strict=True):
            if own is None:
                stage: TinyStage | PartialTinyStage = TinyStage(width, stage_channels, se=se, activation=activation)
            else:
                stage = PartialTinyStage(width, stage_channels, csp=own, se=se, activation=activation)
            self.stages.append(stage)
            taps.append(stage.block_channels)
            width = stage.out_channels
        self.pool = halving_pool()
        last = last_channels or 2 * channels[-1]
        self.last = ConvNormAct(width, last, 3, activation=activation)
        self.features = last_features([*taps, last], 4, levels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the maps that `features` names, finest first."""
        x, maps = self.stem(images), []
        for stage in self.stages:
            block, joined = stage(x)
            maps.append(block)
            x = self.pool(joined)
        return [*maps, self.last(x)][-len(self.features.strides) :]


class TinyStage(nn.Module):
    """Three 3x3 convolutions, the last two of them joined by a 1x1 convolution to twice `channels`."""

    def __init__(self, in_channels: int, channels: int, *, se: int | None, activation: Activation) -> None:
        super().__init__()
        self.conv = ConvNormAct(in_channels, channels, 3, activation=activation)
        self.first = ConvNormAct(channels, channels, 3, activation=activation)
        self.second = ConvNormAct(channels, channels, 3, activation=activation)
        self.transition = ConvNormAct(2 * channels, 2 * channels, activation=activation)
        self.se = make_excitation(2 * channels, se, activation=activation)
        self.block_channels = self.out_channels = 2 * channels

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, in_channels, H, W) -> twice (B, out_channels, H, W): the block's map is the stage's output too."""
        first = self.first(self.conv(x))
        block = self.se(self.transition(torch.cat((self.second(first), first), dim=1)))
        return block, block


class PartialTinyStage(nn.Module):
    """A 3x3 convolution, whose whole map bypasses a block of two more convolutions on some of its channels.

        x -> conv -+-------------------------------------------------------> concatenation -> (transition 2)
                   +-> its last channels -> first -> second -> transition 1 ----^
                                                 `--------------^

    Args:
        channels: width of the first convolution and of transition 1.
        csp: `ratio` is the share of channels that the block does not see. yolov4-tiny.cfg has fusion 'last' (transition
            1 alone) and split 'slice' (the block sees the last channels); with 'conv' it sees a 1x1 convolution of all.
            Transition 2 makes twice `channels`.
    """

    def __init__(
        self, in_channels: int, channels: int, *, csp: CSPConfig, se: int | None, activation: Activation
    ) -> None:
        super().__init__()
        bypass = csp.bypass_of(channels)
        inside = channels - bypass
        self.start = bypass if csp.split == "slice" else 0
        self.conv = ConvNormAct(in_channels, channels, 3, activation=activation)
        self.part = ConvNormAct(channels, inside, activation=activation) if csp.split == "conv" else nn.Identity()
        self.first = ConvNormAct(inside, inside, 3, activation=activation)
        self.second = ConvNormAct(inside, inside, 3, activation=activation)
        first = csp.fusion == "first"
        self.block_channels = 2 * inside if first else channels
        self.transition1 = nn.Identity() if first else ConvNormAct(2 * inside, channels, activation=activation)
        self.se = make_excitation(self.block_channels, se, activation=activation)
        self.out_channels = channels + self.block_channels
        self.transition2: nn.Module = nn.Identity()
        if csp.fusion != "last":
            self.transition2 = ConvNormAct(self.out_channels, 2 * channels, activation=activation)
            self.out_channels = 2 * channels

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, in_channels, H, W) -> block (B, block_channels, H, W) and output (B, out_channels, H, W)."""
        whole = self.conv(x)
        first = self.first(self.part(whole[:, self.start :] if self.start else whole))
        block = self.se(self.transition1(torch.cat((self.second(first), first), dim=1)))
        return block, self.transition2(torch.cat((whole, block), dim=1))
