"""The cells of a map."""

from __future__ import annotations

import torch

from models.heads.grid import cell_grid


def test_each_cell_has_its_column_and_row() -> None:
    grid = cell_grid(2, 3, like=torch.zeros((), dtype=torch.float64))
    assert grid.dtype == torch.float64
    assert grid.tolist() == [[[0, 0], [1, 0], [2, 0]], [[0, 1], [1, 1], [2, 1]]]
    assert cell_grid(0, 3, like=torch.zeros(())).shape == (0, 3, 2)
