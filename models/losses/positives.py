"""The positives of an anchor head, on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from models.assigners.anchor import Assignment
from utils.structures import Targets


class Positives(NamedTuple):
    """What an Assignment says of one level, on the device.

    Args:
        cells: image, anchor, row and column of each positive, (P,) int64.
        labels: (P,) int64; goals: (P, 4) xyxy pixels.
    """

    cells: tuple[Tensor, ...]
    labels: Tensor
    goals: Tensor

    @classmethod
    def of(cls, assignments: Sequence[Assignment], objects: Targets, device: torch.device) -> list[Positives]:
        """Those of each level, taken to the device in one piece.

        Args:
            objects: what the assignments are of, on the host, as they are.
        """
        places = [torch.stack((a.image, a.anchor, a.row, a.column, objects.labels[a.target])) for a in assignments]
        table = torch.cat(places, dim=1).to(device, non_blocking=True)
        goals = torch.cat([objects.boxes[a.target] for a in assignments]).to(device, non_blocking=True)
        counts = [len(assignment) for assignment in assignments]
        levels = zip(table.split(counts, dim=1), goals.split(counts), strict=True)
        return [cls(tuple(part[:4]), part[4], goal) for part, goal in levels]
