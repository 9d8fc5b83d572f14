"""Which object a point answers for where several want it, and which point an object keeps where it has several."""

from __future__ import annotations

import torch
from torch import Tensor


def settle(
    claims: Tensor,
    merit: Tensor,
    point: Tensor,
    image_index: Tensor,
    shape: torch.Size,
    *,
    lost: Tensor,
    one_to_one: bool,
) -> Tensor:
    """(M, k) the positives among `claims`: a point of an image is left to the object with the highest merit.

    Args:
        claims, merit, point: (M, k) of each object's candidates, best first. Of equal merits the first object's counts.
        image_index: (M,); shape: of the predicted boxes (B, N, 4).
        lost: (M, 1) objects that no box overlaps. Of the points left to them they keep the best alone.
        one_to_one: so does every object. One that lost all its points then takes the best of them that no object keeps,
            so that it has none only where others keep every one of its candidates.
    """
    everywhere, flat = shape[0] * shape[1], (image_index[:, None] * shape[1] + point).flatten()
    rank, none = _ranks(merit), merit.numel()

    def left_to(claims: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
        """(B * N) the best rank of `owner` and of the claims at each place, and (M, k) that of each candidate's."""
        bids = rank.where(claims, none).flatten()
        owner = owner.scatter_reduce(0, flat, bids, reduce="amin")
        return owner, owner[flat].view_as(rank)

    nobody = rank.new_full((everywhere,), none)
    settled = claims & (left_to(claims, nobody)[1] == rank)
    if not one_to_one:
        return torch.where(lost, _first(settled), settled)
    owner, here = left_to(_first(settled), nobody)
    for _ in range(claims.shape[1]):  # in each round, who has no point gets one or loses one more candidate
        free = claims & (here == none) & (here != rank).all(dim=1, keepdim=True)
        owner, here = left_to(_first(free), owner)
    return here == rank


def _ranks(merit: Tensor) -> Tensor:
    """(M, k) the place of each value among all, the highest first, the first of equals first."""
    order = merit.flatten().argsort(descending=True, stable=True)
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device)).view_as(merit)


def _first(flags: Tensor) -> Tensor:
    """(M, k) the first True of each row alone."""
    return flags & (flags.cumsum(dim=1) == 1)
