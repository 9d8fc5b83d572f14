"""CrossStagePartial: makes any stage of any blocks cross-stage-partial (Wang et al., CSPNet, arXiv:1911.11929)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from models.layers import Activation, ConvNormAct
from models.parts import Block


@dataclass(frozen=True)
class CSPConfig:
    """How a stage is made cross-stage-partial; `csp: null` in a model file leaves the plain network.

    A backbone also takes a list of these, one entry a stage, with null for a plain stage (`csp_by_stage`).

    Args:
        ratio: the paper's gamma, the share of channels that bypasses the blocks; larger is cheaper.
        fusion: where the two parts meet, in the paper's words. 'both' is CSPNet itself: transition, concatenation,
            transition. 'last' has only the transition before the concatenation ("fusion last"), 'first' only the one
            after it ("fusion first").
        split: 'conv' makes each part by its own 1x1 convolution of the stage's input, as the darknet files do; 'slice'
            cuts the input by channel, as the paper draws it.
    """

    ratio: float = 0.5
    fusion: Literal["both", "last", "first"] = "both"
    split: Literal["conv", "slice"] = "conv"

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise ValueError(f"ratio: expected a share between 0 and 1 (exclusive), found {self.ratio}")

    def bypass_of(self, channels: int) -> int:
        """How many of `channels` bypass the blocks: at least one, and at most all but one."""
        return min(max(round(channels * self.ratio), 1), channels - 1)


CSPStages = CSPConfig | None | list[CSPConfig | None]
"""What the key `csp` of a backbone takes: one configuration for all stages, null for none of them, or a list."""


def csp_by_stage(csp: CSPStages, count: int) -> list[CSPConfig | None]:
    """The configuration of each of `count` stages; None is a plain stage.

    Raises:
        ValueError: a list with another number of entries.

    >>> csp_by_stage(CSPConfig(0.25), 2) == [CSPConfig(0.25), CSPConfig(0.25)]
    True
    """
    if not isinstance(csp, list):
        return [csp] * count
    if len(csp) != count:
        raise ValueError(
            f"csp: expected one entry for each of the {count} stages (null for a plain one), or one mapping for all, "
            f"found {len(csp)}"
        )
    return csp


class CrossStagePartial(Block):
    """One stage in two parts: part 1 bypasses the blocks, part 2 goes through them, and a fusion joins them.

        x -> part 1 ------------------------------> concatenation -> transition 2
        x -> part 2 -> blocks -> transition 1 ----^

    The convolutions run in the order of the darknet files: part 1, part 2, blocks, transition 1, transition 2; the
    concatenation is [blocks, bypass].

    Args:
        in_channels: width of the stage's input.
        out_channels: width after transition 2; without it (fusion 'last') the stage is as wide as the concatenation.
        blocks: makes the blocks for a part 2 of the given width.
        split_channels: width of both parts together; `in_channels` when left out, and always with split 'slice'.
        split_activation: of the two split convolutions; `activation` when left out.
        transition1_ratio: width of transition 1, as a share of what leaves the blocks.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        blocks: Callable[[int], list[Block]],
        *,
        csp: CSPConfig,
        split_channels: int | None = None,
        split_activation: Activation | None = None,
        transition1_ratio: float = 1.0,
        activation: Activation = "leaky",
    ) -> None:
        total = in_channels if csp.split == "slice" else split_channels or in_channels
        bypass = csp.bypass_of(total)
        stage = blocks(total - bypass)
        enter, leave = stage[0].in_channels, stage[-1].out_channels
        narrow = leave if csp.fusion == "first" else max(round(leave * transition1_ratio), 1)
        fused = narrow + bypass
        super().__init__(in_channels, fused if csp.fusion == "last" else out_channels)

        if csp.split == "slice":
            self.part1: nn.Module = _Slice(0, bypass)
            self.part2: nn.Module = _Slice(bypass, total)
        else:
            self.part1 = ConvNormAct(in_channels, bypass, activation=split_activation or activation)
            self.part2 = ConvNormAct(in_channels, enter, activation=split_activation or activation)
        self.blocks = nn.Sequential(*stage)
        self.transition1 = nn.Identity() if csp.fusion == "first" else ConvNormAct(leave, narrow, activation=activation)
        self.transition2 = (
            nn.Identity() if csp.fusion == "last" else ConvNormAct(fused, out_channels, activation=activation)
        )
        self.fused_channels = fused

    def fuse(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, fused_channels, H, W), the stage up to its concatenation."""
        bypass = self.part1(x)
        return torch.cat((self.transition1(self.blocks(self.part2(x))), bypass), dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        return self.transition2(self.fuse(x))


class _Slice(nn.Module):
    """Channels start to stop of a map."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.start, self.stop = start, stop

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, stop - start, H, W)."""
        return x[:, self.start : self.stop]
