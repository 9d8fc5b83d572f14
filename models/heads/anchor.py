"""AnchorHead: YOLOv4's decode of anchor boxes (docs/networks.md, Layout and decoding)."""

from __future__ import annotations

import math
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from models.heads.grid import cell_grid, least_logit
from models.parts import Head
from utils.boxes import cxcywh_to_xyxy
from utils.structures import Features


class AnchorHead(Head):
    """One 1x1 convolution a level, and the decode of its output to boxes and scores.

    A raw map is (B, A * (5 + C), h, w), anchor-major as in darknet: tx, ty, tw, th, objectness, C classes.
    With s = scale_xy and cell (i, j): centre = (i + s * sigmoid(tx) - (s - 1) / 2) * stride; size = anchor * exp(tw),
    or anchor * (2 * sigmoid(tw))^2 for size='square' (Scaled-YOLOv4). Score = class probability * objectness.

    Args:
        features: channels and strides of the neck's maps, finest first.
        num_classes: C.
        anchors: for each level (finest first) width, height, width, height, ... in pixels of the network input.
        scale_xy: how far a centre may leave its cell, one number for all levels or one per level; 1 is YOLOv3.
        size: 'exp' (YOLOv3, YOLOv4) or 'square' (at most four times the anchor).
        box_loss: the box loss where the recipe does not name one; a darknet cfg's iou_loss.
    Raises:
        ValueError: a level without anchors, an odd count, or another number of levels than the neck has.
    """

    def __init__(
        self,
        *,
        features: Features,
        num_classes: int,
        anchors: list[list[float]],
        scale_xy: float | list[float] = 1.0,
        size: Literal["exp", "square"] = "exp",
        box_loss: Literal["ciou", "diou", "giou", "iou", "mse"] = "ciou",
    ) -> None:
        super().__init__(num_classes)
        levels = len(features.strides)
        if len(anchors) != levels:
            raise ValueError(
                f"anchors: {len(anchors)} lists for {levels} levels (strides {features.strides}); "
                "give one list for each level of the neck"
            )
        if any(len(level) < 2 or len(level) % 2 or min(level) <= 0 for level in anchors):
            raise ValueError(f"anchors: expected width, height pairs above 0 for every level, found {anchors}")
        scales = scale_xy if isinstance(scale_xy, list) else [scale_xy] * levels
        if len(scales) != levels or min(scales) < 1:
            raise ValueError(
                f"scale_xy: expected one number, or one a level ({levels}), each at least 1, found {scale_xy}"
            )
        self.strides = features.strides
        self.scale_xy = tuple(float(scale) for scale in scales)
        self.size = size
        self.box_loss = box_loss
        self.anchor_counts = tuple(len(level) // 2 for level in anchors)
        for index, level in enumerate(anchors):
            # Saved in the checkpoint, so that anchors fitted to a data set stay with the weights.
            self.register_buffer(f"anchors_{index}", torch.tensor(level, dtype=torch.float32).view(-1, 2))
        self.sizes = tuple(torch.tensor(level, dtype=torch.float32, device="cpu").view(-1, 2) for level in anchors)
        """The anchors once more, on the host, which assigns objects to them without waiting for a device."""
        self.convs = nn.ModuleList(
            nn.Conv2d(channels, count * (5 + num_classes), 1)
            for channels, count in zip(features.channels, self.anchor_counts, strict=True)
        )
        self.reset_biases()

    @property
    def anchors(self) -> list[Tensor]:
        """(A, 2) width and height in pixels for each level."""
        return [getattr(self, f"anchors_{index}") for index in range(len(self.strides))]

    def set_anchors_(self, anchors: list[list[float]]) -> None:
        """Replace the anchors of the model file: for each level width, height, width, height, ... in pixels."""
        for own, level in zip(self.anchors, anchors, strict=True):
            own.copy_(torch.tensor(level, dtype=own.dtype).view_as(own))
        self._note_sizes()

    def _note_sizes(self) -> None:
        self.sizes = tuple(anchors.detach().float().cpu().clone() for anchors in self.anchors)

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        super()._load_from_state_dict(*args, **options)
        if not self.anchors_0.is_meta:
            self._note_sizes()

    def reset_biases(self) -> None:
        """Start with rare objects: about 8 in an image of 640 x 640, and no favourite class (RetinaNet's prior)."""
        convs = cast("list[nn.Conv2d]", self.convs)
        for conv, stride, count in zip(convs, self.strides, self.anchor_counts, strict=True):
            objectness = 8 / (count * (640 / stride) ** 2)
            class_probability = min(0.5, 1 / self.num_classes)
            with torch.no_grad():
                assert conv.bias is not None
                bias = conv.bias.view(count, -1)
                bias.zero_()
                bias[:, 4] = math.log(objectness / (1 - objectness))
                bias[:, 5:] = math.log(class_probability / (1 - class_probability + 1e-2))

    def class_layers(self) -> dict[str, tuple[int, int]]:
        """See Head."""
        return {f"convs.{level}": (anchors, 5) for level, anchors in enumerate(self.anchor_counts)}

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Neck maps -> raw maps, (B, A * (5 + C), h, w) a level."""
        return [conv(feature) for conv, feature in zip(self.convs, maps, strict=True)]

    def split(self, raw: Tensor, level: int) -> Tensor:
        """(B, A * (5 + C), h, w) -> (B, A, h, w, 5 + C)."""
        batch, _, height, width = raw.shape
        return raw.view(batch, self.anchor_counts[level], 5 + self.num_classes, height, width).permute(0, 1, 3, 4, 2)

    def decode_boxes(self, values: Tensor, cells: Tensor, anchors: Tensor, level: int) -> Tensor:
        """Boxes of predictions.

        Args:
            values: (..., 4) tx, ty, tw, th.
            cells: (..., 2) column and row of the cell.
            anchors: (..., 2) width and height in pixels.
        Returns:
            (..., 4) cxcywh pixels of the network input.
        """
        scale = self.scale_xy[level]
        centres = (cells + values[..., :2].sigmoid() * scale - 0.5 * (scale - 1)) * self.strides[level]
        sizes = values[..., 2:4]
        factor = (2 * sizes.sigmoid()) ** 2 if self.size == "square" else sizes.clamp(max=math.log(1e4)).exp()
        return torch.cat((centres, anchors * factor), dim=-1)

    def decode_level(self, raw: Tensor, level: int) -> Tensor:
        """All boxes of one level: (B, A, h, w, 4) cxcywh pixels of the network input."""
        values = self.split(raw, level)
        _, _, height, width, _ = values.shape
        cells = cell_grid(height, width, like=values)
        anchors = self.anchors[level].to(values.dtype).view(1, -1, 1, 1, 2)
        return self.decode_boxes(values[..., :4], cells, anchors, level)

    def decode_scores(self, values: Tensor) -> Tensor:
        """(..., 1 + C) objectness and classes as in a raw map -> (..., C) scores, at most their objectness."""
        values = values.sigmoid()
        return values[..., 1:] * values[..., :1]

    def decode(self, raw_maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Raw maps -> boxes (B, N, 4) xyxy pixels, scores (B, N, C); ordered by level, anchor, row, column."""
        boxes, scores = [], []
        for level, raw in enumerate(raw_maps):
            boxes.append(cxcywh_to_xyxy(self.decode_level(raw, level)).flatten(1, 3))
            scores.append(self.decode_scores(self.split(raw, level)[..., 4:]).flatten(1, 3))
        return torch.cat(boxes, dim=1), torch.cat(scores, dim=1)

    def decode_above(self, raw_maps: list[Tensor], conf_thres: float) -> tuple[Tensor, Tensor]:
        """See Head. A score is at most its objectness, which alone is looked at for most cells."""
        least = least_logit(conf_thres)
        boxes, scores = [], []
        for level, raw in enumerate(raw_maps):
            values = self.split(raw, level)
            anchor, row, column = (values[..., 4] > least).any(dim=0).nonzero(as_tuple=True)
            values = values[:, anchor, row, column]
            cells = torch.stack((column, row), dim=1).to(values.dtype)
            anchors = self.anchors[level].to(values.dtype)[anchor]
            boxes.append(cxcywh_to_xyxy(self.decode_boxes(values[..., :4], cells, anchors, level)))
            scores.append(self.decode_scores(values[..., 4:]))
        return torch.cat(boxes, dim=1), torch.cat(scores, dim=1)
