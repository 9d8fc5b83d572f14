"""What a detector is made of: the contracts of backbone, neck and head, and of the blocks of a stage."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from utils.structures import Features


class Backbone(nn.Module):
    """Images (B, 3, H, W) RGB in [0, 1] -> a list of maps, finest first.

    Attributes:
        features: channels and stride of each map.
        stride: both sides of the images must be multiples of it, in pixels.
        fixed_size: (height, width) of the only images that it takes; None for any.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features: Features
        self.stride = 1
        self.fixed_size: tuple[int, int] | None = None


class Neck(nn.Module):
    """A backbone's maps -> a list of maps, finest first.

    Attributes:
        features: channels and stride of each map that it gives.
    """

    def __init__(self) -> None:
        super().__init__()
        self.features: Features


class Head(nn.Module):
    """A neck's maps -> raw maps, which a loss judges and `decode` turns into predictions.

    Attributes:
        task: what it predicts: boxes and their classes, or one class for the image.
        num_classes: of the predictions.
    """

    task: Literal["detect", "classify"] = "detect"

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def class_layers(self) -> dict[str, tuple[int, int]]:
        """The convolutions whose outputs depend on the number of classes, by their names in the head.

        Returns:
            For each the groups of its outputs (one an anchor), and the outputs of a group that come before those of the
            classes. A head that names none cannot be started from weights for other classes.
        """
        return {}

    def decode(self, raw_maps: list[Tensor]) -> tuple[Tensor, Tensor] | Tensor:
        """Raw maps -> boxes (B, N, 4) xyxy pixels and scores (B, N, C), or of a classifier probabilities (B, C)."""
        raise NotImplementedError

    def decode_above(self, raw_maps: list[Tensor], conf_thres: float) -> tuple[Tensor, Tensor] | Tensor:
        """As `decode`, perhaps without boxes that have no score above `conf_thres` in any image, in the same order."""
        return self.decode(raw_maps)


class Block(nn.Module):
    """(B, in_channels, H, W) -> (B, out_channels, H, W): what the stages of a network repeat."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
