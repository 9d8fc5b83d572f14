"""Boxes in crowd regions."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import box_iou

from models.losses.crowd import CHUNK, in_crowd, overlaps_object
from utils.structures import Targets


def targets(boxes: list | torch.Tensor, images: list[int] | torch.Tensor) -> Targets:
    boxes, index = torch.as_tensor(boxes).float().view(-1, 4), torch.as_tensor(images, dtype=torch.int64)
    return Targets(boxes, torch.zeros_like(index), index, torch.ones_like(index).bool())


def test_no_boxes_and_no_regions() -> None:
    assert in_crowd(torch.zeros(1, 0, 4), targets(torch.zeros(2, 4), [0, 0])).shape == (1, 0)
    assert in_crowd(torch.rand(1, 3, 4), targets([], [])).tolist() == [[False] * 3]


def test_a_box_lies_in_a_region_with_more_than_half_of_its_area() -> None:
    regions = targets([[0, 0, 10, 10], [50, 50, 90, 60]], [0, 0])
    boxes = [[2, 2, 6, 6], [0, 0, 20, 10], [0, 0, 19, 10], [50, 50, 90, 69], [20, 20, 30, 30], [5, 5, 5, 5]]
    found = in_crowd(torch.tensor([boxes]).float(), regions)
    assert found.tolist() == [[True, False, True, True, False, False]]


@pytest.mark.parametrize("count", [0, 1, 2 * CHUNK + 3])
def test_an_object_counts_in_its_own_image_alone(count: int) -> None:
    torch.manual_seed(count)
    low = torch.rand(3, 50, 2) * 40
    boxes = torch.cat((low, low + torch.rand(3, 50, 2) * 30), dim=2)
    corner, images = torch.rand(count, 2) * 40, torch.randint(0, 3, (count,))
    objects = targets(torch.cat((corner, corner + 1 + torch.rand(count, 2) * 30), dim=1), images)
    found = overlaps_object(boxes, objects, 0.4)
    for image in range(3):
        mine = objects.boxes[images == image]
        expected = (box_iou(boxes[image], mine) > 0.4).any(dim=1) if len(mine) else torch.zeros(50).bool()
        assert torch.equal(found[image], expected)
