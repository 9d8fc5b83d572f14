"""Nothing in heads, assigners and losses takes height for width: a transposed picture has the same loss."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models.build import build_criterion, build_model
from models.config import load_model_config
from models.detector import Detector
from utils.structures import Targets

HEADS = [
    ("{type: region, anchors: [[12, 20, 30, 14], [40, 24, 30, 60]]}", None),
    ("{type: anchor, anchors: [[12, 20, 30, 14], [40, 24, 30, 60]], scale_xy: 2.0, size: square}", None),
    ("{type: anchor, anchors: [[12, 20, 30, 14], [40, 24, 30, 60]], scale_xy: 1.1, size: exp}", "anchor_iou"),
    ("{type: anchor_free, bins: 8, depth: 1, box_channels: 16, class_channels: 16}", "task_aligned"),
    ("{type: anchor_free, bins: 8, depth: 1, box_channels: 16, class_channels: 16}", "simota"),
]


def transposed_(model: Detector) -> Detector:
    """The model for transposed pictures: kernels, and what the head says of x and y, left and top, exchanged."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.transpose(2, 3).contiguous()
    head = model.head
    if hasattr(head, "convs"):
        head.set_anchors_([level.flip(1).flatten().tolist() for level in head.anchors])
        for conv, count in zip(head.convs, head.anchor_counts, strict=True):
            _reorder_(conv, count, [1, 0, 3, 2, *range(4, 5 + head.num_classes)], each=1)
    else:
        for branch in head.box_branches:
            _reorder_(branch[-1], 1, [1, 0, 3, 2], each=head.bins)
    return model


def _reorder_(conv: nn.Conv2d, count: int, order: list[int], *, each: int) -> None:
    """Outputs of a 1x1 convolution in another order: `count` groups of groups of `each`."""
    for value in (conv.weight, conv.bias):
        groups = value.data.view(count, len(order), each, *value.shape[1:])
        value.data = groups[:, order].reshape(value.shape).contiguous()


def loss_and_gradient(model: Detector, spec: dict, images: Tensor, targets: Targets) -> tuple[dict[str, float], Tensor]:
    criterion = build_criterion(model, spec, where="loss")
    images = images.clone().requires_grad_()
    terms = criterion(model.train()(images), targets)
    (gradient,) = torch.autograd.grad(sum(terms.values()), images)
    return {name: value.item() for name, value in terms.items()}, gradient


@pytest.mark.parametrize(("head", "assigner"), HEADS)
def test_a_transposed_picture_has_the_same_loss_and_the_transposed_gradient(
    tiny_model: Path, head: str, assigner: str | None
) -> None:
    torch.manual_seed(2)
    config = load_model_config(str(tiny_model), [f"head={head}"])
    model, other = (build_model(config, 3).double() for _ in range(2))
    other.load_state_dict(model.state_dict())
    other = transposed_(other)
    images = torch.rand(2, 3, 64, 160, dtype=torch.float64)
    boxes = torch.tensor([[3.0, 5, 60, 30], [100, 10, 155, 62], [70, 20, 84, 55], [10, 8, 24, 20]])
    labels, owner = torch.tensor([0, 1, 2, 1]), torch.tensor([0, 0, 1, 1])
    crowd = torch.zeros(4, dtype=torch.bool)
    spec = {"assigner": {"type": assigner}} if assigner else {}
    terms, gradient = loss_and_gradient(model, spec, images, Targets(boxes, labels, owner, crowd))
    turned = Targets(boxes[:, [1, 0, 3, 2]], labels, owner, crowd)
    other_terms, other_gradient = loss_and_gradient(other, spec, images.transpose(2, 3).contiguous(), turned)
    assert terms["box"] > 0
    assert other_terms == pytest.approx(terms, rel=1e-5)
    scale = gradient.abs().max()
    torch.testing.assert_close(other_gradient.transpose(2, 3) / scale, gradient / scale, atol=1e-4, rtol=0)
