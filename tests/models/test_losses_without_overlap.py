"""An object that no predicted box overlaps, however small it is, has a gradient in every head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.build import CRITERIA
from models.heads.anchor import AnchorHead
from models.heads.anchor_free import AnchorFreeHead
from models.heads.decoupled import DecoupledHead
from models.parts import Head
from utils.boxes import box_iou
from utils.structures import Features, Targets

SIDE, CLASSES, IMAGES = 64, 3, 24
STRIDES = (8, 16)
FEATURES = Features((8, 8), STRIDES)
ANCHORS = [[10, 13, 16, 30], [30, 61, 62, 45]]
SIMOTA = {"assigner": {"type": "simota"}}
HEADS: dict[str, tuple[type[Head], dict[str, Any], dict[str, Any]]] = {
    "anchor": (AnchorHead, {"anchors": ANCHORS, "scale_xy": 2.0}, {}),
    "anchor, darknet's rule": (AnchorHead, {"anchors": ANCHORS}, {"assigner": {"type": "anchor_iou"}}),
    "anchor-free": (AnchorFreeHead, {"bins": 8, "depth": 0}, {}),
    "anchor-free, one bin": (AnchorFreeHead, {"bins": 1, "depth": 0}, {}),
    "anchor-free, SimOTA": (AnchorFreeHead, {"bins": 8, "depth": 0}, {"assigner": {"type": "simota"}}),
    "one-to-one": (AnchorFreeHead, {"bins": 8, "depth": 0, "one_to_one": True}, {}),
    "one-to-one, SimOTA": (
        AnchorFreeHead,
        {"bins": 8, "depth": 0, "one_to_one": True},
        {"assigner": {"type": "simota"}},
    ),
    "decoupled": (DecoupledHead, {"channels": 4, "depth": 0}, {}),
}


def raw_values(head: Head, side: int) -> Tensor:
    """(IMAGES, D, side, side) whose boxes are a fiftieth of a stride wide, or of an anchor, and scores 0.01."""
    where = torch.randn(IMAGES, 4, side, side)
    classes = -4.6 + 0.1 * torch.randn(IMAGES, CLASSES, side, side)
    if isinstance(head, AnchorFreeHead):
        distances = torch.arange(head.bins).float()
        sides = -5.0 - distances if head.bins == 1 else -5.0 * distances
        return torch.cat(
            (sides.repeat(4)[None, :, None, None] + 0.1 * where.repeat(1, head.bins, 1, 1), classes), dim=1
        )
    where[:, 2:] = -4 + 0.1 * where[:, 2:]
    values = torch.cat((where, torch.full_like(where[:, :1], -4.6), classes), dim=1)
    return values.repeat(1, 2, 1, 1) if isinstance(head, AnchorHead) else values


def tiny_objects() -> Targets:
    """One in each image: 0.5 to 4 pixels wide and high, anywhere."""
    sizes = 0.5 * 8 ** torch.rand(IMAGES, 2)
    low = torch.rand(IMAGES, 2) * (SIDE - sizes)
    boxes = torch.cat((low, low + sizes), dim=1)
    return Targets(boxes, torch.arange(IMAGES) % CLASSES, torch.arange(IMAGES), torch.zeros(IMAGES).bool())


def make(kind: str) -> tuple[Head, nn.Module, list[Tensor], Targets]:
    """A head, its loss, raw maps that need gradients, and objects none of whose boxes meet them."""
    torch.manual_seed(5)
    maker, arguments, loss = HEADS[kind]
    head = maker(features=FEATURES, num_classes=CLASSES, **arguments).train()
    pairs = 2 if getattr(head, "one_to_one", False) else 1
    maps = [raw_values(head, SIDE // stride) for _ in range(pairs) for stride in STRIDES]
    targets = tiny_objects()
    apart = torch.ones(IMAGES, dtype=torch.bool)
    for pair in range(pairs):
        boxes, _ = head.decode(maps[2 * pair : 2 * pair + 2])
        apart &= torch.stack([box_iou(boxes[i], targets.boxes[i : i + 1]).sum() == 0 for i in range(IMAGES)])
    assert apart.sum() >= IMAGES / 2, "the case is there"
    return head, CRITERIA[maker](head=head, **loss), [raw.requires_grad_() for raw in maps], targets.select(apart)


def gradients(term: Tensor, maps: list[Tensor]) -> list[Tensor]:
    return torch.autograd.grad(term, maps, retain_graph=True, materialize_grads=True)


def towards_class(head: Head, gradient: Tensor, label: int) -> Tensor:
    """The gradients (D, h, w) of one class of all predictions of an image."""
    rows = gradient.view(2, -1, *gradient.shape[1:]) if isinstance(head, AnchorHead) else gradient[None]
    return rows[:, label - CLASSES]


@pytest.mark.parametrize("kind", HEADS)
def test_box_and_class_of_every_object_learn(kind: str) -> None:
    head, criterion, maps, targets = make(kind)
    terms = criterion(maps, targets)
    for suffix, raw in {"": maps[:2], "_one_to_one": maps[2:]}.items():
        if not raw:
            continue
        box, classes = gradients(terms[f"box{suffix}"], raw), gradients(terms[f"class{suffix}"], raw)
        assert all(part.isfinite().all() for part in (*box, *classes))
        for image, label in zip(targets.image_index.tolist(), targets.labels.tolist(), strict=True):
            assert max(float(part[image].abs().max()) for part in box) > 1e-4, f"box, image {image}"
            # Descending the loss makes the object's class more likely somewhere.
            least = min(float(towards_class(head, part[image], label).min()) for part in classes)
            assert least < -1e-4, f"class, image {image}"
