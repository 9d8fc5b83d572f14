"""AnchorLoss: raw maps and targets -> box, objectness and class terms.

The terms are those of YOLOv3 and YOLOv4, with exact gradients or with the simplified ones of darknet, for which its
gains and learning rates are chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from models.assigners.anchor import AnchorIoUAssigner, AnchorRatioAssigner
from models.heads.anchor import AnchorHead
from models.losses.crowd import in_crowd, overlaps_object
from models.losses.iou import BOX_LOSSES
from models.losses.pick import pick
from models.losses.positives import Positives
from utils.boxes import aligned_iou, cxcywh_to_xyxy, xyxy_to_cxcywh
from utils.device import on_device
from utils.dist import sum_over_ranks
from utils.schema import build
from utils.structures import Targets

ASSIGNERS = {"anchor_iou": AnchorIoUAssigner, "anchor_ratio": AnchorRatioAssigner}


class AnchorLoss(nn.Module):
    """The YOLO loss: box regression on positives, logistic cross-entropy for objectness and for each class.

    Every term is a sum divided by a count over the whole batch and all ranks, so splitting the batch over processes
    changes nothing. Crowd regions are neither objects nor background.

    Args:
        head: the head whose raw maps are scored; gives anchors, strides and the decode.
        assigner: mapping {type: anchor_iou | anchor_ratio, ...}.
        box: 'ciou', 'diou', 'giou', 'iou', or 'mse' (YOLOv3: squared error of the raw values, small boxes up to twice);
            null is the head's own, 'ciou' unless the model file says otherwise.
        box_gradient: 'exact', or 'darknet' for its simplified gradient, with its box_gain (iou_normalizer).
        max_delta: with 'darknet', the limit of that gradient; also the limit of the factors of class_counters.
        box_gain, objectness_gain, class_gain: weights of the terms.
        level_gains: weight of each level's objectness, finest first; null weighs all levels alike.
        objectness_target: 'iou' is the IoU of the predicted box, 'one' is 1 (darknet).
        ignore_thresh: no objectness loss where a box overlaps an object by more than this; null: off
            (docs/networks.md, Targets and losses, item 1).
        label_smoothing: eps of y * (1 - eps) + eps / 2 on the class targets.
        class_counters: objects of each class, or 'auto' for those of the training set; an object then counts as many
            times as the commonest class is commoner than its own (darknet's counters_per_class; docs/networks.md,
            Targets and losses, item 7).
        normalize: divide by the number of 'positives' (at least that of the images, so that the background does not
            dominate a batch with few objects), or of 'images', as darknet does and its learning rates expect.
        class_counts: of the training set, by label.
    """

    def __init__(
        self,
        *,
        head: AnchorHead,
        assigner: dict | None = None,
        box: Literal["ciou", "diou", "giou", "iou", "mse"] | None = None,
        box_gain: float = 5.0,
        objectness_gain: float = 1.0,
        class_gain: float = 1.0,
        level_gains: list[float] | None = None,
        box_gradient: Literal["exact", "darknet"] = "exact",
        max_delta: float | None = None,
        objectness_target: Literal["iou", "one"] = "iou",
        ignore_thresh: float | None = None,
        label_smoothing: float = 0.0,
        class_counters: Literal["auto"] | list[int] | None = None,
        normalize: Literal["positives", "images"] = "positives",
        class_counts: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        levels = len(head.strides)
        if level_gains is not None and len(level_gains) != levels:
            raise ValueError(f"level_gains: {len(level_gains)} values for {levels} levels")
        if max_delta is not None and max_delta < 1:
            raise ValueError(f"max_delta: expected a number of at least 1, or null, found {max_delta}")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing: expected a share in [0, 1), found {label_smoothing}")
        if class_counters == "auto" and class_counts is None:
            raise ValueError("class_counters: 'auto' needs the counts of a training set; give a list of counts")
        self.head = head
        self.assigner = build(
            ASSIGNERS, assigner or {"type": "anchor_ratio"}, where="loss.assigner", scale_xy=head.scale_xy
        )
        self.box = box or head.box_loss
        self.gains = {"box": box_gain, "objectness": objectness_gain, "class": class_gain}
        self.level_gains = level_gains or [1.0] * levels
        self.box_gradient = box_gradient
        self.max_delta = max_delta
        self.objectness_target = objectness_target
        self.ignore_thresh = ignore_thresh
        self.label_smoothing = label_smoothing
        self.normalize = normalize
        counters = class_counts if class_counters == "auto" else class_counters
        factors = class_factors(counters, head.num_classes, limit=max_delta)
        self.class_factors: Tensor | None
        self.register_buffer("class_factors", factors, persistent=False)

    def forward(self, raw_maps: list[Tensor], targets: Targets) -> dict[str, Tensor]:
        """The weighted terms 'box', 'objectness' and 'class'; the loss is their sum.

        Args:
            raw_maps: (B, A * (5 + C), h, w) a level, as the head gives them.
            targets: objects of the batch, on the host; boxes (N, 4) xyxy pixels of the network input.
        """
        raw_maps = [raw.to(torch.promote_types(raw.dtype, torch.float32)) for raw in raw_maps]
        device = raw_maps[0].device
        crowd, objects = targets.select(targets.crowd).to(device), targets.select(~targets.crowd)
        sizes = [(raw.shape[2], raw.shape[3]) for raw in raw_maps]
        assignments = self.assigner(objects, list(self.head.sizes), self.head.strides, sizes)
        counts = on_device((sum(map(len, assignments)), len(raw_maps[0])), like=raw_maps[0])
        positives, images = sum_over_ranks(counts)
        divisor = (images if self.normalize == "images" else torch.maximum(positives, images)).clamp(min=1)
        terms: dict[str, Tensor] = {}
        levels = Positives.of(assignments, objects, device)
        objects = objects.to(device)
        for level, (raw, wanted) in enumerate(zip(raw_maps, levels, strict=True)):
            weight = self._background_weight(raw, level, objects, crowd)
            for name, value in self._level(raw, level, wanted, weight).items():
                weighted = value * (self.gains[name] / divisor)
                terms[name] = terms[name] + weighted if level else weighted
        return terms

    def background(self, raw_maps: list[Tensor]) -> Tensor:
        """() the objectness loss of images without any object, summed over all predictions, before gains.

        Args:
            raw_maps: (B, A * (5 + C), h, w) a level.
        """
        logits = [self.head.split(raw.float(), level)[..., 4] for level, raw in enumerate(raw_maps)]
        losses = (binary_cross_entropy_with_logits(x, torch.zeros_like(x), reduction="sum") for x in logits)
        return sum(losses, start=logits[0].new_zeros(()))

    def _level(self, raw: Tensor, level: int, positives: Positives, weight: Tensor | None) -> dict[str, Tensor]:
        """Sums over one level, before gains.

        Args:
            raw: (B, A * (5 + C), h, w).
            weight: (B, A, h, w) of each prediction as background; None: all 1.
        """
        cells, labels, _ = positives
        values = self.head.split(raw, level)
        found, objectness = pick(values, cells, slice(4, 5))
        objectness = objectness.squeeze(-1)
        factors = None if self.class_factors is None else self.class_factors[labels]
        box, quality = self._box_terms(found[:, :4], level, positives, raw.shape, factors)
        wanted = torch.zeros_like(objectness)
        # Two objects may share a prediction: the better fit is its objectness.
        flat = _flat_index(cells, wanted.shape)
        wanted.view(-1).scatter_reduce_(0, flat, quality, reduce="amax")
        if weight is None and factors is not None:
            weight = torch.ones_like(wanted)
        if weight is not None:
            weight.view(-1)[flat] = 1
            if factors is not None:
                weight.view(-1).scatter_reduce_(0, flat, factors, reduce="amax")

        classes = torch.full_like(found[:, 5:], self.label_smoothing / 2)
        true_class = (torch.arange(len(found), device=raw.device), labels)
        classes[true_class] = 1 - self.label_smoothing / 2
        class_weight = None
        if factors is not None:
            box = box * factors
            class_weight = torch.ones_like(classes)
            class_weight[true_class] = factors
        return {
            "box": box.sum(),
            "objectness": binary_cross_entropy_with_logits(objectness, wanted, weight=weight, reduction="sum")
            * self.level_gains[level],
            "class": binary_cross_entropy_with_logits(found[:, 5:], classes, weight=class_weight, reduction="sum"),
        }

    def _box_terms(
        self, values: Tensor, level: int, positives: Positives, shape: torch.Size, factors: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(P,) box loss of each positive, and (P,) what its objectness should be.

        Args:
            values: (P, 4) tx, ty, tw, th.
            shape: of the level's raw map.
            factors: (P,) by class, for the limit of darknet's gradient alone.
        """
        head, goals = self.head, positives.goals
        _, anchor, row, column = positives.cells
        anchors = head.anchors[level][anchor]
        cells = torch.stack((column, row), dim=1).to(values.dtype)
        decoded = _with_area(head.decode_boxes(values, cells, anchors, level))
        boxes = cxcywh_to_xyxy(decoded)
        if self.box == "mse":
            box = self._squared_error(values, cells, anchors, goals, level, shape)
        elif self.box_gradient == "darknet":
            bound = None
            if self.max_delta is not None:  # after gain and factor
                factors = torch.ones_like(values[:, 0]) if factors is None else factors
                bound = self.max_delta / (max(self.gains["box"], 1e-9) * factors)
            image_size = (shape[2] * head.strides[level], shape[3] * head.strides[level])
            box = _with_darknet_gradient(
                BOX_LOSSES[self.box], values, decoded, goals, anchors=anchors, image_size=image_size, bound=bound
            )
        else:
            box = BOX_LOSSES[self.box](boxes, goals)
        quality = aligned_iou(boxes.detach(), goals) if self.objectness_target == "iou" else torch.ones_like(box)
        return box, quality.detach()

    def _squared_error(
        self, values: Tensor, cells: Tensor, anchors: Tensor, goals: Tensor, level: int, shape: torch.Size
    ) -> Tensor:
        """(P,) YOLOv3's box loss: squared error of x, y in the cell and of log sizes, times 2 - area.

        See docs/networks.md, Targets and losses, item 5.
        """
        goals = xyxy_to_cxcywh(goals)
        stride, scale = self.head.strides[level], self.head.scale_xy[level]
        offset = values[:, :2].sigmoid() * scale - 0.5 * (scale - 1)
        if self.box_gradient == "darknet":
            offset = values[:, :2] + (offset - values[:, :2]).detach()  # the gradient goes past the sigmoid
        predicted = self.head.decode_boxes(values, cells, anchors, level)[:, 2:]
        error = (offset - (goals[:, :2] / stride - cells)) ** 2 + (predicted / goals[:, 2:]).log() ** 2
        area = goals[:, 2:].prod(dim=1) / (shape[2] * shape[3] * stride**2)
        return 0.5 * error.sum(dim=1) * (2 - area)

    @torch.no_grad()
    def _background_weight(self, raw: Tensor, level: int, objects: Targets, crowd: Targets) -> Tensor | None:
        """(B, A, h, w): 0 where a prediction is not to be called background, else 1; None when nothing is ignored.

        Args:
            objects, crowd: the targets that are no crowd regions, and those that are, on the device.
        """
        if self.ignore_thresh is None and not len(crowd):
            return None
        decoded = cxcywh_to_xyxy(self.head.decode_level(raw, level))
        boxes = decoded.flatten(1, 3)
        ignored = in_crowd(boxes, crowd)
        if self.ignore_thresh is not None:
            ignored |= overlaps_object(boxes, objects, self.ignore_thresh)
        return (~ignored).to(raw.dtype).view(decoded.shape[:-1])


