"""Recipes: defaults, values out of range, and what follows from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils.config import ConfigError, dump_yaml, to_plain
from utils.recipe import OptimizerConfig, RecipeConfig, check_task, load_recipe, recipe_from


def test_an_empty_recipe_is_all_defaults(tmp_path: Path) -> None:
    assert recipe_from({}, where="r") == RecipeConfig()
    path = tmp_path / "small.yaml"
    path.write_text("epochs: auto\n")
    assert load_recipe(str(path)) == RecipeConfig()


def test_a_recipe_survives_yaml_and_plain_values(tmp_path: Path) -> None:
    recipe = load_recipe("default", ["optimizer.lr=1e-3", "augment.albumentations=[{type: Blur, p: 0.1}]", "amp=off"])
    assert recipe.amp == "off"
    assert recipe.optimizer.lr == 1e-3
    path = tmp_path / "again.yaml"
    path.write_text(dump_yaml(recipe))
    assert load_recipe(str(path)) == recipe
    assert recipe_from(to_plain(recipe), where="r") == recipe


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs=0", "epochs: expected a whole number of at least 1, or auto, found 0"),
        ("balance=often", "balance: expected one of none, repeat, found 'often'"),
        ("balance_threshold=0", r"balance_threshold: expected a share in \(0, 1\], or null, found 0"),
        ("batch_size=0", "batch_size: expected a whole number of at least 1, found 0"),
        ("batch_size=2.5", "batch_size: expected a whole number, found 2.5"),
        ("nominal_batch_size=0", "nominal_batch_size: expected at least 1, or null, found 0"),
        ("image_size=8", "image_size: expected one side or .height, width., at least 32 pixels, found 8"),
        ("image_size=[64, 0]", "image_size: expected one side or .height, width., at least 32 pixels, found .64, 0."),
        ("image_size=[64, 64, 64]", "image_size: expected one side or .height, width., .*found .64, 64, 64."),
        ("patience=0", "patience: expected .*at least 1.*found 0"),
        ("save_minutes=-1", "save_minutes: expected .*found -1"),
        ("amp=fp8", "amp: expected one of auto, off, bf16, fp16, found 'fp8'"),
        ("amp=on", "amp: expected one of auto, off, bf16, fp16"),
        ("freeze=backbone", "freeze: expected a list, each entry a text, found 'backbone'"),
        ("optimizer.lr=0", "optimizer.*lr: expected a number above 0, found 0"),
        ("optimizer.type=adam", "optimizer.type: expected one of sgd, adamw, muon, found 'adam'"),
        ("optimizer.momentum=1", r"optimizer.*momentum: expected a number in \[0, 1\), found 1"),
        ("optimizer.weight_decay=-1", "optimizer.*weight_decay: expected a number of at least 0"),
        ("optimizer.clip_norm=0", "optimizer.*clip_norm: expected a number above 0, or null, found 0"),
        ("schedule.final=2", r"schedule.*final: expected a share in \[0, 1\], found 2"),
        ("schedule.warmup_epochs=-1", "schedule.*warmup_epochs: expected .*at least 0, found -1"),
        ("schedule.warmup_steps=-1", "schedule.*warmup_steps: expected .*at least 0, found -1"),
        ("schedule.warmup_power=0", "schedule.*warmup_power: expected .*found 0"),
        ("schedule.type=warm", "schedule.type: expected one of cosine, .*sgdr, .*found 'warm'"),
        ("schedule.cycle_epochs=0", "schedule.*cycle_epochs: expected a number above 0, or null, found 0"),
        ("schedule.cycle_mult=0.5", "schedule.*cycle_mult: expected a number of at least 1, found 0.5"),
        ("norm_momentum=0", r"norm_momentum: expected a number in \(0, 1\], found 0"),
        ("adversarial.lr=-1", "adversarial.*lr: expected a number of at least 0, found -1"),
        ("adversarial.probability=2", r"adversarial.*probability: expected a share in \[0, 1\], found 2"),
        ("dropblock.probability=1", r"dropblock.*probability: expected a share in \[0, 1\), found 1"),
        ("dropblock.size=0", "dropblock.*size: expected a whole number of at least 1, found 0"),
        ("augment.mosaic_type=four", "augment.mosaic_type: expected one of canvas, quadrants, found 'four'"),
        ("augment.geometry=crop", "augment.geometry: expected one of affine, jitter, found 'crop'"),
        ("augment.jitter=0.5", r"augment.*jitter: expected a share in \[0, 0.5\), found 0.5"),
        ("augment.colour=hsv", "augment.colour: expected one of factor, darknet, found 'hsv'"),
        ("augment.multi_scale_type=all", "augment.multi_scale_type: expected one of uniform, darknet, found 'all'"),
        ("augment.multi_scale_steps=-1", "augment.*multi_scale_steps: expected a number of at least 0, found -1"),
        ("schedule.milestones=[0.5, 1.5]", r"schedule.*milestones: expected shares in \(0, 1\)"),
        ("schedule.factor=0", "schedule.*factor: expected .*found 0"),
        ("ema.decay=1", r"ema.*decay: expected a number in \[0, 1\), found 1"),
        ("ema.ramp=0", "ema.*ramp: expected a number of at least 1, found 0"),
        ("augment.mosaic=1.5", r"augment.*mosaic: expected a share in \[0, 1\], found 1.5"),
        ("augment.close_mosaic=-0.1", "augment.*close_mosaic: expected a share"),
        ("augment.mixup=2", "augment.*mixup: expected a share"),
        ("augment.scale=1", r"augment.*scale: expected a share in \[0, 1\), or auto, found 1"),
        ("augment.multi_scale=1", "augment.*multi_scale: expected a share"),
        ("augment.degrees=-1", "augment.*degrees: expected .*found -1"),
        ("augment.translate=-0.1", "augment.*translate: expected .*found -0.1"),
        ("augment.hue=-0.1", "augment.*hue: expected .*found -0.1"),
        ("augment.min_side=-1", "augment.*min_side: expected .*found -1"),
        ("augment.albumentations=[Blur]", r"augment.albumentations\[0\]: expected a list"),
        ("evaluation.interval=0", "evaluation.*interval: expected a whole number of at least 1"),
        ("evaluation.conf_thres=1.5", r"evaluation.*conf_thres: expected a share in \[0, 1\], found 1.5"),
        ("evaluation.iou_thres=-1", "evaluation.*iou_thres: expected a share"),
        ("evaluation.max_det=10", "evaluation.*max_det: expected .*found 10"),
        ("optimiser.lr=0.1", r"optimiser: unknown key.*Did you mean 'optimizer'\?"),
        ("optimizer.lrate=0.1", r"optimizer.lrate: unknown key.*Did you mean 'lr'\?|optimizer.lrate: unknown key"),
    ],
)
def test_a_value_out_of_range_is_named_with_file_and_key(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_recipe("default", [override])
    assert "cfg/train/default.yaml" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_all_values_out_of_range_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe("default", ["optimizer.lr=0", "ema.decay=2", "augment.mosaic=7", "epoch=3"])
    assert len(str(caught.value).splitlines()) == 4


@pytest.mark.parametrize(
    ("batch_size", "nominal", "expected"),
    [(16, None, 1), (16, 16, 1), (16, 64, 4), (16, 40, 2), (64, 16, 1), (3, 8, 3), (1, 64, 64)],
)
def test_accumulation_comes_closest_to_the_nominal_batch(batch_size: int, nominal: int | None, expected: int) -> None:
    assert RecipeConfig(batch_size=batch_size, nominal_batch_size=nominal).accumulate == expected


@pytest.mark.parametrize(
    ("epochs", "close", "expected"), [(100, 0.15, 85), (10, 0.0, 10), (10, 1.0, 0), (1, 0.15, 1), (1, 0.6, 0)]
)
def test_mosaic_ends_some_epochs_before_the_end(epochs: int, close: float, expected: int) -> None:
    recipe = recipe_from({"epochs": epochs, "augment": {"close_mosaic": close}}, where="r")
    assert recipe.mosaic_epochs == expected


def test_keys_of_the_other_task_are_refused_where_they_differ_from_their_defaults() -> None:
    for task in ("detect", "classify"):
        check_task(RecipeConfig(), task)
        both = {"close_mosaic": 0.5, "multi_scale": 0.3, "albumentations": [{"type": "Blur"}]}
        check_task(recipe_from({"augment": both, "evaluation": {"interval": 3}}, where="r"), task)
    boxes = recipe_from({"augment": {"mixup": 0.2, "min_side": 3}, "evaluation": {"max_det": 50}}, where="r")
    check_task(boxes, "detect")
    with pytest.raises(
        ConfigError, match=r"recipe: augment.mixup, augment.min_side, evaluation.max_det: for detectors"
    ):
        check_task(boxes, "classify")
    classes = recipe_from({"augment": {"classify": {"degrees": 3}}, "evaluation": {"ten_crop": True}}, where="r")
    check_task(classes, "classify")
    with pytest.raises(ConfigError, match=r"augment.classify, evaluation.ten_crop: for classifiers alone"):
        check_task(classes, "detect")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"short_side": [0, 1]}, "short_side: expected two numbers above 0, the smaller first"),
        ({"short_side": 0.5}, "short_side: expected a list of 2 values"),
        ({"aspect": 1.5}, "aspect: expected a factor in"),
        ({"hue": 0.7}, "hue: expected a share in"),
        ({"blur": -1}, "blur: expected a share in"),
        ({"mix": ["mixup", "mixup"]}, "mix: expected each kind once"),
        ({"mixup_beta": 0}, "mixup_beta: expected a number above 0, or null"),
    ],
)
def test_values_of_a_classifiers_augmentation_are_checked(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe_from({"augment": {"classify": values}}, where="r")


@pytest.mark.parametrize(("kind", "factor"), [("sgd", 4.0), ("adamw", 2.0), ("muon", 2.0)])
def test_the_rate_follows_the_images_of_a_step(kind: str, factor: float) -> None:
    config = OptimizerConfig(type=kind, lr=0.01, lr_batch=16)
    assert config.lr_for(16) == 0.01
    assert config.lr_for(64) == pytest.approx(0.01 * factor)
    assert config.lr_for(4) == pytest.approx(0.01 / factor)
    added_up = RecipeConfig(batch_size=8, nominal_batch_size=64, optimizer=config)
    assert added_up.lr == pytest.approx(0.01 * factor)
    assert RecipeConfig(batch_size=64, optimizer=OptimizerConfig(type=kind, lr=0.01)).lr == 0.01, "null: as it is"
