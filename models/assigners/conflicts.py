"""Which object a point answers for where several want it, and which point an object keeps where it has several."""

from __future__ import annotations

import torch
from torch import Tensor


def one_object_a_point(claims: Tensor, merit: Tensor, point: Tensor, image_index: Tensor, shape: torch.Size) -> Tensor:
    """(M, k) `claims`, each point of an image left to the object with the highest merit, the first of equals.

    Args:
        claims, merit, point: (M, k) of each object's candidates.
        image_index: (M,); shape: of the predicted boxes (B, N, 4).
    """
    merit = merit.masked_fill(~claims, -torch.inf)
    place = image_index[:, None] * shape[1] + point
    everywhere, flat = shape[0] * shape[1], place.flatten()
    best = merit.new_full((everywhere,), -torch.inf).scatter_reduce(0, flat, merit.flatten(), reduce="amax")
    wins = claims & (merit == best[place])
    order = torch.arange(len(merit), device=merit.device)[:, None].expand_as(merit).masked_fill(~wins, len(merit))
    first = order.new_full((everywhere,), len(merit)).scatter_reduce(0, flat, order.flatten(), reduce="amin")
    return wins & (order == first[place])


def one_point_an_object(claims: Tensor, merit: Tensor, point: Tensor, image_index: Tensor, shape: torch.Size) -> Tensor:
    """(M, k) at most one of each object's `claims`, and no point twice.

    Conflicts are settled first, as in `one_object_a_point`; of the points left to it an object keeps the best one. An
    object that lost all its points then takes the best of them that no object keeps, so it has none only where others
    keep every one of its candidates.

    Args:
        claims, merit, point: (M, k) of each object's candidates, best first.
        image_index, shape: as in `one_object_a_point`.
    """
    place = image_index[:, None] * shape[1] + point
    kept = _first(one_object_a_point(claims, merit, point, image_index, shape))
    for _ in range(claims.shape[1]):  # in each round, who has no point gets one or loses one more candidate
        held = merit.new_zeros(shape[0] * shape[1]).scatter_add_(0, place.flatten(), kept.flatten().to(merit.dtype))
        free = claims & (held[place] == 0) & ~kept.any(dim=1, keepdim=True)
        kept = kept | one_object_a_point(_first(free), merit, point, image_index, shape)
    return kept


def _first(flags: Tensor) -> Tensor:
    """(M, k) the first True of each row alone."""
    return flags & (flags.cumsum(dim=1) == 1)
