"""utils/recipe.py and the learning rate that follows the batch."""

from __future__ import annotations

import pytest

from utils.recipe import OptimizerConfig, RecipeConfig, TrainConfig, epochs_for, load_recipe, settled


@pytest.mark.parametrize(("images", "epochs"), [(100, 300), (205, 210), (1000, 95), (3600, 50), (118_287, 50)])
def test_epochs_fall_with_the_square_root_of_the_images(images: int, epochs: int) -> None:
    assert epochs_for(images, batch=16) == epochs


def test_a_handful_of_images_is_seen_often_enough_for_a_thousand_steps() -> None:
    assert [epochs_for(images, batch=16) for images in (1, 16, 17, 80)] == [1000, 1000, 500, 300]
    assert epochs_for(80, batch=64) == 500


def test_only_auto_is_settled() -> None:
    config = TrainConfig({}, load_recipe("scratch"), "shapes", (64, 64), None, 0, 0)
    assert config.recipe.epochs == "auto"
    assert settled(config, 205).recipe.epochs == 210
    fixed = TrainConfig({}, RecipeConfig(epochs=7), "shapes", (64, 64), None, 0, 0)
    assert settled(fixed, 205) is fixed


@pytest.mark.parametrize(("kind", "factor"), [("sgd", 4.0), ("adamw", 2.0), ("muon", 2.0)])
def test_the_rate_follows_the_images_of_a_step(kind: str, factor: float) -> None:
    config = OptimizerConfig(type=kind, lr=0.01, lr_batch=16)
    assert config.lr_for(16) == 0.01
    assert config.lr_for(64) == pytest.approx(0.01 * factor)
    assert config.lr_for(4) == pytest.approx(0.01 / factor)
    added_up = RecipeConfig(batch_size=8, nominal_batch_size=64, optimizer=config)
    assert added_up.lr == pytest.approx(0.01 * factor)
    assert RecipeConfig(batch_size=64, optimizer=OptimizerConfig(type=kind, lr=0.01)).lr == 0.01, "null: as it is"
