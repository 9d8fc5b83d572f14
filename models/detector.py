"""Detector: a network that reads as one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from models.parts import Backbone, Head, Neck
from utils.structures import Features

if TYPE_CHECKING:
    from models.darknet.header import WeightsHeader


class Detector(nn.Module):
    """Backbone, neck, head.

    Args:
        backbone: images -> maps, finest first.
        neck: maps -> maps.
        head: maps -> raw maps, and `decode(raw_maps)` -> what it predicts.
    """

    def __init__(self, backbone: Backbone, neck: Neck, head: Head) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.drop: nn.Module = nn.Identity()  # of each map between backbone and neck, while training
        # Header of the .weights file that this model was loaded from, so that the same file can be written again.
        self.darknet_header: WeightsHeader | None = None

    @property
    def task(self) -> Literal["detect", "classify"]:
        """What the head predicts: boxes and their classes, or one class for the image."""
        return self.head.task

    @property
    def stride(self) -> int:
        """Both sides of an image must be multiples of this, in pixels.

        A detector needs whole cells of its coarsest map; a classifier only what its backbone needs, mostly nothing.
        """
        needed = self.backbone.stride
        return needed if self.task == "classify" else max(*self.neck.features.strides, needed)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) RGB in [0, 1] -> the head's raw maps, one a level, finest stride first.

        While training, a head with one-to-one branches gives two such lists in one; see AnchorFreeHead.
        """
        maps = self.backbone(images)
        if self.training:
            maps = [self.drop(x) for x in maps]
        return self.head(self.neck(maps))

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor] | Tensor:
        """(B, 3, H, W) RGB in [0, 1] -> what the head decodes.

        Returns:
            Of a detector boxes (B, N, 4) xyxy pixels of these images, and scores (B, N, C) in [0, 1]; of a classifier
            probabilities (B, C).
        """
        return self.head.decode(self(images))


class PassThrough(Neck):
    """No neck: the backbone's maps as they are."""

    def __init__(self, *, features: Features) -> None:
        super().__init__()
        self.features = features

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The backbone's maps (B, Ci, Hi, Wi) -> the same."""
        return maps
