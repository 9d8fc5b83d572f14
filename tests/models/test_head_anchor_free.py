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
