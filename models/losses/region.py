"""RegionLoss: the loss of darknet's [region] layer, YOLOv2's (docs/networks.md, Region layers)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from models.heads.region import RegionHead
from models.losses.crowd import in_crowd, overlaps_object
from utils.boxes import aligned_iou, cxcywh_to_xyxy, xyxy_to_cxcywh
from utils.device import on_device
from utils.dist import sum_over_ranks
from utils.structures import Targets

PRIOR_IMAGES = 12800
"""Images at the start of a training whose boxes without an object are pulled to their anchors."""

PRIOR_GAIN = 0.01
"""Of that pull, against `coord_scale`."""


class RegionLoss(nn.Module):
    """YOLOv2's loss as AlexeyAB's darknet trains it: half of the squared errors, and cross-entropy for the classes.

    Each object belongs to the cell of its centre, at every level, and there to the anchor of the best shape. If two
    objects meet in one prediction, the later one counts. Terms are summed and divided by the number of images of all
    ranks. Predictions whose box lies in a crowd region are not trained as background.

    Args:
        head: the head whose raw maps are scored; what is null here is as the head says.
        rescore: the objectness of a prediction with an object is to be the IoU of its box; else 1.
        bias_match: an object's anchor is the one whose shape is nearest; else the prediction whose shape is.
        thresh: no objectness loss where a box without an object of its own overlaps one by more than this.
        object_scale, noobject_scale: weights of the objectness of predictions with and without an object.
        coord_scale, class_scale: weights of boxes and classes.
        prior_images: so many images at the start of the training also pull the boxes without an object to the middle of
            their cell and the size of their anchor, with weight 0.01.
    """

    def __init__(
        self,
        *,
        head: RegionHead,
        rescore: bool | None = None,
        bias_match: bool | None = None,
        thresh: float | None = None,
        object_scale: float | None = None,
        noobject_scale: float | None = None,
        coord_scale: float | None = None,
        class_scale: float | None = None,
        prior_images: int = PRIOR_IMAGES,
    ) -> None:
        super().__init__()
        self.head = head
        self.rescore = head.rescore if rescore is None else rescore
        self.bias_match = head.bias_match if bias_match is None else bias_match
        self.thresh = head.thresh if thresh is None else thresh
        given = {
            "object_scale": object_scale,
            "noobject_scale": noobject_scale,
            "coord_scale": coord_scale,
            "class_scale": class_scale,
        }
        self.scales = {key: head.scales[key] if value is None else value for key, value in given.items()}
        if min(self.scales.values()) < 0 or not 0 <= self.thresh <= 1:
            raise ValueError(
                f"thresh: expected a number in [0, 1], {', '.join(self.scales)}: numbers from 0 on; "
                f"found thresh {self.thresh}, {self.scales}"
            )
        self.prior_images = prior_images

    def forward(self, raw_maps: list[Tensor], targets: Targets) -> dict[str, Tensor]:
        """The weighted terms 'box', 'objectness' and 'class'; the loss is their sum.

        Args:
            raw_maps: (B, A * (5 + C), h, w) a level, as the head gives them.
            targets: objects of the batch, on the host; boxes (N, 4) xyxy pixels of the network input.
        """
        raw_maps = [raw.to(torch.promote_types(raw.dtype, torch.float32)) for raw in raw_maps]
        device = raw_maps[0].device
        crowd, objects = (targets.select(rows).to(device) for rows in (targets.crowd, ~targets.crowd))
        images = sum_over_ranks(on_device((len(raw_maps[0]),), like=raw_maps[0]))[0]
        prior = PRIOR_GAIN * (self.head.seen < self.prior_images)
        if self.head.training:
            self.head.seen += images.to(self.head.seen.dtype)
        levels = [self._level(raw, level, objects, crowd, prior) for level, raw in enumerate(raw_maps)]
        return {name: torch.stack([terms[name] for terms in levels]).sum() / images for name in levels[0]}

    def background(self, raw_maps: list[Tensor]) -> Tensor:
        """() the objectness loss of images without any object, summed over all predictions.

        Args:
            raw_maps: (B, A * (5 + C), h, w) a level.
        """
        found = [self.head.split(raw.float(), level)[..., 4].sigmoid() for level, raw in enumerate(raw_maps)]
        return 0.5 * self.scales["noobject_scale"] * torch.stack([x.square().sum() for x in found]).sum()

    def _level(self, raw: Tensor, level: int, objects: Targets, crowd: Targets, prior: Tensor) -> dict[str, Tensor]:
        """Sums over one level.

        Args:
            raw: (B, A * (5 + C), h, w).
            objects, crowd: the targets that are no crowd regions, and those that are, on the device.
            prior: () weight of the pull to the anchors.
        """
        values = self.head.split(raw, level)
        anchors, stride = self.head.anchors[level].to(raw.dtype), self.head.strides[level]
        goals = xyxy_to_cxcywh(objects.boxes.to(raw.dtype))
        limit = on_device((raw.shape[3] - 1, raw.shape[2] - 1), like=raw)
        cells = torch.minimum((goals[:, :2] / stride).floor().clamp(min=0), limit)
        column, row = cells.long().unbind(dim=1)
        anchor = self._best_anchor(values.detach()[objects.image_index, :, row, column, 2:4], goals[:, 2:], anchors)
        places = (objects.image_index, anchor, row, column)
        counts = _later_ones(places, values.shape[:-1]).to(raw.dtype)
        taken = torch.zeros_like(values[..., 0]).index_put(places, counts, accumulate=True)

        found, own = values[places], anchors[anchor]
        wanted = torch.cat((goals[:, :2] / stride - cells, (goals[:, 2:] / own).log()), dim=1)
        box = self.scales["coord_scale"] * (_squared_error(found[:, :4], wanted) * counts).sum()
        middle = values.new_tensor((0.5, 0.5, 0.0, 0.0))
        box = box + prior * (_squared_error(values[..., :4], middle) * (1 - taken)).sum()

        decoded = cxcywh_to_xyxy(self.head.decode_boxes(found.detach()[:, :4], cells, own, level))
        quality = aligned_iou(decoded, objects.boxes.to(raw.dtype), eps=0) if self.rescore else torch.ones_like(counts)
        weight = (1 - taken) * self.scales["noobject_scale"] * self._background(raw, level, objects, crowd)
        with_object = self.scales["object_scale"] * counts * (quality - found[:, 4].sigmoid()).square()
        without = weight * values[..., 4].sigmoid().square()
        return {
            "box": box,
            "objectness": 0.5 * (with_object.sum() + without.sum()),
            "class": self.scales["class_scale"] * (self._class_error(found[:, 5:], objects.labels) * counts).sum(),
        }

    def _best_anchor(self, sizes: Tensor, goals: Tensor, anchors: Tensor) -> Tensor:
        """(N,) the anchor to which each object belongs in its cell.

        Args:
            sizes: (N, A, 2) tw, th of the cell's predictions.
            goals: (N, 2) width and height of the objects in pixels; anchors: (A, 2) in pixels.
        """
        shapes = anchors if self.bias_match else anchors * sizes.clamp(max=20).exp()
        overlap = torch.minimum(shapes, goals[:, None]).prod(dim=-1)
        union = shapes.prod(dim=-1) + goals.prod(dim=-1)[:, None] - overlap
        return (overlap / union).argmax(dim=1)

    def _class_error(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(N,) cross-entropy of (N, C), of the softmax or summed over the sigmoids."""
        if self.head.softmax:
            return cross_entropy(logits, labels, reduction="none")
        wanted = torch.zeros_like(logits).scatter(1, labels[:, None], 1.0)
        return binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(dim=1)

    @torch.no_grad()
    def _background(self, raw: Tensor, level: int, objects: Targets, crowd: Targets) -> Tensor:
        """(B, A, h, w): 0 where a prediction overlaps an object too well to be called background, else 1."""
        decoded = cxcywh_to_xyxy(self.head.decode_level(raw, level))
        boxes = decoded.flatten(1, 3)
        ignored = overlaps_object(boxes, objects, self.thresh) | in_crowd(boxes, crowd)
        return (~ignored).to(raw.dtype).view(decoded.shape[:-1])


def _squared_error(values: Tensor, wanted: Tensor) -> Tensor:
    """(...) half of the squared error of sigmoid(tx), sigmoid(ty), tw, th; both (..., 4)."""
    found = torch.cat((values[..., :2].sigmoid(), values[..., 2:]), dim=-1)
    return 0.5 * (found - wanted).square().sum(dim=-1)


def _later_ones(places: tuple[Tensor, ...], shape: torch.Size) -> Tensor:
    """(N,) bool: which objects are the last at their place; `places` are indices into `shape`, (N,) each."""
    flat = places[0]
    for index, size in zip(places[1:], shape[1:], strict=True):
        flat = flat * size + index
    order = torch.arange(len(flat), device=flat.device)
    last = order.new_full((shape.numel(),), -1).scatter_reduce(0, flat, order, reduce="amax")
    return last[flat] == order
