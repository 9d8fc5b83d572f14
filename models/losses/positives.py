"""The positives of an anchor head on the device, and what the head predicts for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

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


def pick(values: Tensor, cells: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """(P, 5 + C) the predictions of `cells`, and (B, A, h, w) the objectness logits of all.

    As `values[cells], values[..., 4]`, whose gradients would be two tensors of the size of `values` and their sum.

    Args:
        values: (B, A, h, w, 5 + C).
        cells: image, anchor, row and column of each positive, (P,) int64; they may repeat.
    """
    found, objectness = _Pick.apply(values, *cells)
    return found, objectness


class _Pick(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, *cells: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(*cells)
        ctx.shape, ctx.strides = values.shape, values.stride()
        return values[cells], values[..., 4].contiguous()

    @staticmethod
    def backward(ctx: Any, for_found: Tensor, for_objectness: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        cells = ctx.saved_tensors
        gradient = for_objectness.new_empty_strided(ctx.shape, ctx.strides).zero_()
        gradient[..., 4] = for_objectness
        gradient.index_put_(cells, for_found, accumulate=True)
        return gradient, *(None for _ in cells)