def class_factors(counters: Sequence[int] | None, num_classes: int, *, limit: float | None) -> Tensor | None:
    """(C,) how many times an object of each class counts: the largest count over its own, at most `limit`.

    A class without any object gets 1. None where there are no counters.

    Raises:
        ValueError: another number of counters than classes, or counts below 0.
    """
    if counters is None:
        return None
    if len(counters) != num_classes or min(counters) < 0:
        raise ValueError(
            f"class_counters: expected {num_classes} counts of at least 0, one a class, or 'auto'; found {counters}"
        )
    counts = torch.tensor(counters, dtype=torch.float32)
    factors = torch.where(counts > 0, counts.amax() / counts.clamp(min=1), 1.0)
    return factors if limit is None else factors.clamp(max=limit)


def _with_darknet_gradient(
    loss: Callable[[Tensor, Tensor], Tensor],
    values: Tensor,
    boxes: Tensor,
    goals: Tensor,
    *,
    anchors: Tensor,
    image_size: tuple[int, int],
    bound: Tensor | None = None,
) -> Tensor:
    """An IoU loss with the gradient that darknet gives it (docs/networks.md, Targets and losses, item 5).

    Darknet takes the derivative with respect to the box as shares of the image. It hands that of the centre to tx, ty
    as it is, without the derivative of the sigmoid and of the grid, and that of the size to tw, th times exp(tw),
    exp(th), without that of anchor and image.

    Args:
        loss: aligned pairs (P, 4) xyxy pixels -> (P,).
        values: (P, 4) tx, ty, tw, th.
        boxes: (P, 4) cxcywh pixels that they decode to; goals (P, 4) xyxy pixels.
        anchors: (P, 2) width and height in pixels.
        image_size: (height, width) of the network input.
        bound: (P,) limit of each of the four derivatives, darknet's max_delta; None: no limit.
    Returns:
        (P,) the loss.
    """
    height, width = image_size
    leaf = boxes.detach().requires_grad_()
    with torch.enable_grad():
        value = loss(cxcywh_to_xyxy(leaf), goals)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
    gradient = gradient.nan_to_num(0, 0, 0) * on_device((width, height, width, height), like=gradient)
    gradient[:, 2:] *= leaf.detach()[:, 2:] / anchors
    if bound is not None:
        gradient = gradient.clamp(-bound[:, None], bound[:, None])
    linear = (gradient * values).sum(dim=1)
    return value.detach() + linear - linear.detach()


def _with_area(boxes: Tensor, *, least: float = 0.1) -> Tensor:
    """(P, 4) cxcywh boxes with sides of at least `least` pixels, gradients as if nothing had been raised.

    Early in training a side may shrink until both corners are the same float32; CIoU then has no finite gradient.
    """
    raised = torch.cat((boxes[:, :2], boxes[:, 2:].clamp(min=least)), dim=1)
    return boxes + (raised - boxes).detach()


def _flat_index(cells: tuple[Tensor, ...], shape: torch.Size) -> Tensor:
    """(P,) positions (image, anchor, row, column) as indices into the flattened (B, A, h, w) map."""
    image, anchor, row, column = cells
    return ((image * shape[1] + anchor) * shape[2] + row) * shape[3] + column
