"""The loop over the stages that most backbones consist of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from models.parts import Backbone
from utils.structures import Features


class StagedBackbone(Backbone):
    """A stem, then one stage after the other; gives the last three stages' maps.

    Args:
        stem: images -> a map of `stem_channels`.
        make_stage: (index, in_channels) -> the stage and the width of its map.
        count: stages.
        first_stride: of the first stage's map in pixels; it doubles from stage to stage.
    """

    def __init__(
        self,
        stem: nn.Module,
        stem_channels: int,
        make_stage: Callable[[int, int], tuple[nn.Module, int]],
        *,
        count: int,
        first_stride: int,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList()
        width, widths = stem_channels, []
        for index in range(count):
            stage, width = make_stage(index, width)
            self.stages.append(stage)
            widths.append(width)
        self.features = last_features(widths, first_stride)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the maps that `features` names, finest first."""
        x, maps = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[-3:]


def last_features(widths: Sequence[int], first_stride: int) -> Features:
    """The features of the last three maps, given the width of all; strides double from `first_stride` on."""
    strides = [first_stride * 2**index for index in range(len(widths))]
    return Features(tuple(widths[-3:]), tuple(strides[-3:]))


def check_lengths(**lists: Sequence[object]) -> None:
    """One entry a stage in every list.

    Raises:
        ValueError: the lists differ in length, or are empty.
    """
    lengths = {name: len(entries) for name, entries in lists.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        listed = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"expected one entry per stage in each list, found: {listed}")
