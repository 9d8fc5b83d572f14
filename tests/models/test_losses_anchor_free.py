"""models/losses/anchor_free.py: its terms, and that nothing but counts joins the images of a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.build import build_criterion, build_model
from models.config import load_model_config
from models.detector import Detector
from models.heads.anchor_free import AnchorFreeHead
from models.losses.anchor_free import AnchorFreeLoss
from utils.structures import Features, Targets


@pytest.fixture
def head() -> AnchorFreeHead:
    return AnchorFreeHead(features=Features((8, 8), (8, 16)), num_classes=3, bins=8, depth=0)


def raw_maps(head: AnchorFreeHead, *, batch: int = 2) -> list[torch.Tensor]:
    channels = 4 * head.bins + head.num_classes
    return [torch.randn(batch, channels, side, side, requires_grad=True) for side in (8, 4)]


def objects(*rows: tuple[float, ...], crowd: bool = False) -> Targets:
    """Rows of image, label, x1, y1, x2, y2."""
    table = torch.tensor(rows)
    flags = torch.full((len(rows),), crowd)
    return Targets(table[:, 2:], table[:, 1].long(), table[:, 0].long(), flags)


def test_without_objects_only_the_classes_learn(head: AnchorFreeHead) -> None:
    maps = raw_maps(head)
    terms = AnchorFreeLoss(head=head)(maps, Targets.empty())
    assert terms["box"].item() == terms["distribution"].item() == 0
    sum(terms.values()).backward()
    for raw in maps:
        assert torch.count_nonzero(raw.grad[:, : 4 * head.bins]) == 0
        assert (raw.grad[:, 4 * head.bins :] > 0).all()


@pytest.mark.parametrize("assigner", ["task_aligned", "simota"])
@pytest.mark.parametrize("box", ["ciou", "diou", "giou", "iou"])
def test_descending_the_loss_finds_the_objects(head: AnchorFreeHead, assigner: str, box: str) -> None:
    maps = [raw.detach().requires_grad_() for raw in raw_maps(head)]
    targets = objects((0, 1, 10, 12, 30, 40), (1, 2, 3, 3, 9, 10), (1, 0, 8, 8, 60, 60))
    criterion = AnchorFreeLoss(head=head, assigner={"type": assigner}, box=box)
    optimizer = torch.optim.Adam(maps, lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        sum(criterion(maps, targets).values()).backward()
        optimizer.step()
    boxes, scores = head.decode([raw.detach() for raw in maps])
    for image, label, *truth in ((0, 1, 10, 12, 30, 40), (1, 2, 3, 3, 9, 10), (1, 0, 8, 8, 60, 60)):
        best = scores[image, :, label].argmax()
        assert scores[image, best, label] > 0.5
        torch.testing.assert_close(boxes[image, best], torch.tensor(truth).float(), atol=1.0, rtol=0)


def test_the_distribution_loss_is_the_papers(head: AnchorFreeHead) -> None:
    """A distance of 2.25 strides: three quarters of the cross-entropy of bin 2 and one of bin 3, mean of the sides."""
    criterion = AnchorFreeLoss(head=head)
    sides = torch.randn(1, 4, 8)
    point, stride = torch.tensor([[100.0, 60.0]]), torch.tensor([8.0])
    distances = np.array([2.25, 0.5, 6.75, 30.0])  # the last is beyond the bins: as far as they reach
    goal = torch.tensor([[100 - 18.0, 60 - 4.0, 100 + 54.0, 60 + 240.0]])
    logs = torch.log_softmax(sides[0].double(), dim=1).numpy()
    expected = 0.0
    for side, distance in enumerate(np.minimum(distances, 7 - 0.01)):
        low = int(distance)
        expected -= ((1 - (distance - low)) * logs[side, low] + (distance - low) * logs[side, low + 1]) / 4
    assert float(criterion._distribution_loss(sides, goal, point, stride)) == pytest.approx(expected, rel=1e-5)


def test_a_crowd_region_is_no_background(head: AnchorFreeHead) -> None:
    maps = raw_maps(head, batch=1)
    with torch.no_grad():
        for raw in maps:
            raw[:, : 4 * head.bins] = 0
            raw[:, : 4 * head.bins].view(1, 4, head.bins, *raw.shape[2:])[:, :, 0] = 20  # boxes of no size
    terms = AnchorFreeLoss(head=head)(maps, objects((0, 0, 0, 0, 32, 64), crowd=True))
    terms["class"].backward()
    inside, outside = maps[0].grad[0, 4 * head.bins :, :, :4], maps[0].grad[0, 4 * head.bins :, :, 4:]
    assert (outside != 0).all()
    assert maps[1].grad[0, 4 * head.bins :, :, 2:].count_nonzero() == 3 * 4 * 2
    assert inside.count_nonzero() in (0, inside.numel())


def test_a_batch_in_parts_has_the_sum_of_the_parts_before_division(head: AnchorFreeHead) -> None:
    maps = raw_maps(head)
    one, two = (0, 1, 10, 12, 30, 40), (1, 2, 3, 3, 29, 30)
    criterion = AnchorFreeLoss(head=head)

    def sums(raw: list[torch.Tensor], targets: Targets) -> dict[str, float]:
        sides, logits = head.flatten(raw)
        points, strides = head.points(raw)
        boxes = head.decode_boxes(sides, points, strides)
        total = criterion.assigner(targets, boxes, logits, points, strides).score.sum().clamp(min=1)
        return {name: float((value * total).detach()) for name, value in criterion(raw, targets).items()}

    whole = sums(maps, objects(one, two))
    first = sums([raw[:1] for raw in maps], objects(one))
    second = sums([raw[1:] for raw in maps], objects((0, *two[1:])))
    for name in whole:
        assert whole[name] == pytest.approx(first[name] + second[name], rel=1e-5)


# One-to-one branches


def small_detector(*, one_to_one: bool) -> Detector:
    torch.manual_seed(2)
    small = ["backbone.channels=[8, 16, 24, 32]", "neck.channels=[8, 16, 24]", "neck.out_channels=[8, 8, 8]"]
    return build_model(load_model_config("cspdet-n-af", [*small, f"head.one_to_one={str(one_to_one).lower()}"]), 3)


@pytest.mark.parametrize("assigner", ["task_aligned", "simota"])
@pytest.mark.parametrize("empty", [True, False])
def test_one_to_one_branches_leave_the_rest_of_the_training_alone(assigner: str, empty: bool) -> None:
    """Every parameter has a gradient, without objects too (DDP waits for all); those shared are equal bit for bit."""
    targets = Targets.empty() if empty else objects((0, 1, 10, 12, 30, 40), (1, 2, 3, 3, 59, 60), (1, 0, 8, 8, 40, 60))
    images, gradients, losses = torch.rand(2, 3, 64, 64), [], []
    for one_to_one in (False, True):
        model = small_detector(one_to_one=one_to_one)
        terms = build_criterion(model, {"assigner": {"type": assigner}}, where="loss")(model(images), targets)
        sum(terms.values()).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
        losses.append({name: float(value.detach()) for name, value in terms.items()})
    assert all(gradient is not None for gradient in gradients[1].values())
    assert all(torch.equal(gradient, gradients[1][name]) for name, gradient in gradients[0].items())
    assert list(losses[0]) == ["box", "distribution", "class"]
    assert list(losses[1]) == [*losses[0], *(f"{name}_one_to_one" for name in losses[0])]
    assert losses[1].items() >= losses[0].items()


@pytest.mark.parametrize("assigner", [{"type": "task_aligned", "top_k": 7, "alpha": 0.9}, {"type": "simota"}])
def test_one_to_one_means_one_positive_an_object(assigner: dict, head: AnchorFreeHead) -> None:
    criterion = AnchorFreeLoss(head=head, assigner=assigner)
    targets = objects((0, 1, 2, 2, 30, 30), (0, 1, 34, 34, 62, 62), (1, 2, 3, 3, 59, 60), (1, 0, 0, 0, 9, 9))
    for seed in range(5):
        torch.manual_seed(seed)
        sides, logits = head.flatten([raw.detach() for raw in raw_maps(head)])
        points, strides = head.points(raw_maps(head))
        boxes = head.decode_boxes(sides, points, strides)
        one = criterion.one_to_one_assigner(targets, boxes, logits.sigmoid(), points, strides)
        many = criterion.assigner(targets, boxes, logits, points, strides)
        assert sorted(one.target.tolist()) == [0, 1, 2, 3]
        assert len(many.target) > 4
        if assigner["type"] == "task_aligned":  # of an object's positives the most aligned, which wants its own IoU
            assert vars(criterion.one_to_one_assigner) == {**vars(criterion.assigner), "top_k": 7, "one_to_one": True}
            chosen = set(zip(many.image.tolist(), many.point.tolist(), strict=True))
            assert chosen >= set(zip(one.image.tolist(), one.point.tolist(), strict=True))
    boxes = targets.boxes[[0, 2]].float()[:, None].expand(2, len(points), 4)  # every point predicts an object exactly
    one = criterion.one_to_one_assigner(targets, boxes, logits.sigmoid(), points, strides)
    many = criterion.assigner(targets, boxes, logits, points, strides)
    assert one.target.bincount().max() == 1 < many.target.bincount().max()


def test_descending_the_one_to_one_loss_finds_each_object_once() -> None:
    """Every point is free to learn anything; of those in an object one remains, where one-to-many leaves several."""
    head = AnchorFreeHead(features=Features((8, 8), (8, 16)), num_classes=3, bins=8, depth=0, one_to_one=True)
    maps = [raw.detach().requires_grad_() for raw in (*raw_maps(head), *raw_maps(head))]
    rows = ((0, 1, 10, 12, 30, 40), (1, 2, 3, 3, 9, 10), (1, 0, 8, 8, 60, 60))
    criterion, optimizer = AnchorFreeLoss(head=head), torch.optim.Adam(maps, lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        sum(criterion(maps, objects(*rows)).values()).backward()
        optimizer.step()
    counts = []
    for raw in (maps[:2], maps[2:]):
        boxes, scores = head.decode([each.detach() for each in raw])
        counts.append(int((scores > 0.4).sum()))
    assert counts[1] == len(rows) < counts[0]
    for image, label, *truth in rows:  # of the one-to-one maps, the last
        best = scores[image, :, label].argmax()
        torch.testing.assert_close(boxes[image, best], torch.tensor(truth).float(), atol=1.0, rtol=0)


def test_the_weight_of_the_first_branches_follows_the_training() -> None:
    head = AnchorFreeHead(features=Features((8, 8), (8, 16)), num_classes=3, bins=8, depth=0, one_to_one=True)
    maps, targets = [*raw_maps(head), *raw_maps(head)], objects((0, 1, 10, 12, 30, 40), (1, 2, 3, 3, 9, 10))
    plain, criterion = AnchorFreeLoss(head=head)(maps, targets), AnchorFreeLoss(head=head, one_to_many=[0.8, 0.1])
    for progress, weight in ((0.0, 0.8), (0.5, 0.45), (0.75, 0.275), (0.0, 0.8)):
        criterion.begin_batch(index=0, count=1, progress=progress)
        for name, value in criterion(maps, targets).items():
            share = 1 if name.endswith("one_to_one") else weight
            assert float(value.detach()) == pytest.approx(share * float(plain[name].detach()), rel=1e-6)


def test_a_weight_of_branches_that_are_not_there_is_refused(head: AnchorFreeHead) -> None:
    with pytest.raises(ValueError, match="the head has no one-to-one branches"):
        AnchorFreeLoss(head=head, one_to_many=[0.8, 0.1])
    head.one_to_one = True
    for wrong in ([0.8], [0.8, -0.1]):
        with pytest.raises(ValueError, match="two numbers of at least 0"):
            AnchorFreeLoss(head=head, one_to_many=wrong)


def test_the_loss_of_empty_images_takes_the_maps_of_either_mode() -> None:
    model, images = small_detector(one_to_one=True), torch.rand(1, 3, 64, 64, requires_grad=True)
    background = build_criterion(model, {}, where="loss").background
    while_training, alone = model(images), model.eval()(images)
    parts = [float(background(raw).detach()) for raw in (while_training[:3], while_training[3:])]
    assert float(background(while_training).detach()) == pytest.approx(sum(parts), rel=1e-5)
    (gradient,) = torch.autograd.grad(background(alone), images)
    assert gradient.count_nonzero()
