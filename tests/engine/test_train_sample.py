"""Which training images are evaluated beside val, how many, and when."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.read import read_splits
from engine.train_sample import FEWEST, MOST, SHARE, TIMES, is_due, sample_of, sample_size
from utils.config import ConfigError
from utils.recipe import EvaluationConfig, RecipeConfig, recipe_from
from utils.structures import LabelledImages
from utils.train_config import TrainConfig


def recipe(epochs: int, **evaluation: object) -> RecipeConfig:
    return RecipeConfig(epochs=epochs, batch_size=4, evaluation=EvaluationConfig(**evaluation))


def config(*, seed: int = 0, images: int = 5) -> TrainConfig:
    return TrainConfig({"resize": "letterbox"}, recipe(2, train_images=images), "d", (64, 64), None, seed, 0)


@pytest.mark.parametrize("epochs", [1, 2, 9, 10, 11, 60, 100, 300, 301])
@pytest.mark.parametrize("interval", [1, 2, 5, 7])
def test_about_ten_times_a_run_and_at_its_end_where_val_is_evaluated_too(epochs: int, interval: int) -> None:
    plan = recipe(epochs, interval=interval)
    due = [epoch for epoch in range(1, epochs + 1) if is_due(epoch, plan)]
    assert due[-1] == epochs and len(due) <= TIMES + 1
    assert all(epoch % interval == 0 for epoch in due[:-1])
    assert len(due) >= min(TIMES // 2, epochs // interval)


@pytest.mark.parametrize("epochs", [1, 3, 10, 60, 300])
@pytest.mark.parametrize("images", [8, 64, 400, 5_000, 118_000])
def test_it_takes_no_more_than_its_share_of_the_training(epochs: int, images: int) -> None:
    count = sample_size(recipe(epochs), images)
    assert count == 0 or FEWEST <= count <= min(MOST, images)
    assert count * min(TIMES, epochs) <= SHARE * images * epochs
    assert sample_size(recipe(epochs, train_images=20), images) == min(20, images)
    assert sample_size(recipe(epochs, train_images=0), images) == 0


def test_a_number_below_0_is_refused() -> None:
    with pytest.raises(ConfigError, match="train_images"):
        recipe_from({"evaluation": {"train_images": -1}}, where="recipe")


def test_the_seed_draws_it_and_every_rank_has_its_part(tiny_coco: Path) -> None:
    train = read_splits(str(tiny_coco)).train
    one, again, other = (sample_of(train, config(seed=seed)) for seed in (0, 0, 1))
    assert drawn(one) == drawn(again) != drawn(other) and len(drawn(one)) == 5
    parts = [sample_of(train, config(), rank=rank, world_size=2) for rank in range(2)]
    assert sorted(drawn(parts[0]) + drawn(parts[1])) == sorted(drawn(one))
    assert all(part.metric.ground_truth == one.metric.ground_truth for part in parts)
    assert sample_of(train, config(), world_size=6) is None, "fewer than ranks"
    assert sample_of(train, config(images=0)) is None
    assert sample_of(replace(train, task="classify"), config()) is None


def drawn(sample) -> list[tuple[str, int]]:
    """File and id of each image, as the loader gives them."""
    return [
        (path, int(image)) for batch in sample.loader for path, image in zip(batch.paths, batch.image_ids, strict=True)
    ]


def test_the_ground_truth_is_that_of_the_labels(tiny_coco: Path) -> None:
    train: LabelledImages = read_splits(str(tiny_coco)).train
    truth = sample_of(train, config(images=8)).metric.ground_truth
    assert [image["id"] for image in truth["images"]] == list(range(1, 9))
    crowds = [each["iscrowd"] for each in truth["annotations"]]
    assert len(crowds) == len(train.samples.boxes) and sum(crowds) == train.samples.crowd.sum()
    corners = np.array([each["bbox"] for each in truth["annotations"]])[:, :2]
    np.testing.assert_array_equal(corners, train.samples.boxes[:, :2])


def test_tiles_are_images_of_their_own(tiny_coco: Path, tmp_path: Path) -> None:
    folder = tiny_coco.parent
    text = f"train: {folder / 'train.json'}\nval: {folder / 'val.json'}\nimages: {folder / 'images'}\n"
    (tmp_path / "data.yaml").write_text(f"{text}tiling: {{size: 64, empty: 1.0}}\n")
    train = read_splits(str(tmp_path / "data.yaml")).train
    assert len(train) > 8
    sample = sample_of(train, config(images=len(train)))
    batches = list(sample.loader)
    assert [image for batch in batches for image in batch.image_ids] == list(range(1, len(train) + 1))
    assert len(sample.metric.ground_truth["annotations"]) == len(train.samples.boxes)
