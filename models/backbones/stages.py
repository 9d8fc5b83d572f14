"""The loop over the stages that most backbones consist of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from models.parts import Backbone
from utils.structures import Features


class StagedBackbone(Backbone):
    """A stem, then one stage after the other; gives the maps of the last stages.

    Args:
        stem: images -> a map of `stem_channels`.
        make_stage: (index, in_channels) -> the stage and the width of its map.
        count: stages.
        first_stride: of the first stage's map in pixels; it doubles from stage to stage.
        levels: as in `last_features`.
    """

    def __init__(
        self,
        stem: nn.Module,
        stem_channels: int,
        make_stage: Callable[[int, int], tuple[nn.Module, int]],
        *,
        count: int,
        first_stride: int,
        levels: int | None = None,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList()
        width, widths = stem_channels, []
        for index in range(count):
            stage, width = make_stage(index, width)
            self.stages.append(stage)
            widths.append(width)
        self.features = last_features(widths, first_stride, levels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the maps that `features` names, finest first."""
        x, maps = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[-len(self.features.strides) :]


def last_features(widths: Sequence[int], first_stride: int, levels: int | None = None) -> Features:
    """The features of the coarsest maps, given the width of all; strides double from `first_stride` on.

    Args:
        levels: how many maps, the key `levels` of a backbone; three, or all if there are fewer, when left out.
    Raises:
        ValueError: there are fewer maps.
    """
    strides = [first_stride * 2**index for index in range(len(widths))]
    count = count_of_levels(levels, strides)
    return Features(tuple(widths[-count:]), tuple(strides[-count:]))


def count_of_levels(levels: int | None, strides: Sequence[int]) -> int:
    """How many maps a backbone gives, of those of all `strides` that it has: `levels`, or three when left out.

    Raises:
        ValueError: it has fewer.
    """
    if levels is not None and not 1 <= levels <= len(strides):
        raise ValueError(f"levels: expected 1 to {len(strides)}, the maps of strides {list(strides)}, found {levels}")
    return min(levels or 3, len(strides))


def check_lengths(**lists: Sequence[object]) -> None:
    """One entry a stage in every list.

    Raises:
        ValueError: the lists differ in length, or are empty.
    """
    lengths = {name: len(entries) for name, entries in lists.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        listed = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"expected one entry per stage in each list, found: {listed}")
