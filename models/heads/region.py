"""RegionHead: YOLOv2's boxes, whose classes share one softmax (docs/networks.md, Region layers)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.heads.anchor import AnchorHead
from utils.structures import Features


class RegionHead(AnchorHead):
    """An AnchorHead with darknet's [region] layer: centres stay in their cells, and classes exclude each other.

    A raw map is (B, A * (5 + C), h, w), anchor-major: tx, ty, tw, th, objectness, C classes. Centre = (i +
    sigmoid(tx)) * stride, size = anchor * exp(tw). Score = sigmoid(objectness) * softmax(classes).

    Args:
        features: channels and strides of the neck's maps, finest first. YOLOv2 has one map; each object belongs to all.
        num_classes: C.
        anchors: for each level width, height, width, height, ... in pixels of the network input; a cfg's are in cells.
        softmax: false gives each class a sigmoid of its own.
        rescore, bias_match, thresh, object_scale, noobject_scale, coord_scale, class_scale: of the loss, where the
            recipe does not give them; see RegionLoss. YOLOv2's by default.
    Attributes:
        seen: images trained on, a weights file's included; the first of all also pull the boxes without an object to
            their anchors.
    """

    def __init__(
        self,
        *,
        features: Features,
        num_classes: int,
        anchors: list[list[float]],
        softmax: bool = True,
        rescore: bool = True,
        bias_match: bool = True,
        thresh: float = 0.6,
        object_scale: float = 5.0,
        noobject_scale: float = 1.0,
        coord_scale: float = 1.0,
        class_scale: float = 1.0,
    ) -> None:
        super().__init__(features=features, num_classes=num_classes, anchors=anchors)
        self.softmax = softmax
        self.rescore = rescore
        self.bias_match = bias_match
        self.thresh = thresh
        self.scales = {
            "object_scale": object_scale,
            "noobject_scale": noobject_scale,
            "coord_scale": coord_scale,
            "class_scale": class_scale,
        }
        if min(self.scales.values()) < 0:
            raise ValueError(f"{', '.join(self.scales)}: expected numbers from 0 on, found {self.scales}")
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def reset_biases(self) -> None:
        """Start at objectness 0.5, as darknet: the squared error of a small sigmoid hardly has a gradient."""
        for conv in self.convs:
            assert isinstance(conv, nn.Conv2d)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def decode_scores(self, values: Tensor) -> Tensor:
        """(..., 1 + C) objectness and classes as in a raw map -> (..., C) scores, at most their objectness."""
        classes = values[..., 1:].softmax(dim=-1) if self.softmax else values[..., 1:].sigmoid()
        return classes * values[..., :1].sigmoid()
