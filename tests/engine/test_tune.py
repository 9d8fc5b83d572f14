"""engine/tune.py: what a trial trains with, what counts, and which spaces are refused. Nothing is trained."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from engine import tune as tune_module
from engine.failure import RunFailed
from engine.options import RunOptions
from engine.search import SPACE, Trial, load_space
from engine.tune import fitting_space, tune
from models.config import load_model_config
from utils.config import ConfigError, to_plain
from utils.recipe import RecipeConfig, load_recipe
from utils.train_config import TrainConfig

CONFIG = TrainConfig(to_plain(load_model_config("cspdet-n")), RecipeConfig(epochs=2), "shapes", (64, 64), None, 3, 0)
LR = {"optimizer.lr": {"low": 0.001, "high": 0.1, "log": True}}


class Splits:
    """Stands in for a data set of which only the fingerprint counts: it is the name of the data."""

    def __init__(self, name: str, _: str) -> None:
        self.name = name

    val = SimpleNamespace(samples=SimpleNamespace(crowd=np.array([False])))

    def fingerprint(self) -> dict[str, str]:
        return {"train": self.name, "val": "2"}

    def files(self) -> dict[str, torch.Tensor]:
        return {"train": torch.tensor([1])}


@pytest.fixture
def search(tmp_path: Path, space_file: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """search(train, count): --tune COUNT, where each trial calls `train` with its configuration, folder and trial."""

    def run(train: Callable[..., int], count: int, config: TrainConfig = CONFIG) -> int:
        def training(config: TrainConfig, options: RunOptions, _: torch.device, *, trial: Trial) -> int:
            return train(options.project / options.name, config, trial)

        monkeypatch.setattr(tune_module, "train", training)
        monkeypatch.setattr(tune_module, "read_splits", Splits)
        options = RunOptions(tmp_path, "search")
        return tune(config, options, torch.device("cpu"), count=count, space_file=space_file)

    return run


@pytest.fixture
def space_file(tmp_path: Path) -> Path:
    path = tmp_path / "space.yaml"
    path.write_text("optimizer.lr: {low: 0.001, high: 0.1, log: true}\npatience: [null, 3]\n")
    return path


def test_the_best_recipe_is_whole(
    search: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tried: dict[str, RecipeConfig] = {}

    def train(folder: Path, config: TrainConfig, trial: Trial) -> int:
        tried[folder.name] = config.recipe
        trial.report(1, config.recipe.optimizer.lr)
        trial.report(2, config.recipe.optimizer.lr / 2)
        return 0

    assert search(train, 3) == 0
    assert list(tried) == ["trial-0", "trial-1", "trial-2"]
    best = max(tried.values(), key=lambda recipe: recipe.optimizer.lr)
    assert load_recipe(str(tmp_path / "search" / "best.yaml")) == best
    assert to_plain(best) | {"optimizer": None, "patience": None} == to_plain(CONFIG.recipe) | {
        "optimizer": None,
        "patience": None,
    }
    assert f"{best.optimizer.lr:.4f} by trial" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"begun with other settings \(not the same: recipe\)"):
        search(train, 4, replace(CONFIG, recipe=RecipeConfig(epochs=9)))
    assert len(tried) == 3


def test_a_trial_that_diverges_does_not_end_the_search_and_a_full_disk_does(
    search: Callable[..., int], tmp_path: Path
) -> None:
    numbers = []

    def train(folder: Path, _: TrainConfig, trial: Trial) -> int:
        numbers.append(folder.name)
        if len(numbers) != 2:
            folder.mkdir(parents=True)
            if len(numbers) == 1:
                (folder / "replay_step3.pt").touch()
            raise RunFailed("it cannot go on")
        trial.report(1, 0.5)
        return 0

    with pytest.raises(RunFailed):
        search(train, 5)
    rows = (tmp_path / "search" / "trials.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows[1:]] == ["pruned", "complete"]


def test_a_trial_that_is_stopped_ends_the_search_and_does_not_count(search: Callable[..., int]) -> None:
    statuses = [0, 143, 0, 0]

    def train(_: Path, __: TrainConfig, trial: Trial) -> int:
        trial.report(1, 0.5)
        return statuses.pop(0)

    assert search(train, 2) == 143
    assert search(train, 2) == 0
    assert statuses == [0], "one before the stop, one after it"


def test_other_data_and_other_weights_are_refused_wherever_they_lie(search: Callable[..., int], tmp_path: Path) -> None:
    def train(_: Path, __: TrainConfig, trial: Trial) -> int:
        trial.report(1, 0.5)
        return 0

    for name, content in (("one.pt", b"1"), ("copy.pt", b"1"), ("other.pt", b"2")):
        (tmp_path / name).write_bytes(content)
    one, copy, other, gone = (
        replace(CONFIG, weights=str(tmp_path / name), data="here")
        for name in ("one.pt", "copy.pt", "other.pt", "gone.pt")
    )
    assert search(train, 1, one) == 0
    assert search(train, 2, copy) == 0, "the same in another place"
    with pytest.raises(ConfigError, match=r"not the same: weights and data\)"):
        search(train, 3, replace(other, data="there"))
    with pytest.raises(ConfigError, match=r"not the same: weights\)"):
        search(train, 3, replace(CONFIG, data="here"))
    with pytest.raises(ConfigError, match=r"gone\.pt: no such file"):
        search(train, 3, gone)
    assert len((tmp_path / "search" / "trials.csv").read_text().splitlines()) == 3


def test_the_usual_space_without_what_the_model_does_not_have(caplog: pytest.LogCaptureFixture) -> None:
    detector = fitting_space(SPACE, to_plain(load_recipe("default")), load_model_config("cspdet-n"), given=None)
    assert detector == SPACE
    caplog.set_level("INFO")
    classifier = fitting_space(
        SPACE, to_plain(load_recipe("imagenet-small")), load_model_config("csppeleenet"), given=None
    )
    assert {"optimizer.lr", "optimizer.weight_decay", "augment.close_mosaic"} <= set(classifier)
    assert not {"loss.box_gain", "augment.mosaic"} & set(classifier)
    assert "Not searched, for this model does not have them: loss.box_gain" in caplog.text


def test_a_space_that_does_not_fit_is_refused_with_every_key(tmp_path: Path) -> None:
    base, path = to_plain(load_recipe("imagenet-small")), tmp_path / "space.yaml"
    space = {**LR, "loss.box_gain": {"low": 1.0, "high": 2.0}, "optimizer.lrr": [1], "ema.decay": [0.9, 1.5]}
    with pytest.raises(ConfigError) as caught:
        fitting_space(space, base, load_model_config("csppeleenet"), given=path)
    for text in ("loss.box_gain: unknown key", "optimizer.lrr: unknown key", "decay: expected a number in [0, 1)"):
        assert text in str(caught.value)
    assert str(caught.value).count(str(path)) == 3
    with pytest.raises(ConfigError, match="nothing to search"):
        fitting_space({"loss.box_gain": [1]}, base, load_model_config("csppeleenet"), given=None)


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
    search: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "optuna", None)
        with pytest.raises(ConfigError, match=r"pip install 'optuna>=4\.3'"):
            search(lambda *_: 0, 1)
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="start it without torchrun"):
        search(lambda *_: 0, 1)
    assert not (tmp_path / "search").exists()
