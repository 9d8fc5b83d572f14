"""Detector: a network that reads as one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from utils.structures import Features

if TYPE_CHECKING:
    from models.darknet.weights import WeightsHeader


class Detector(nn.Module):
    """Backbone, neck, head.

    Args:
        backbone: images -> maps, finest first; `features` names them.
        neck: maps -> maps; `features` names them.
        head: maps -> raw maps, and `decode(raw_maps)` -> boxes and scores.
    """

    def __init__(self, backbone: nn.Module, neck: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head
        # Of the .weights file that this model came from, for writing the same file again.
        self.darknet_header: WeightsHeader | None = None

    @property
    def stride(self) -> int:
        """Pixels per cell of the coarsest map there is; both sides of the images are multiples of it."""
        return max(*self.neck.features.strides, getattr(self.backbone, "stride", 1))

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) RGB in [0, 1] -> the head's raw maps, finest stride first."""
        return self.head(self.neck(self.backbone(images)))

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) RGB in [0, 1] -> boxes (B, N, 4) xyxy pixels of these images, and scores (B, N, C) in [0, 1]."""
        return self.head.decode(self(images))


class PassThrough(nn.Module):
    """No neck: the backbone's maps as they are."""

    def __init__(self, *, features: Features) -> None:
        super().__init__()
        self.features = features

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return maps
