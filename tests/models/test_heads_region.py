"""models/heads/region.py: YOLOv2's decode."""

from __future__ import annotations

import pytest
import torch

from models.heads.anchor import AnchorHead
from models.heads.region import RegionHead
from utils.structures import Features

ANCHORS = [[20, 30, 60, 40]]
FEATURES = Features((4,), (32,))


def make_head(**options: object) -> RegionHead:
    return RegionHead(features=FEATURES, num_classes=3, anchors=ANCHORS, **options)


def test_boxes_are_those_of_yolov3_and_classes_share_a_softmax() -> None:
    head, other = make_head(), AnchorHead(features=FEATURES, num_classes=3, anchors=ANCHORS)
    raw = [torch.randn(2, 16, 3, 5)]
    (boxes, scores), (expected, _) = head.decode(raw), other.decode(raw)
    torch.testing.assert_close(boxes, expected)
    values = raw[0].view(2, 2, 8, 15).permute(0, 1, 3, 2).reshape(2, 30, 8)
    torch.testing.assert_close(scores, values[..., 5:].softmax(-1) * values[..., 4:5].sigmoid())
    torch.testing.assert_close(scores.sum(-1), values[..., 4].sigmoid())
    _, scores = make_head(softmax=False).decode(raw)
    torch.testing.assert_close(scores, values[..., 5:].sigmoid() * values[..., 4:5].sigmoid())
    empty, none = head.decode([torch.zeros(0, 16, 3, 5)])
    assert (empty.shape, none.shape) == ((0, 30, 4), (0, 30, 3))


@pytest.mark.parametrize("softmax", [True, False])
def test_boxes_without_a_score_may_be_left_out(softmax: bool) -> None:
    head, raw = make_head(softmax=softmax), [3 * torch.randn(2, 16, 3, 5)]
    boxes, scores = head.decode(raw)
    some, high = head.decode_above(raw, 0.3)
    assert 0 < some.shape[1] < boxes.shape[1]
    for image in range(2):
        expected = boxes[image][(scores[image] > 0.3).any(dim=1)]
        torch.testing.assert_close(some[image][(high[image] > 0.3).any(dim=1)], expected)


def test_training_starts_at_half_and_what_the_loss_counts_is_saved() -> None:
    head = make_head()
    assert not head.convs[0].bias.any()
    assert head.state_dict()["seen"].item() == 0
    with pytest.raises(
        ValueError, match="object_scale, noobject_scale, coord_scale, class_scale: expected numbers fro"
    ):
        make_head(coord_scale=-1)
