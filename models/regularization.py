"""Regularization that a recipe adds to a model: DropBlock, and batch normalisation over several batches."""

from __future__ import annotations

from models.detector import Detector
from models.dropblock import DropBlock
from models.normalization import cross_batch_norm_
from utils.recipe import RecipeConfig


def regularize_(model: Detector, recipe: RecipeConfig) -> None:
    """Add what the recipe asks for; the names of weights and buffers stay the same.

    Raises:
        ConfigError: the model cannot have it.
    """
    if recipe.dropblock.probability:
        model.drop = DropBlock(probability=recipe.dropblock.probability, size=recipe.dropblock.size)
    if recipe.cross_batch_norm:
        cross_batch_norm_(model)
