"""Inverted residuals: the blocks of MobileNet-v2, alone and in partial stages (docs/networks.md, CSPMobileNet-v2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from models.csp import CSPConfig
from models.layers import Activation, ConvNormAct, Shortcut, SqueezeExcitation


@dataclass(frozen=True)
class Row:
    """One line of the paper's table; `expanded` is the width to which a block expands the row's map."""

    depth: int
    channels: int
    stride: int
    kernel: int
    expanded: float

    def narrowed(self, csp: CSPConfig | None) -> Row:
        """The row in a partial stage, which makes only the share of the expansion that does not bypass."""
        return self if csp is None else replace(self, expanded=(1 - csp.ratio) * self.expanded)


def by_resolution(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows that share a resolution."""
    groups: list[list[Row]] = []
    for row in rows:
        if groups and row.stride == 1:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


class InvertedResidual(nn.Module):
    """1x1 to a wider map, depthwise convolution, 1x1 back without activation; a shortcut where nothing changes shape.

    Args:
        expanded: width after the first 1x1; a block without that convolution has `in_channels`.
        filters: width after the depthwise convolution, a multiple of `expanded`.
        squeezed: narrow width of squeeze-and-excitation; None for none.
    """

    def __init__(
        self,
        in_channels: int,
        expanded: int,
        filters: int,
        out_channels: int,
        *,
        kernel: int,
        stride: int,
        opens: bool,
        squeezed: int | None,
        dropout: float,
        activation: Activation,
    ) -> None:
        super().__init__()
        self.expanded = expanded
        self.expand = ConvNormAct(in_channels, expanded, activation=activation) if opens else nn.Identity()
        self.depthwise = ConvNormAct(expanded, filters, kernel, stride=stride, groups=expanded, activation=activation)
        self.se = nn.Identity() if squeezed is None else SqueezeExcitation(filters, squeezed, activation=activation)
        self.project = ConvNormAct(filters, out_channels, activation="linear")
        adds = opens and stride == 1 and in_channels == out_channels
        self.dropout = nn.Dropout(dropout) if adds and dropout else nn.Identity()
        self.shortcut = Shortcut(out_channels, in_channels) if adds else None

    def contract(self, expanded: Tensor) -> Tensor:
        """(B, expanded, H, W) -> (B, out_channels, H / stride, W / stride): all after the first 1x1, no shortcut."""
        return self.project(self.se(self.depthwise(expanded)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride)."""
        out = self.contract(self.expand(x))
        return out if self.shortcut is None else self.shortcut(self.dropout(out), x)


@dataclass
class BlockMaker:
    """Makes the blocks of a network, in order.

    Args:
        partial: the depthwise convolutions give two channels for each of theirs.
        squeezed: squeeze-and-excitation widths of the blocks still to be made; consumed from the front.
    """

    partial: bool
    se: int | None
    squeezed: list[int]
    dropout: float
    activation: Activation

    def blocks(
        self, in_channels: int, rows: Sequence[Row], *, before: Row | None, opened: bool = False
    ) -> list[InvertedResidual]:
        """The blocks of one resolution.

        Args:
            before: the row whose map is the input; None is the stem, whose map the first row does not widen.
            opened: the input is already the first block's expansion.
        """
        blocks: list[InvertedResidual] = []
        width, narrow = in_channels, before is None and not opened
        for row in rows:
            for index in range(row.depth):
                opens = bool(blocks) or not opened
                expanded = round(before.expanded) if opens and before is not None else width
                filters = 2 * expanded if self.partial and not narrow else expanded
                squeezed = None if self.se is None else max(filters // self.se, 1)
                block = InvertedResidual(
                    width,
                    expanded,
                    filters,
                    row.channels,
                    kernel=row.kernel,
                    stride=row.stride if index == 0 else 1,
                    opens=opens,
                    squeezed=self.squeezed.pop(0) if self.squeezed else squeezed,
                    dropout=self.dropout,
                    activation=self.activation,
                )
                blocks.append(block)
                width, before = row.channels, row
            narrow = False
        return blocks


class PartialStage(nn.Module):
    """The blocks of one resolution, and beside them a depthwise convolution with the same stride.

        x -> depthwise -------------------------------> concatenation -> transition 2
        x -> inverted residuals -> (transition 1) ----^

    The blocks' depthwise convolutions give two channels for each input channel, in place of a wider expansion, of which
    only the share that does not bypass is made. Transition 2 is also the expansion that opens the next stage.
    csmobilenet-v2.cfg has that transition alone, which is the paper's fusion 'first'.

    Args:
        csp: with split 'conv' both paths read the whole map, as in the file; with 'slice' each has its own channels.
        before: the row whose map is the input; None is the stem's, which the depthwise convolution narrows to the
            bypass's share.
        opened: the input is already the first block's expansion, as a partial stage makes it.
    """

    def __init__(
        self,
        in_channels: int,
        rows: Sequence[Row],
        out_channels: int,
        make: BlockMaker,
        *,
        csp: CSPConfig,
        before: Row | None,
        opened: bool,
    ) -> None:
        super().__init__()
        share = csp.bypass_of(in_channels)
        self.start = share if csp.split == "slice" else 0
        enter = in_channels - self.start
        bypassed = self.start or in_channels
        bypass = share if before is None else bypassed
        groups = math.gcd(bypassed, bypass)
        self.bypass = ConvNormAct(bypassed, bypass, 3, stride=rows[0].stride, groups=groups, activation=make.activation)
        self.blocks = nn.Sequential(*make.blocks(enter, rows, before=before, opened=opened))
        leave = rows[-1].channels
        first_only = csp.fusion == "first"
        self.transition1 = nn.Identity() if first_only else ConvNormAct(leave, leave, activation=make.activation)
        self.transition2: nn.Module = nn.Identity()
        self.out_channels = leave + bypass
        if csp.fusion != "last":
            self.transition2 = ConvNormAct(leave + bypass, out_channels, activation=make.activation)
            self.out_channels = out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride)."""
        bypass = self.bypass(x[:, : self.start] if self.start else x)
        part = x[:, self.start :] if self.start else x
        return self.transition2(torch.cat((self.transition1(self.blocks(part)), bypass), dim=1))
