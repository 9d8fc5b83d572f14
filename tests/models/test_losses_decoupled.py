"""models/losses/decoupled.py: its terms are YOLOX's, and descending them finds the objects."""

from __future__ import annotations

import math

import pytest
import torch

from models.heads.decoupled import DecoupledHead
from models.losses.decoupled import DecoupledLoss
from utils.boxes import box_iou
from utils.config import ConfigError
from utils.structures import Features, Targets


@pytest.fixture
def head() -> DecoupledHead:
    return DecoupledHead(features=Features((8, 8), (8, 16)), num_classes=3, channels=4, depth=0)


def raw_maps(*, batch: int = 2) -> list[torch.Tensor]:
    return [torch.randn(batch, 8, side, side, requires_grad=True) for side in (8, 4)]


def objects(*rows: tuple[float, ...], crowd: bool = False) -> Targets:
    """Rows of image, label, x1, y1, x2, y2."""
    table = torch.tensor(rows)
    return Targets(table[:, 2:], table[:, 1].long(), table[:, 0].long(), torch.full((len(rows),), crowd))


def test_without_objects_only_objectness_learns(head: DecoupledHead) -> None:
    maps = raw_maps()
    loss = DecoupledLoss(head=head, l1_gain=1)
    terms = loss(maps, Targets.empty())
    assert terms["box"].item() == terms["class"].item() == terms["l1"].item() == 0
    assert terms["objectness"].item() == pytest.approx(loss.background(maps).item(), rel=1e-5)
    sum(terms.values()).backward()
    for raw in maps:
        assert torch.count_nonzero(raw.grad[:, :4]) == torch.count_nonzero(raw.grad[:, 5:]) == 0
        assert (raw.grad[:, 4] > 0).all()


def test_the_terms_are_those_of_the_definition(head: DecoupledHead) -> None:
    """Against a loop over the positives that the assigner chose."""
    maps = raw_maps()
    targets = objects((0, 1, 10, 12, 30, 40), (1, 2, 3, 3, 9, 10), (1, 0, 8, 8, 60, 60))
    loss = DecoupledLoss(head=head, l1_gain=0.5)
    chosen = []
    assign = loss.assigner

    def spy(*arguments: torch.Tensor) -> object:
        chosen.append(assign(*arguments))
        return chosen[0]

    loss.assigner = spy
    terms = loss(maps, targets)
    found = chosen[0]
    values = torch.cat([raw.detach().flatten(2) for raw in maps], dim=2).mT.double()
    places = [(x, y, stride) for side, stride in ((8, 8), (4, 16)) for y in range(side) for x in range(side)]
    sums, positives = dict.fromkeys(("box", "class", "l1"), 0.0), []
    for row in found.positive.nonzero().squeeze(1).tolist():
        image, point, target = (int(column[row]) for column in (found.image, found.point, found.target))
        tx, ty, tw, th, _, *classes = values[image, point].tolist()
        column, line, stride = places[point]
        x, y, w, h = (column + tx) * stride, (line + ty) * stride, math.exp(tw) * stride, math.exp(th) * stride
        goal = targets.boxes[target].double()
        box = torch.tensor([[x - w / 2, y - h / 2, x + w / 2, y + h / 2]]).double()
        iou = float(box_iou(box, goal[None]))
        sums["box"] += 5 * (1 - iou**2)
        left, top, right, bottom = goal.tolist()
        wanted = (
            *((left + right) / 2 / stride - column, (top + bottom) / 2 / stride - line),
            *(math.log((right - left) / stride), math.log((bottom - top) / stride)),
        )
        sums["l1"] += 0.5 * sum(abs(a - b) for a, b in zip((tx, ty, tw, th), wanted, strict=True))
        for label, logit in enumerate(classes):
            probability, share = 1 / (1 + math.exp(-logit)), iou * (label == int(targets.labels[target]))
            sums["class"] -= share * math.log(probability) + (1 - share) * math.log(1 - probability)
        positives.append((image, point))
    assert len(positives) >= 3
    wanted = torch.zeros_like(values[..., 4])
    for image, point in positives:
        wanted[image, point] = 1
    objectness = torch.nn.functional.binary_cross_entropy_with_logits(values[..., 4], wanted, reduction="sum")
    sums["objectness"] = float(objectness)
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(
        {name: value / len(positives) for name, value in sums.items()}, rel=1e-4
    )


@pytest.mark.parametrize("box", ["squared_iou", "ciou"])
def test_descending_the_loss_finds_the_objects(head: DecoupledHead, box: str) -> None:
    maps = [raw.detach().requires_grad_() for raw in raw_maps()]
    truths = ((0, 1, 10, 12, 30, 40), (1, 2, 3, 3, 9, 10), (1, 0, 8, 8, 60, 60))
    criterion = DecoupledLoss(head=head, box=box, l1_gain=1)
    optimizer = torch.optim.Adam(maps, lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        sum(criterion(maps, objects(*truths)).values()).backward()
        optimizer.step()
    boxes, scores = head.decode([raw.detach() for raw in maps])
    for image, label, *truth in truths:
        best = scores[image, :, label].argmax()
        assert scores[image, best, label] > 0.5
        torch.testing.assert_close(boxes[image, best], torch.tensor(truth).float(), atol=1.0, rtol=0)


def test_a_crowd_region_is_no_background(head: DecoupledHead) -> None:
    maps = [torch.zeros_like(raw) for raw in raw_maps(batch=1)]  # boxes of one stride around the corners of cells
    for raw in maps:
        raw[:, :2] = 0.5
        raw.requires_grad_()
    DecoupledLoss(head=head)(maps, objects((0, 0, 0, 0, 32, 64), crowd=True))["objectness"].backward()
    for raw in maps:
        middle = raw.shape[3] // 2
        assert torch.count_nonzero(raw.grad[0, 4, :, :middle]) == 0
        assert (raw.grad[0, 4, :, middle:] > 0).all()


def test_the_assigner_takes_its_own_keys_alone(head: DecoupledHead) -> None:
    assert DecoupledLoss(head=head, assigner={"radius": 1.5}).assigner.radius == 1.5
    with pytest.raises(ConfigError, match="top_k"):
        DecoupledLoss(head=head, assigner={"top_k": 3})
