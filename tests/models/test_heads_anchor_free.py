"""models/heads/anchor_free.py: distributions to boxes and back."""

from __future__ import annotations

import pytest
import torch

from models.heads.anchor_free import AnchorFreeHead
from utils.structures import Features

FEATURES = Features((8, 12), (8, 16))


def test_the_maps_have_a_value_for_every_bin_and_class() -> None:
    head = AnchorFreeHead(features=FEATURES, num_classes=3, bins=5, depth=1)
    raw = head([torch.zeros(2, 8, 4, 6), torch.zeros(2, 12, 2, 3)])
    assert [tuple(each.shape) for each in raw] == [(2, 23, 4, 6), (2, 23, 2, 3)]
    boxes, scores = head.decode(raw)
    assert boxes.shape == (2, 30, 4)
    assert scores.shape == (2, 30, 3)
    assert ((scores > 0) & (scores < 0.01)).all(), "objects are rare at the start"


@pytest.mark.parametrize("bins", [1, 16])
def test_every_side_starts_about_two_strides_away(bins: int) -> None:
    """Small enough for small objects to meet: flat distributions would start boxes of 15 strides."""
    head = AnchorFreeHead(features=FEATURES, num_classes=2, bins=bins)
    for branch in head.box_branches:
        torch.nn.init.zeros_(branch[-1].weight)
    raw = head([torch.zeros(1, 8, 4, 6), torch.zeros(1, 12, 2, 3)])
    boxes, _ = head.decode(raw)
    _, strides = head.points(raw)
    sides = (boxes[0, :, 2:] - boxes[0, :, :2]) / 2 / strides[:, None]
    torch.testing.assert_close(sides, torch.full_like(sides, 2), rtol=0, atol=0.05)


@pytest.mark.parametrize("bins", [1, 16])
def test_the_decode_is_that_of_the_definition(bins: int) -> None:
    """Against a loop in float64 over one prediction after the other."""
    head = AnchorFreeHead(features=FEATURES, num_classes=2, bins=bins)
    raw = [torch.randn(1, 4 * bins + 2, *size) for size in ((3, 4), (2, 2))]
    boxes, scores = head.decode(raw)
    place = 0
    for level, stride in enumerate((8, 16)):
        _, _, height, width = raw[level].shape
        for row in range(height):
            for column in range(width):
                values = raw[level][0, :, row, column].double()
                x, y = (column + 0.5) * stride, (row + 0.5) * stride
                sides = []
                for side in range(4):
                    logits = values[side * bins : (side + 1) * bins]
                    weights = logits.exp() / logits.exp().sum()
                    mean = (1 + logits.exp()).log() if bins == 1 else sum(k * weights[k] for k in range(bins))
                    sides.append(float(mean) * stride)
                expected = torch.tensor([x - sides[0], y - sides[1], x + sides[2], y + sides[3]])
                torch.testing.assert_close(boxes[0, place], expected, rtol=1e-5, atol=1e-4)
                torch.testing.assert_close(scores[0, place], (1 / (1 + (-values[4 * bins :]).exp())).float())
                place += 1
    assert place == boxes.shape[1]


def test_a_depthwise_class_branch_is_smaller_and_options_are_checked() -> None:
    sizes = [
        sum(p.numel() for p in AnchorFreeHead(features=FEATURES, num_classes=2, depthwise=each).parameters())
        for each in (False, True)
    ]
    assert sizes[1] < sizes[0]
    with pytest.raises(ValueError, match="bins of at least 1"):
        AnchorFreeHead(features=FEATURES, num_classes=2, bins=0)


def make(**options: object) -> AnchorFreeHead:
    torch.manual_seed(3)
    return AnchorFreeHead(features=FEATURES, num_classes=3, bins=4, depth=1, **options)


def neck_maps() -> list[torch.Tensor]:
    return [torch.randn(2, 8, 4, 6, requires_grad=True), torch.randn(2, 12, 2, 3, requires_grad=True)]


def test_without_one_to_one_nothing_is_different() -> None:
    """The first pair of branches has the same names and the same initial numbers, and computes the same."""
    plain, both, maps = make(), make(one_to_one=True), neck_maps()
    own = plain.state_dict()
    assert {name.partition(".")[0] for name in own} == {"box_branches", "class_branches"}
    others = {name: value for name, value in both.state_dict().items() if not name.startswith("one_to_one_")}
    assert list(others) == list(own)
    assert all(torch.equal(value, own[name]) for name, value in others.items())
    assert len(both.state_dict()) == 2 * len(own)
    for one, two in zip(plain(maps), both(maps)[:2], strict=True):
        assert torch.equal(one, two)


def test_evaluation_computes_the_one_to_one_branches_alone() -> None:
    """The maps are those of a plain head with these branches, which is also what `keep_one_to_one_` leaves."""
    head, plain, maps = make(one_to_one=True).eval(), make().eval(), neck_maps()
    state = head.state_dict()
    copied = {name.removeprefix("one_to_one_"): value for name, value in state.items() if name.startswith("one_to_one")}
    assert any(not torch.equal(state[name], value) for name, value in copied.items())
    plain.load_state_dict(copied)
    expected, found = plain(maps), head(maps)
    head.keep_one_to_one_()
    assert head.state_dict().keys() == plain.state_dict().keys()
    for raw in (found, head(maps)):
        assert len(raw) == len(expected) == 2
        assert all(torch.equal(one, two) for one, two in zip(raw, expected, strict=True))


def test_no_gradient_of_the_one_to_one_branches_reaches_the_neck_while_training() -> None:
    head, maps = make(one_to_one=True), neck_maps()
    raw = head(maps)
    assert len(raw) == 4
    sum(each.sum() for each in raw[2:]).backward()
    assert all(feature.grad is None for feature in maps)
    with_gradient = {name.partition(".")[0] for name, p in head.named_parameters() if p.grad is not None}
    assert with_gradient == {"one_to_one_box_branches", "one_to_one_class_branches"}
    sum(each.sum() for each in head(maps)[:2]).backward()
    assert all(feature.grad is not None for feature in maps)
    # In evaluation mode images have a gradient: self-adversarial training needs it.
    assert torch.autograd.grad(sum(each.sum() for each in head.eval()(maps)), maps[0])[0].count_nonzero()
