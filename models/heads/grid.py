"""The cells of a map, which a head's boxes start from."""

from __future__ import annotations

import torch
from torch import Tensor


def cell_grid(height: int, width: int, *, like: Tensor) -> Tensor:
    """(height, width, 2) column and row of each cell of a map, on the device and of the type of `like`."""
    # type_as, because a trace (TorchScript) keeps the device of arange and must follow the images all the same.
    rows = torch.arange(height, device=like.device).type_as(like)
    columns = torch.arange(width, device=like.device).type_as(like)
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
