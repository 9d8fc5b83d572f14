"""The cells of a map, which a head's boxes start from, and which of them may have found something."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def cell_grid(height: int, width: int, *, like: Tensor) -> Tensor:
    """(height, width, 2) column and row of each cell of a map, on the device and of the type of `like`."""
    # type_as, because a trace (TorchScript) keeps the device of arange and must follow the images all the same.
    rows = torch.arange(height, device=like.device).type_as(like)
    columns = torch.arange(width, device=like.device).type_as(like)
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)


def least_logit(score: float) -> float:
    """A number that the logit of every sigmoid above `score` exceeds, whatever the rounding.

    >>> round(least_logit(0.5), 3), least_logit(0), least_logit(1) < 20
    (-0.001, -inf, True)
    """
    if score <= 0:
        return -math.inf
    score = min(score, 1 - 1e-7)
    return math.log(score / (1 - score)) - 1e-3
