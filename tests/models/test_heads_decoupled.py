"""models/heads/decoupled.py: values of cells to boxes and back."""

from __future__ import annotations

import math

import pytest
import torch

from models.heads.decoupled import DecoupledHead
from utils.structures import Features

FEATURES = Features((8, 12), (8, 16))


def head(classes: int = 3, *, depthwise: bool = False, one_class: bool = False) -> DecoupledHead:
    return DecoupledHead(
        features=FEATURES, num_classes=classes, channels=6, depth=1, depthwise=depthwise, one_class=one_class
    )


def raw_maps(classes: int = 3) -> list[torch.Tensor]:
    return [torch.randn(2, 5 + classes, *size) for size in ((3, 4), (2, 2))]


@pytest.mark.parametrize("depthwise", [False, True])
def test_a_fresh_head_finds_next_to_nothing(depthwise: bool) -> None:
    maps = [torch.rand(2, 8, 4, 6), torch.rand(2, 12, 2, 3)]
    raw = head(depthwise=depthwise)(maps)
    assert [tuple(each.shape) for each in raw] == [(2, 8, 4, 6), (2, 8, 2, 3)]
    assert all((each[:, 4:].sigmoid() < 0.2).all() for each in raw)


def test_the_decode_is_that_of_the_definition() -> None:
    """Against a loop over one prediction after the other."""
    raw = raw_maps()
    boxes, scores = head().decode(raw)
    place = 0
    for values, stride in zip(raw, (8, 16), strict=True):
        for row in range(values.shape[2]):
            for column in range(values.shape[3]):
                tx, ty, tw, th, objectness, *classes = values[1, :, row, column].double().tolist()
                x, y, w, h = (column + tx) * stride, (row + ty) * stride, math.exp(tw) * stride, math.exp(th) * stride
                expected = torch.tensor([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
                torch.testing.assert_close(boxes[1, place], expected, rtol=1e-5, atol=1e-4)
                wanted = [1 / (1 + math.exp(-objectness)) / (1 + math.exp(-each)) for each in classes]
                torch.testing.assert_close(scores[1, place], torch.tensor(wanted))
                place += 1
    assert place == boxes.shape[1]


@pytest.mark.parametrize("one_class", [False, True])
@pytest.mark.parametrize("least", [0.0, 0.2, 0.9999])
def test_candidates_are_those_of_the_whole_decode(least: float, one_class: bool) -> None:
    raw = raw_maps()
    boxes, scores = head(one_class=one_class).decode(raw)
    some_boxes, some_scores = head(one_class=one_class).decode_above(raw, least)
    for image in range(2):
        rows, places = (scores[image] > least).nonzero(as_tuple=True)
        some_rows, some_places = (some_scores[image] > least).nonzero(as_tuple=True)
        torch.testing.assert_close(some_boxes[image, some_rows], boxes[image, rows])
        torch.testing.assert_close(some_scores[image, some_rows, some_places], scores[image, rows, places])
        assert torch.equal(places, some_places)


def test_a_box_has_one_class_where_it_is_asked_for() -> None:
    raw = raw_maps()
    _, all_scores = head().decode(raw)
    _, scores = head(one_class=True).decode(raw)
    assert ((scores > 0).sum(dim=2) == 1).all()
    assert torch.equal(scores.amax(dim=2), all_scores.amax(dim=2))
    assert torch.equal(scores.argmax(dim=2), all_scores.argmax(dim=2))


def test_a_box_stays_finite_whatever_the_head_says() -> None:
    raw = [torch.full((1, 8, 2, 2), 1e4), torch.full((1, 8, 1, 1), -1e4)]
    boxes, scores = head().decode(raw)
    assert boxes.isfinite().all()
    assert scores.isfinite().all()


def test_a_head_without_width_is_refused() -> None:
    with pytest.raises(ValueError, match="channels of at least 1 and a depth of at least 0, found 0 and 2"):
        DecoupledHead(features=FEATURES, num_classes=3, channels=0)
