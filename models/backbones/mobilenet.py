"""MobileNet-v2, CSPMobileNet-v2 and EfficientNet-B0 as darknet builds them: inverted residuals.

See docs/networks.md, Plain baselines and CSPMobileNet-v2.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, cast

from torch import Tensor, nn

from models.backbones.inverted_residual import BlockMaker, InvertedResidual, PartialStage, Row, by_resolution
from models.backbones.stages import StagedBackbone, check_lengths
from models.csp import CSPStages, csp_by_stage
from models.layers import Activation, ConvNormAct
from utils.structures import Features


class MobileNet(StagedBackbone):
    """A strided stem, stages of inverted residuals and a last 1x1 convolution; gives the last strides' maps.

    Args:
        depths, channels, strides: blocks of each stage, their width, and the stride of the first.
        expansion: width inside the blocks as a multiple of their input's; in the first stage it is that of the input.
        expanded_channels: the same as a width for each stage's map; the last stage's counts where a block repeats.
        kernels: of the depthwise convolutions, per stage; 3 everywhere when left out.
        head_channels: of the last 1x1 convolution; null for none. With csp the last transition, with that share of them
            that does not bypass.
        tap: 'output' gives what the stages end in; 'expansion', the wider maps that open the next strided stages, as
            enet-coco.cfg reads them. With csp the transitions are those maps.
        csp: cross-stage-partial stages as in csmobilenet-v2.cfg, see `PartialStage`; null is the plain network; a list
            has one entry for each resolution, of which MobileNet-v2 has five.
        se: squeeze-and-excitation after every depthwise convolution, the reduction of its width; null for none.
        se_channels: the same by the narrow width itself, one number a block.
        dropout: share of values dropped before the shortcuts in training.
        levels: how many maps it gives, the coarsest; three when left out.
    """

    def __init__(
        self,
        *,
        depths: list[int],
        channels: list[int],
        strides: list[Literal[1, 2]],
        expansion: int = 6,
        expanded_channels: list[int] | None = None,
        kernels: list[int] | None = None,
        stem_channels: int = 32,
        head_channels: int | None = 1280,
        tap: Literal["output", "expansion"] = "output",
        csp: CSPStages = None,
        se: int | None = None,
        se_channels: list[int] | None = None,
        dropout: float = 0.0,
        levels: int | None = None,
        activation: Activation = "relu",
    ) -> None:
        kernels = [3] * len(depths) if kernels is None else kernels
        wide = [expansion * width for width in channels] if expanded_channels is None else expanded_channels
        check_lengths(depths=depths, channels=channels, strides=strides, kernels=kernels, expanded_channels=wide)
        if min(depths) < 1 or any(kernel % 2 == 0 for kernel in kernels):
            raise ValueError(f"depths {depths}, kernels {kernels}: expected at least one block a stage, odd kernels")
        groups = by_resolution([Row(*row) for row in zip(depths, channels, strides, kernels, wide, strict=True)])
        if len(groups) < 3:
            raise ValueError(f"strides {strides}: expected maps of three strides, found {len(groups)}")
        partial = csp_by_stage(csp, len(groups))
        if tap == "expansion" and any(partial) and not all(partial):
            raise ValueError("tap: 'expansion' needs stages that are all plain or all partial, found both in csp")
        plain = BlockMaker(False, se, _squeezed_widths(se, se_channels, blocks=sum(depths)), dropout, activation)

        def make_stage(number: int, width: int) -> tuple[nn.Module, int]:
            own, last = partial[number], number == len(groups) - 1
            group = [row.narrowed(own) for row in groups[number]]
            before = groups[number - 1][-1].narrowed(own) if number else None
            if own is None:
                return nn.Sequential(*plain.blocks(width, group, before=before)), group[-1].channels
            if last:  # transition 2 is also the expansion that opens what follows
                out = head_channels * (1 - own.ratio) if head_channels else group[-1].expanded
            else:
                following = partial[number + 1]
                out = group[-1].channels if following is None else groups[number][-1].narrowed(following).expanded
            make = replace(plain, partial=True)
            opened = number > 0 and partial[number - 1] is not None
            stage = PartialStage(width, group, round(out), make, csp=own, before=before, opened=opened)
            return stage, stage.out_channels

        stem = ConvNormAct(3, stem_channels, 3, stride=2, activation=activation)
        finest = 2 * groups[0][0].stride
        super().__init__(stem, stem_channels, make_stage, count=len(groups), first_stride=finest, levels=levels)
        widths = list(self.features.channels)
        self.head: nn.Module = nn.Identity()
        if partial[-1] is None and head_channels:
            self.head = ConvNormAct(widths[-1], head_channels, activation=activation)
            widths[-1] = head_channels
        self.tap_expansions = tap == "expansion" and not any(partial)
        if self.tap_expansions:
            widths[:-1] = [_first_block(stage).expanded for stage in self.stages[len(groups) - len(widths) + 1 :]]
        self.features = Features(tuple(widths), self.features.strides)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the maps that `features` names, finest first."""
        x = self.stem(images)
        maps: list[Tensor] = []
        for index, stage in enumerate(self.stages):
            if self.tap_expansions and index:
                first = _first_block(stage)
                maps[-1] = first.expand(x)
                x = first.contract(maps[-1])
                for block in list(stage.children())[1:]:
                    x = block(x)
            else:
                x = stage(x)
            maps.append(x)
        return [*maps[-len(self.features.strides) : -1], self.head(maps[-1])]


def _squeezed_widths(se: int | None, se_channels: list[int] | None, *, blocks: int) -> list[int]:
    """The narrow width of each block's squeeze-and-excitation where they are given one by one; else none.

    Raises:
        ValueError: another number of them than blocks, a reduction below 1, or both.
    """
    squeezed = list(se_channels or [])
    if (squeezed and len(squeezed) != blocks) or (se is not None and (squeezed or se < 1)):
        raise ValueError(
            f"se {se}, se_channels {se_channels}: expected a reduction of at least 1, or {blocks} widths, one a block"
        )
    return squeezed


def _first_block(stage: nn.Module) -> InvertedResidual:
    """Of a plain stage, a Sequential of such blocks."""
    return cast("InvertedResidual", next(stage.children()))
