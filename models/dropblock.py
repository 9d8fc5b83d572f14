"""DropBlock: squares of a map left out while training (Ghiasi et al., arXiv:1810.12890)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, pad


class DropBlock(nn.Module):
    """Leaves out squares of a map while training; in evaluation, and so in every exported model, it is the identity.

    Args:
        probability: share that is left out.
        size: side of a square in cells; on a smaller map it covers the shorter side.
        rising: the share rises linearly from 0 at the start of the training to `probability` at its end; otherwise it
            is constant.
    """

    def __init__(self, *, probability: float, size: int = 7, rising: bool = True) -> None:
        super().__init__()
        self.probability = probability
        self.size = size
        self.rising = rising
        # A tensor, because a compiled model would be recompiled for each value of a Python number.
        self.current: Tensor
        self.register_buffer("current", torch.tensor(0.0 if rising else probability), persistent=False)

    def begin_batch(self, *, index: int, count: int, progress: float) -> None:
        """Set the share that is left out; `progress` is that of the training, in [0, 1]."""
        if self.rising:
            self.current.fill_(self.probability * progress)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return drop_block(x, self.current, self.size) if self.training else x


def drop_block(x: Tensor, probability: Tensor | float, size: int) -> Tensor:
    """A map with squares set to zero and the rest scaled up, so that the sum stays the same on average.

    Each channel of each image has its own squares, and every square lies inside the map.

    Args:
        x: (B, C, H, W).
        probability: share of the cells to leave out; overlapping squares make it less.
        size: side of a square in cells, cut to the shorter side of the map.
    Returns:
        (B, C, H, W), of the type of `x`.
    """
    height, width = x.shape[2:]
    size = min(size, height, width)
    positions = (height - size + 1, width - size + 1)
    rate = probability * (height * width) / (size * size * positions[0] * positions[1])
    centres = (torch.rand((*x.shape[:2], *positions), device=x.device) < rate).float()
    kept = 1 - max_pool2d(pad(centres, (size - 1,) * 4), size, stride=1)
    return x * (kept * (kept.numel() / kept.sum().clamp(min=1))).to(x.dtype)
