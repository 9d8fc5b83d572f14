"""Predictions of positives, taken out of all predictions together with what all of them are trained on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def pick(values: Tensor, places: tuple[Tensor, ...], part: slice) -> tuple[Tensor, Tensor]:
    """(P, D) the predictions at `places`, and (..., d) a part of every prediction.

    As `values[places], values[..., part]`, whose gradients would be two tensors of the size of `values` and their sum.

    Args:
        values: (..., D) predictions.
        places: an index for each dimension but the last, (P,) int64; they may repeat.
    """
    found, rest = _Pick.apply(values, part, *places)
    return found, rest


class _Pick(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, part: slice, *places: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(*places)
        ctx.part, ctx.shape, ctx.strides = part, values.shape, values.stride()
        return values[places], values[..., part].contiguous()

    @staticmethod
    def backward(ctx: Any, for_found: Tensor, for_rest: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        places = ctx.saved_tensors
        gradient = for_rest.new_empty_strided(ctx.shape, ctx.strides).zero_()
        gradient[..., ctx.part] = for_rest
        gradient.index_put_(places, for_found, accumulate=True)
        return gradient, None, *(None for _ in places)
