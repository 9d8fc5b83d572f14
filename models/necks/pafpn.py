"""PAFPN: the neck of YOLOv5 and YOLOX, a path down the pyramid and one up again, in cross-stage-partial stages."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from models.csp import CSPConfig
from models.layers import Activation
from models.necks.stack import BottomUp, Stack, TopDown, coarsest
from models.parts import Neck
from utils.structures import Features


class PAFPN(Neck):
    """Features go down the pyramid and up again, fused by concatenation (YOLOX, Ge et al., arXiv:2107.08430).

    Unlike in `PANet`, the backbone's maps join as they are, and the way up joins what the way down had narrowed before
    it was enlarged: the coarsest level has no stage of its own on the way down.

    Args:
        features: the backbone's maps; the coarsest `len(channels)` maps are used.
        channels: width of each level, finest first.
        csp: the cross-stage-partial stages; null for five convolutions in place of each.
        depth: blocks of each stage, without shortcuts.
        depthwise: build the 3x3 convolutions depthwise-separable.
        depthwise_blocks: those of the blocks alone, as in PANet.
    """

    def __init__(
        self,
        *,
        features: Features,
        channels: list[int],
        csp: CSPConfig | None = None,
        depth: int = 1,
        depthwise: bool = False,
        depthwise_blocks: int | None = None,
        activation: Activation = "leaky",
    ) -> None:
        super().__init__()
        levels = len(channels)
        used = coarsest(features, levels, named=f"channels {channels}")
        stack = Stack(csp, depth, activation, depthwise=depthwise, depthwise_blocks=depthwise_blocks)
        self.levels = levels
        coarse = (*channels[1:-1], used.channels[-1])
        self.top_down = nn.ModuleList(
            TopDown(coarse[i], used.channels[i], channels[i], stack, lateral=False) for i in reversed(range(levels - 1))
        )
        self.bottom_up = nn.ModuleList(
            BottomUp(channels[i], channels[i], stack, out_channels=channels[i + 1]) for i in range(levels - 1)
        )
        self.features = Features(tuple(channels) if levels > 1 else used.channels, used.strides)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The backbone's maps (B, Ci, Hi, Wi) -> the maps that `features` names, finest first."""
        *finer, x = maps[-self.levels :]
        narrowed: list[Tensor] = []
        for step, tap in zip(cast("list[TopDown]", self.top_down), reversed(finer), strict=True):
            narrowed.append(step.reduce(x))
            x = step.join(narrowed[-1], tap)
        outputs = [x]
        for up in self.bottom_up:
            outputs.append(up(outputs[-1], narrowed.pop()))
        return outputs
