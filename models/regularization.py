"""What a recipe adds to a model for its training: DropBlock, and batch normalisation over several batches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, pad

from models.detector import Detector
from models.normalization import cross_batch_norm_
from utils.recipe import RecipeConfig


def regularize_(model: Detector, recipe: RecipeConfig) -> None:
    """Put in what the recipe asks for; the names of weights and buffers stay as they are.

    Raises:
        ConfigError: the model cannot have it.
    """
    if recipe.dropblock.probability:
        model.drop = DropBlock(probability=recipe.dropblock.probability, size=recipe.dropblock.size)
    if recipe.cross_batch_norm:
        cross_batch_norm_(model)


class DropBlock(nn.Module):
    """Leaves out squares of each map while training (Ghiasi et al., DropBlock, arXiv:1810.12890; spec 7.5).

    The share that is left out rises in a line from 0 at the start of the training to `probability` at its end. In
    evaluation, and so in every exported model, it is the identity.

    Args:
        probability: at the end of the training.
        size: side of a square in cells; on a smaller map it covers the shorter side.
    """

    def __init__(self, *, probability: float, size: int = 7) -> None:
        super().__init__()
        self.probability = probability
        self.size = size
        # A tensor, because a compiled model would be compiled again for each value of a Python number.
        self.register_buffer("current", torch.zeros(()), persistent=False)

    def begin_batch(self, *, index: int, count: int, progress: float) -> None:
        """Set the share that is left out; `progress` is that of the training, in [0, 1]."""
        self.current.fill_(self.probability * progress)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """(B, C, H, W) maps -> maps of the same shapes."""
        return [drop_block(x, self.current, self.size) for x in maps] if self.training else maps


def drop_block(x: Tensor, probability: Tensor | float, size: int) -> Tensor:
    """A map without some squares, the rest scaled up so that the sum stays what it was on average.

    Each channel of each image has squares of its own, and every square lies wholly inside the map.

    Args:
        x: (B, C, H, W).
        probability: share of the cells to leave out, as long as squares do not overlap; where they do it is less.
        size: side of a square, cut to the shorter side of the map.
    """
    height, width = x.shape[2:]
    size = min(size, height, width)
    places = (height - size + 1, width - size + 1)
    rate = probability * (height * width) / (size * size * places[0] * places[1])
    centres = (torch.rand((*x.shape[:2], *places), device=x.device) < rate).float()
    kept = 1 - max_pool2d(pad(centres, (size - 1,) * 4), size, stride=1)
    return x * (kept * (kept.numel() / kept.sum().clamp(min=1))).to(x.dtype)
