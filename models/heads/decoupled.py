"""DecoupledHead: YOLOX's separate branches for classes and boxes, an objectness in each cell, no anchors."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.heads.branch import last_bias, last_layers, make_branch
from models.heads.grid import cell_grid, least_logit
from models.layers import Activation, ConvNormAct
from models.parts import Head
from utils.boxes import cxcywh_to_xyxy
from utils.structures import Features

PRIOR = 0.01
"""Objectness and class probabilities of a fresh head."""


class DecoupledHead(Head):
    """One prediction a cell: a box, whether there is an object, and its class (YOLOX, Ge et al., arXiv:2107.08430).

    A raw map is (B, 5 + C, h, w): tx, ty, tw, th, objectness, C classes, as of AnchorHead with one anchor. With cell
    (i, j): centre = (i + tx) * stride, (j + ty) * stride; size = exp(tw) * stride. Score = class probability *
    objectness.

    Args:
        features: channels and strides of the neck's maps, finest first.
        num_classes: C.
        channels: width of the 1x1 convolution that begins each level, and of both branches after it.
        depth: 3x3 convolutions of a branch before its last 1x1.
        depthwise: build them depthwise-separable.
        one_class: give a box a score for its likeliest class alone, as YOLOX does; its other scores are 0.
        activation: of all but the last.
    """

    def __init__(
        self,
        *,
        features: Features,
        num_classes: int,
        channels: int,
        depth: int = 2,
        depthwise: bool = False,
        one_class: bool = False,
        activation: Activation = "swish",
    ) -> None:
        super().__init__(num_classes)
        if channels < 1 or depth < 0:
            raise ValueError(f"expected channels of at least 1 and a depth of at least 0, found {channels} and {depth}")
        self.strides = features.strides
        self.one_class = one_class

        def branches(outputs: int) -> nn.ModuleList:
            return nn.ModuleList(
                make_branch(channels, channels, outputs, depth=depth, depthwise=depthwise, activation=activation)
                for _ in features.strides
            )

        self.stems = nn.ModuleList(ConvNormAct(width, channels, activation=activation) for width in features.channels)
        self.box_branches = branches(5)
        self.class_branches = branches(num_classes)
        self.reset_biases()

    def reset_biases(self) -> None:
        """Start with objectness and classes of 0.01, as YOLOX."""
        logit = math.log(PRIOR / (1 - PRIOR))
        for box, classes in zip(self.box_branches, self.class_branches, strict=True):
            last_bias(box).data[4] = logit
            last_bias(classes).data.fill_(logit)

    def class_layers(self) -> dict[str, tuple[int, int]]:
        """See Head."""
        return dict.fromkeys(last_layers(self, "class_branches"), (1, 0))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Neck maps -> raw maps, (B, 5 + C, h, w) a level."""
        raw_maps = []
        for x, stem, box, classes in zip(maps, self.stems, self.box_branches, self.class_branches, strict=True):
            x = stem(x)
            raw_maps.append(torch.cat((box(x), classes(x)), dim=1))
        return raw_maps

    def cells(self, raw_maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """(N, 2) column and row of all cells, and (N,) the stride of each; by level, row, column."""
        cells = [cell_grid(*raw.shape[2:], like=raw).view(-1, 2) for raw in raw_maps]
        pairs = zip(cells, self.strides, strict=True)
        return torch.cat(cells), torch.cat([torch.full_like(level[:, 0], stride) for level, stride in pairs])

    def decode_boxes(self, values: Tensor, cells: Tensor, strides: Tensor) -> Tensor:
        """(..., 4) tx, ty, tw, th, (..., 2) column and row and (...) strides -> (..., 4) xyxy pixels."""
        centres, sizes = values[..., :2] + cells, values[..., 2:].clamp(max=math.log(1e4)).exp()
        return cxcywh_to_xyxy(torch.cat((centres, sizes), dim=-1) * strides[..., None])

    def decode(self, raw_maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Raw maps -> boxes (B, N, 4) xyxy pixels, scores (B, N, C); ordered by level, row, column."""
        values = torch.cat([raw.flatten(2) for raw in raw_maps], dim=2).transpose(1, 2)
        return self._decoded(values, *self.cells(raw_maps))

    def decode_above(self, raw_maps: list[Tensor], conf_thres: float) -> tuple[Tensor, Tensor]:
        """See Head. A score is at most its objectness, which alone is looked at for most cells."""
        least = least_logit(conf_thres)
        chosen, cells, strides = [], [], []
        for raw, stride in zip(raw_maps, self.strides, strict=True):
            row, column = (raw[:, 4] > least).any(dim=0).nonzero(as_tuple=True)
            chosen.append(raw[:, :, row, column].transpose(1, 2))
            cells.append(torch.stack((column, row), dim=1).to(raw.dtype))
            strides.append(torch.full((len(row),), stride, dtype=raw.dtype, device=raw.device))
        return self._decoded(torch.cat(chosen, dim=1), torch.cat(cells), torch.cat(strides))

    def _decoded(self, values: Tensor, cells: Tensor, strides: Tensor) -> tuple[Tensor, Tensor]:
        """Of (B, N, 5 + C) predictions of cells (N, 2) with strides (N,)."""
        scores = values[..., 5:].sigmoid() * values[..., 4:5].sigmoid()
        if self.one_class:
            scores = torch.where(scores == scores.amax(dim=-1, keepdim=True), scores, 0)
        return self.decode_boxes(values[..., :4], cells, strides), scores
