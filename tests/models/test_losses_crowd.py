"""Boxes in crowd regions."""

from __future__ import annotations

import torch

from models.losses.crowd import in_crowd


def test_no_boxes_and_no_regions() -> None:
    assert in_crowd(torch.zeros(0, 4), torch.zeros(2, 4)).shape == (0,)
    assert in_crowd(torch.rand(3, 4), torch.zeros(0, 4)).tolist() == [False] * 3


def test_a_box_lies_in_a_region_with_more_than_half_of_its_area() -> None:
    regions = torch.tensor([[0.0, 0, 10, 10], [50, 50, 90, 60]])
    boxes = [[2, 2, 6, 6], [0, 0, 20, 10], [0, 0, 19, 10], [50, 50, 90, 69], [20, 20, 30, 30], [5, 5, 5, 5]]
    assert in_crowd(torch.tensor(boxes).float(), regions).tolist() == [True, False, True, True, False, False]
