"""`epochs: auto` becomes a number before a training starts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from utils.recipe import RecipeConfig, load_recipe
from utils.train_config import LEAST_SCALE, MOST_SCALE, TrainConfig, epochs_for, scale_for, settled


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


def test_the_change_of_size_follows_the_objects_within_bounds() -> None:
    spreads = [0, 0.1, 0.4, 0.5, 0.9]
    assert [scale_for(spread) for spread in spreads] == sorted(scale_for(spread) for spread in spreads)
    assert (scale_for(0), scale_for(5)) == (LEAST_SCALE, MOST_SCALE)
    recipe = load_recipe("default")
    config = TrainConfig({}, recipe, "shapes", (64, 64), None, 0, 0)
    with pytest.raises(ValueError, match=r"augment.scale: expected a number, found 'auto'"):
        _ = recipe.augment.size_change
    assert settled(config, 205).recipe.augment.scale == "auto"  # a classifier
    assert settled(config, 205, spread=0.4).recipe.augment.size_change == scale_for(0.4)
    unread = replace(recipe.augment, geometry="jitter", mosaic=0.0)
    assert settled(replace(config, recipe=replace(recipe, augment=unread)), 205, spread=0.4).recipe.augment == unread
    chosen = replace(config, recipe=replace(recipe, augment=replace(recipe.augment, scale=0.1)))
    assert settled(chosen, 205, spread=0.4).recipe.augment.size_change == 0.1
