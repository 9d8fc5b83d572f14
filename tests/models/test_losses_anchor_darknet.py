"""The loss as darknet has it: class counters, its divisor, and its gradient of the box losses."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from models.build import build_criterion
from models.detector import Detector
from tests.models.test_losses_anchor import (
    ANCHORS,
    CLASSES,
    FEATURES,
    HEIGHT,
    OBJECTS,
    SIZES,
    WIDTH,
    box_losses_by_hand,
    logistic,
    make_head,
    make_loss,
    make_targets,
    random_raw,
    total,
)
from utils.structures import Targets


def test_counts_of_the_training_set_become_factors() -> None:
    model = Detector(torch.nn.Conv2d(1, 1, 1), torch.nn.Identity(), make_head())
    loss = build_criterion(model, {"class_counters": "auto"}, where="r", class_counts=(5, 20, 0))
    assert loss.class_factors.tolist() == [4.0, 1.0, 1.0]
    assert "class_factors" not in loss.state_dict()
    assert build_criterion(model, {}, where="r", class_counts=(5, 20, 0)).class_factors is None


@pytest.mark.parametrize("images", [2, 3])
def test_a_batch_with_hardly_an_object_is_divided_by_its_images(images: int) -> None:
    """Else all its background would be weighed against one positive."""
    loss = make_loss(assigner={"type": "anchor_iou", "iou_thresh": 1})
    raw = random_raw(images)
    one, none = loss(raw, make_targets(OBJECTS[:1])), loss(raw, Targets.empty())
    assert none["objectness"].item() == pytest.approx(loss.background(raw).item() / images, rel=1e-5)
    assert one["objectness"].item() == pytest.approx(none["objectness"].item(), rel=0.1)


def slope_by_hand(loss: Callable[[np.ndarray], float], place: np.ndarray) -> np.ndarray:
    """The gradient by central differences in float64."""
    return np.array([(loss(place + step) - loss(place - step)) / 2e-7 for step in np.eye(len(place)) * 1e-7])


def darknet_delta(t: np.ndarray, cell: tuple[int, int], anchor: np.ndarray, goal: np.ndarray, box: str) -> np.ndarray:
    """The gradient of docs/networks.md, Targets and losses, item 5, at tx, ty, tw, th of the first level."""
    sides = np.array([WIDTH, HEIGHT])

    def corners(shares: np.ndarray) -> np.ndarray:
        """Of a box (x, y, w, h), each as a share of the image."""
        centre, size = shares[:2] * sides, shares[2:] * sides
        return np.concatenate((centre - size / 2, centre + size / 2))

    def aspect(shares: np.ndarray) -> float:
        (w, h), (v, g) = shares[2:] * sides, goal[2:] - goal[:2]
        return 4 / math.pi**2 * (math.atan(v / g) - math.atan(w / h)) ** 2

    offset = 1.1 * logistic(t[:2]) - 0.05
    shares = np.concatenate(((np.array(cell) + offset) * FEATURES.strides[0], anchor * np.exp(t[2:4]))) / np.tile(
        sides, 2
    )
    slope = slope_by_hand(lambda x: box_losses_by_hand(corners(x), goal)["diou" if box == "ciou" else box], shares)
    if box == "ciou":  # no gradient through the weight of the aspect
        weight = aspect(shares) / (box_losses_by_hand(corners(shares), goal)["iou"] + aspect(shares))
        slope += weight * slope_by_hand(aspect, shares)
    return slope * np.concatenate((np.ones(2), np.exp(t[2:4])))


@pytest.mark.parametrize("box", ["ciou", "giou", "diou", "iou"])
@pytest.mark.parametrize("max_delta", [None, 2.0])
def test_darknets_gradient_of_the_box_losses(box: str, max_delta: float | None) -> None:
    one_anchor = {"type": "anchor_iou", "iou_thresh": 1}
    options = {"box": box, "box_gain": 4.0, "objectness_gain": 0, "class_gain": 0, "assigner": one_anchor}
    exact, loss = make_loss(**options), make_loss(**options, box_gradient="darknet", max_delta=max_delta)
    raw = [torch.randn(1, 2 * (5 + CLASSES), h, w).mul_(0.3).requires_grad_() for h, w in SIZES]
    targets = make_targets([(0, 2, 10, 10, 25, 28)])
    terms = loss(raw, targets)
    assert terms["box"].item() == pytest.approx(exact(raw, targets)["box"].item(), rel=1e-6)
    terms["box"].backward()
    found = loss.assigner(targets, loss.head.anchors, loss.head.strides, SIZES)[0]
    place = tuple(int(p[0]) for p in (found.image, found.anchor, found.row, found.column))
    t = loss.head.split(raw[0].detach(), 0)[place].double().numpy()
    anchor = np.reshape(ANCHORS[0], (-1, 2))[place[1]]
    expected = 4 * darknet_delta(t, (place[3], place[2]), anchor, targets.boxes[0].double().numpy(), box)
    if max_delta is not None:
        assert np.abs(expected).max() > max_delta, "the limit is at work"
        expected = expected.clip(-max_delta, max_delta)
    np.testing.assert_allclose(loss.head.split(raw[0].grad, 0)[place][:4].numpy(), expected, rtol=1e-3, atol=1e-3)


def test_darknets_gradient_of_the_squared_error_has_no_sigmoid_in_it() -> None:
    head = make_head(scale_xy=1.2)
    loss = make_loss(
        head,
        box="mse",
        box_gradient="darknet",
        box_gain=0.75,
        normalize="images",
        objectness_target="one",
        assigner={"type": "anchor_iou", "iou_thresh": 1},
    )
    raw = [torch.zeros(1, 2 * (5 + CLASSES), h, w).requires_grad_() for h, w in SIZES]
    total(loss(raw, make_targets([(0, 0, 15, 11, 29, 25)]))).backward()
    tx, ty, tw, th, objectness, *classes = head.split(raw[0].grad, 0)[0, 0, 2, 2].tolist()
    factor = 0.75 * (2 - 14 * 14 / (WIDTH * HEIGHT))
    assert [tx, ty] == pytest.approx([(0.5 - 0.75) * factor, (0.5 - 0.25) * factor], rel=1e-5)
    assert [tw, th] == pytest.approx([-math.log(14 / 12) * factor, -math.log(14 / 16) * factor], rel=1e-5)
    assert [objectness, *classes] == pytest.approx([0.5 - 1, 0.5 - 1, 0.5, 0.5], rel=1e-5), (
        "output less target, as there"
    )
