"""`epochs: auto` becomes a number before a training starts."""

from __future__ import annotations

import pytest

from utils.recipe import RecipeConfig, load_recipe
from utils.train_config import TrainConfig, epochs_for, settled


@pytest.mark.parametrize(("images", "epochs"), [(100, 300), (205, 210), (1000, 95), (3600, 50), (118_287, 50)])
def test_epochs_fall_with_the_square_root_of_the_images(images: int, epochs: int) -> None:
    assert epochs_for(images, batch=16) == epochs


def test_a_handful_of_images_is_seen_often_enough_for_a_thousand_steps() -> None:
    assert [epochs_for(images, batch=16) for images in (1, 16, 17, 80)] == [1000, 1000, 500, 300]
    assert epochs_for(80, batch=64) == 500


def test_only_auto_is_settled() -> None:
    config = TrainConfig({}, load_recipe("default"), "shapes", (64, 64), None, 0, 0)
    assert config.recipe.epochs == "auto"
    with pytest.raises(ValueError, match="epochs: expected a number, found 'auto'"):
        _ = config.recipe.total_epochs
    assert settled(config, 205).recipe.epochs == settled(config, 205).recipe.total_epochs == 210
    fixed = TrainConfig({}, RecipeConfig(epochs=7), "shapes", (64, 64), None, 0, 0)
    assert settled(fixed, 205) is fixed
