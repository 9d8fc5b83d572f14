"""AnchorFreeHead: separate branches for boxes and classes, distances to the four sides as distributions, no anchors."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.heads.branch import last_bias, last_layers, make_branch
from models.heads.grid import cell_grid, least_logit
from models.layers import Activation
from models.parts import Head
from utils.structures import Features


class AnchorFreeHead(Head):
    """One prediction a cell: class logits, and a distribution over the distance to each side of the box.

    A raw map is (B, 4 * bins + C, h, w): for left, top, right and bottom the logits of the distances 0, 1, ...,
    bins - 1 in strides (Generalized Focal Loss, Li et al., arXiv:2006.04388), then the class logits. The box goes from
    the cell's centre by the distribution's mean to each side; the score is the class probability (TOOD, Feng et al.,
    arXiv:2108.07755). The branches share no convolution (YOLOX, Ge et al., arXiv:2107.08430).

    With `one_to_one` there is a second pair of branches, trained to find each object once, so that inference needs no
    non-maximum suppression (YOLOv10, Wang et al., arXiv:2405.14458). In training it passes no gradient back to the
    maps: backbone and neck learn from the first pair, which has more positives. In evaluation mode only the second pair
    is computed.

    Args:
        features: channels and strides of the neck's maps, finest first.
        num_classes: C.
        bins: distances of a distribution; the largest distance from centre to side is bins - 1 strides of the coarsest
            level. 1 predicts each distance directly.
        box_channels, class_channels: widths of the two branches; null derives them from the finest map and the number
            of classes.
        depth: 3x3 convolutions of a branch before its last 1x1.
        depthwise: build the class branch of depthwise-separable convolutions, which cost less.
        activation: of the branches.
        one_to_one: add the second pair of branches.
    """

    def __init__(
        self,
        *,
        features: Features,
        num_classes: int,
        bins: int = 16,
        box_channels: int | None = None,
        class_channels: int | None = None,
        depth: int = 2,
        depthwise: bool = False,
        activation: Activation = "swish",
        one_to_one: bool = False,
    ) -> None:
        super().__init__(num_classes)
        if bins < 1 or depth < 0:
            raise ValueError(f"expected bins of at least 1 and a depth of at least 0, found {bins} and {depth}")
        self.strides = features.strides
        self.bins = bins
        self.one_to_one = one_to_one
        finest = features.channels[0]
        for_boxes = box_channels or max(16, finest // 4, 4 * bins)
        for_classes = class_channels or max(finest, min(num_classes, 100))

        def branches(width: int, outputs: int, separable: bool) -> nn.ModuleList:
            return nn.ModuleList(
                make_branch(channels, width, outputs, depth=depth, depthwise=separable, activation=activation)
                for channels in features.channels
            )

        self.box_branches = branches(for_boxes, 4 * bins, False)
        self.class_branches = branches(for_classes, num_classes, depthwise)
        if one_to_one:
            self.one_to_one_box_branches = branches(for_boxes, 4 * bins, False)
            self.one_to_one_class_branches = branches(for_classes, num_classes, depthwise)
        self.distances: Tensor
        self.register_buffer("distances", torch.arange(bins, dtype=torch.float32), persistent=False)
        self.reset_biases()

    def reset_biases(self) -> None:
        """Start with sides about two strides away, and rare objects: about 5 of a class in 640 x 640 pixels.

        Two strides: the distributions fall by a third from bin to bin. If they were flat, as in the paper, every box
        would start 15 strides wide, too large to overlap small objects well enough for them to be learnt.
        """
        fall = math.log(1.5)
        start = [math.log(math.expm1(2))] if self.bins == 1 else [-fall * distance for distance in range(self.bins)]
        pairs = [(self.box_branches, self.class_branches)]
        if self.one_to_one:
            pairs.append((self.one_to_one_box_branches, self.one_to_one_class_branches))
        for box_branches, class_branches in pairs:
            for box, classes, stride in zip(box_branches, class_branches, self.strides, strict=True):
                bias = last_bias(box)
                bias.data = torch.tensor(start).repeat(4).to(bias)
                nn.init.constant_(last_bias(classes), math.log(5 / self.num_classes / (640 / stride) ** 2))

    def class_layers(self) -> dict[str, tuple[int, int]]:
        """See Head."""
        pairs = ["class_branches", *(["one_to_one_class_branches"] if self.one_to_one else [])]
        return {name: (1, 0) for branches in pairs for name in last_layers(self, branches)}

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Neck maps -> raw maps, (B, 4 * bins + C, h, w) a level.

        With `one_to_one`, in training: the maps of the first pair of branches for all levels, then those of the
        one-to-one pair; in evaluation mode only the latter.
        """
        if not self.one_to_one:
            return _run(maps, self.box_branches, self.class_branches)
        one_to_one = (self.one_to_one_box_branches, self.one_to_one_class_branches)
        if not self.training:
            return _run(maps, *one_to_one)
        apart = [feature.detach() for feature in maps]
        return _run(maps, self.box_branches, self.class_branches) + _run(apart, *one_to_one)

    def keep_one_to_one_(self) -> None:
        """Replace the first pair of branches, which only training needs, by the one-to-one pair, if there is one."""
        if self.one_to_one:
            self.box_branches, self.class_branches = self.one_to_one_box_branches, self.one_to_one_class_branches
            del self.one_to_one_box_branches, self.one_to_one_class_branches
            self.one_to_one = False

    def flatten(self, raw_maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """(B, N, 4, bins) logits of distances and (B, N, C) class logits; by level, row, column.

        Args:
            raw_maps: of one pair of branches.
        """
        flat = torch.cat([raw.flatten(2) for raw in raw_maps], dim=2).transpose(1, 2)
        sides, classes = flat.split((4 * self.bins, self.num_classes), dim=2)
        return sides.unflatten(2, (4, self.bins)), classes

    def points(self, raw_maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """(N, 2) centres of all cells in pixels, and (N,) the stride of each."""
        centres, strides = [], []
        for raw, stride in zip(raw_maps, self.strides, strict=True):
            height, width = raw.shape[2:]
            cells = cell_grid(height, width, like=raw).view(-1, 2)
            centres.append((cells + 0.5) * stride)
            strides.append(torch.full_like(cells[:, 0], stride))
        return torch.cat(centres), torch.cat(strides)

    def decode_boxes(self, sides: Tensor, points: Tensor, strides: Tensor) -> Tensor:
        """(..., 4, bins) logits of distances, (..., 2) centres and (...) strides -> (..., 4) xyxy pixels."""
        if self.bins == 1:
            distances = nn.functional.softplus(sides.squeeze(-1))
        else:
            distances = (sides.softmax(dim=-1) @ self.distances.to(sides.dtype)[:, None]).squeeze(-1)
        distances = distances * strides[..., None]
        return torch.cat((points - distances[..., :2], points + distances[..., 2:]), dim=-1)

    def decode(self, raw_maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Raw maps -> boxes (B, N, 4) xyxy pixels, scores (B, N, C); ordered by level, row, column."""
        sides, classes = self.flatten(raw_maps)
        points, strides = self.points(raw_maps)
        return self.decode_boxes(sides, points, strides), classes.sigmoid()

    def decode_above(self, raw_maps: list[Tensor], conf_thres: float) -> tuple[Tensor, Tensor]:
        """See Head."""
        least = least_logit(conf_thres)
        chosen, points, strides = [], [], []
        for raw, stride in zip(raw_maps, self.strides, strict=True):
            values = raw.permute(0, 2, 3, 1)
            row, column = (values[..., 4 * self.bins :] > least).any(dim=3).any(dim=0).nonzero(as_tuple=True)
            chosen.append(values[:, row, column])
            points.append((torch.stack((column, row), dim=1).to(raw.dtype) + 0.5) * stride)
            strides.append(torch.full((len(row),), stride, dtype=raw.dtype, device=raw.device))
        sides, classes = torch.cat(chosen, dim=1).split((4 * self.bins, self.num_classes), dim=2)
        boxes = self.decode_boxes(sides.unflatten(2, (4, self.bins)), torch.cat(points), torch.cat(strides))
        return boxes, classes.sigmoid()


def _run(maps: list[Tensor], box_branches: nn.ModuleList, class_branches: nn.ModuleList) -> list[Tensor]:
    """The raw maps of one pair of branches."""
    levels = zip(maps, box_branches, class_branches, strict=True)
    return [torch.cat((box(feature), classes(feature)), dim=1) for feature, box, classes in levels]
