"""engine/sweeps.py: what a trial trains with, what counts, and which spaces are refused. Nothing is trained."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.failure import RunFailed
from engine.sweeps import fitting, tune
from engine.tune import SPACE, load_space
from models.build import check_recipe
from models.config import load_model_config
from utils.config import ConfigError, to_plain
from utils.recipe import RecipeConfig, load_recipe
from utils.train_config import TrainConfig

CONFIG = TrainConfig({"name": "m"}, RecipeConfig(epochs=2), "shapes", (64, 64), None, 3, 0)
NO_CHECKS = {"check": lambda _: None, "fingerprint": lambda: {"train": "1", "val": "2"}}
LR = {"optimizer.lr": {"low": 0.001, "high": 0.1, "log": True}}


def fits(name: str) -> Callable[[RecipeConfig], None]:
    model = load_model_config(name)
    return lambda recipe: check_recipe(model, recipe)


@pytest.fixture
def space_file(tmp_path: Path) -> Path:
    path = tmp_path / "space.yaml"
    path.write_text("optimizer.lr: {low: 0.001, high: 0.1, log: true}\npatience: [null, 3]\n")
    return path


def test_the_best_recipe_is_whole(space_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tried: dict[str, RecipeConfig] = {}

    def train(folder: Path, config: TrainConfig, *_: Any, on_result: Callable[[int, float], None]) -> int:
        tried[folder.name] = config.recipe
        on_result(1, config.recipe.optimizer.lr)
        on_result(2, config.recipe.optimizer.lr / 2)
        return 0

    folder = tmp_path / "search"
    assert tune(CONFIG, 3, train, folder=folder, space_file=space_file, **NO_CHECKS) == 0
    assert list(tried) == ["trial-0", "trial-1", "trial-2"]
    best = max(tried.values(), key=lambda recipe: recipe.optimizer.lr)
    assert load_recipe(str(folder / "best.yaml")) == best
    assert to_plain(best) | {"optimizer": None, "patience": None} == to_plain(CONFIG.recipe) | {
        "optimizer": None,
        "patience": None,
    }
    assert f"{best.optimizer.lr:.4f} by trial" in capsys.readouterr().out
    other = replace(CONFIG, recipe=RecipeConfig(epochs=9))
    with pytest.raises(ConfigError, match=r"begun with other settings \(not the same: recipe\)"):
        tune(other, 4, train, folder=folder, space_file=space_file, **NO_CHECKS)
    assert len(tried) == 3


def test_a_trial_that_diverges_does_not_end_the_search_and_a_full_disk_does(space_file: Path, tmp_path: Path) -> None:
    numbers = []

    def train(folder: Path, config: TrainConfig, *_: Any, on_result: Callable[[int, float], None]) -> int:
        numbers.append(folder.name)
        if len(numbers) != 2:
            folder.mkdir(parents=True)
            if len(numbers) == 1:
                (folder / "replay_step3.pt").touch()
            raise RunFailed("it cannot go on")
        on_result(1, 0.5)
        return 0

    with pytest.raises(RunFailed):
        tune(CONFIG, 5, train, folder=tmp_path / "s", space_file=space_file, **NO_CHECKS)
    rows = (tmp_path / "s" / "trials.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows[1:]] == ["pruned", "complete"]


def test_a_trial_that_is_stopped_ends_the_search_and_does_not_count(space_file: Path, tmp_path: Path) -> None:
    statuses = [0, 143, 0, 0]

    def train(folder: Path, config: TrainConfig, *_: Any, on_result: Callable[[int, float], None]) -> int:
        on_result(1, 0.5)
        return statuses.pop(0)

    arguments = {"folder": tmp_path / "s", "space_file": space_file, **NO_CHECKS}
    assert tune(CONFIG, 2, train, **arguments) == 143
    assert tune(CONFIG, 2, train, **arguments) == 0
    assert statuses == [0], "one before the stop, one after it"


def test_other_data_and_other_weights_are_refused_wherever_they_lie(space_file: Path, tmp_path: Path) -> None:
    def train(folder: Path, config: TrainConfig, *_: Any, on_result: Callable[[int, float], None]) -> int:
        on_result(1, 0.5)
        return 0

    def go_on(config: TrainConfig, data: str, trials: int) -> int:
        checks = {**NO_CHECKS, "fingerprint": lambda: {"train": data, "val": "2"}}
        return tune(config, trials, train, folder=tmp_path / "s", space_file=space_file, **checks)

    for name, content in (("one.pt", b"1"), ("copy.pt", b"1"), ("other.pt", b"2")):
        (tmp_path / name).write_bytes(content)
    one, copy, other = (
        replace(CONFIG, weights=str(tmp_path / name), data=name) for name in ("one.pt", "copy.pt", "other.pt")
    )
    assert go_on(one, "here", 1) == 0
    assert go_on(copy, "here", 2) == 0, "the same in another place"
    with pytest.raises(ConfigError, match=r"not the same: weights and data\)"):
        go_on(other, "there", 3)
    with pytest.raises(ConfigError, match=r"not the same: weights\)"):
        go_on(CONFIG, "here", 3)
    with pytest.raises(ConfigError, match=r"gone\.pt: no such file"):
        go_on(replace(CONFIG, weights=str(tmp_path / "gone.pt")), "here", 3)
    assert len((tmp_path / "s" / "trials.csv").read_text().splitlines()) == 3


def test_the_usual_space_without_what_the_model_does_not_have(caplog: pytest.LogCaptureFixture) -> None:
    detector = fitting(SPACE, to_plain(load_recipe("default")), fits("cspdet-n"), given=None)
    assert detector == SPACE
    caplog.set_level("INFO")
    classifier = fitting(SPACE, to_plain(load_recipe("imagenet-small")), fits("csppeleenet"), given=None)
    assert {"optimizer.lr", "optimizer.weight_decay", "augment.close_mosaic"} <= set(classifier)
    assert not {"loss.box_gain", "augment.mosaic"} & set(classifier)
    assert "Not searched, for this model does not have them: loss.box_gain" in caplog.text


def test_a_space_that_does_not_fit_is_refused_with_every_key(tmp_path: Path) -> None:
    base, path = to_plain(load_recipe("imagenet-small")), tmp_path / "space.yaml"
    space = {**LR, "loss.box_gain": {"low": 1.0, "high": 2.0}, "optimizer.lrr": [1], "ema.decay": [0.9, 1.5]}
    with pytest.raises(ConfigError) as caught:
        fitting(space, base, fits("csppeleenet"), given=path)
    for text in ("loss.box_gain: unknown key", "optimizer.lrr: unknown key", "decay: expected a number in [0, 1)"):
        assert text in str(caught.value)
    assert str(caught.value).count(str(path)) == 3
    with pytest.raises(ConfigError, match="nothing to search"):
        fitting({"loss.box_gain": [1]}, base, fits("csppeleenet"), given=None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ema.decay: [[0.9]]", "expected a list of numbers, texts"),
        ("optimizer.lr: {low: 0, high: 1, log: true}", "log: true needs a low above 0"),
    ],
)
def test_entries_that_cannot_be_drawn(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_space(path)


def test_not_under_torchrun_and_not_without_optuna(
    space_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {"folder": tmp_path / "s", "space_file": space_file, **NO_CHECKS}
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "optuna", None)
        with pytest.raises(ConfigError, match=r"pip install 'optuna>=4\.3'"):
            tune(CONFIG, 1, lambda *_, **__: 0, **arguments)
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="start it without torchrun"):
        tune(CONFIG, 1, lambda *_, **__: 0, **arguments)
    assert not (tmp_path / "s").exists()
