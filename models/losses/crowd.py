"""Crowd regions, which are neither objects nor background: which boxes lie in them."""

from __future__ import annotations

import torch
from torch import Tensor

COVERED = 0.5
"""A box lies in a crowd region from more than this share of its area on."""


def in_crowd(boxes: Tensor, regions: Tensor) -> Tensor:
    """(N,) bool: which boxes lie in one of the regions, by the share of the box's area, as COCO matches crowds.

    Args:
        boxes, regions: (N, 4) and (M, 4) xyxy in one unit.
    """
    low, high = torch.maximum(boxes[:, None, :2], regions[:, :2]), torch.minimum(boxes[:, None, 2:], regions[:, 2:])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=-1).clamp(min=1e-6)
    share = (high - low).clamp(min=0).prod(dim=-1) / area[:, None]
    return (share > COVERED).any(dim=1)
