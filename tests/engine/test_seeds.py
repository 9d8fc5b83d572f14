"""engine/seeds.py: folders of the seeds, what is done again and what is refused. Nothing is trained."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine import seeds as seeds_module
from engine.options import RunOptions
from engine.seeds import train_with_seeds
from utils.config import ConfigError, to_plain
from utils.files import write_json
from utils.recipe import RecipeConfig
from utils.run import Run
from utils.train_config import TrainConfig

CONFIG = TrainConfig({"name": "m"}, RecipeConfig(epochs=2), "shapes", (64, 64), None, 3, 0)


class Trainings:
    """Stands in for training: notes what it is asked to do, and leaves a figure of seed / 10.

    Args:
        end: of which seed to end early, and how.
    """

    def __init__(self) -> None:
        self.done: list[tuple[str, bool]] = []
        self.end: dict[int, int | BaseException] = {}

    def __call__(self, config: TrainConfig, options: RunOptions, _: torch.device, *, resumed: Run | None = None) -> int:
        self.done.append((options.name, resumed is not None))
        run = resumed or Run.create(options.project, options.name, to_plain(config))
        folder = options.project / options.name
        assert run.folder == folder
        end = self.end.pop(config.seed, 0)
        if isinstance(end, BaseException):
            raise end
        if not end:
            write_json(folder / "metrics.json", {"AP": config.seed / 10, "speed_ms": {}})
        return end


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    trainings = Trainings()
    monkeypatch.setattr(seeds_module, "train", trainings)
    return trainings


@pytest.fixture
def seeds(train: Trainings, tmp_path: Path) -> Callable[..., int]:
    def run(count: int, config: TrainConfig = CONFIG) -> int:
        return train_with_seeds(config, RunOptions(tmp_path / "runs", "exp"), torch.device("cpu"), count=count)

    return run


def test_mean_and_deviation_of_all_seeds(
    seeds: Callable[..., int], train: Trainings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert seeds(3) == 0
    assert train.done == [("exp-seed3", False), ("exp-seed4", False), ("exp-seed5", False)]
    content = json.loads((tmp_path / "runs" / "exp-seeds.json").read_text())
    assert content["runs"] == {"3": "exp-seed3", "4": "exp-seed4", "5": "exp-seed5"}
    assert content["mean"] == {"AP": pytest.approx(0.4)}
    assert content["deviation"] == {"AP": pytest.approx(0.1)}
    assert content["figures"]["exp-seed5"] == {"AP": 0.5}
    assert "0.4000 ± 0.1000" in capsys.readouterr().out


def test_one_seed_has_no_deviation(seeds: Callable[..., int], tmp_path: Path) -> None:
    assert seeds(1) == 0
    assert json.loads((tmp_path / "runs" / "exp-seeds.json").read_text())["deviation"] == {"AP": None}


def test_the_same_command_goes_on_with_what_is_left(seeds: Callable[..., int], train: Trainings) -> None:
    train.end = {4: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        seeds(3)
    train.end = {4: 128 + signal.SIGTERM}
    assert seeds(3) == 128 + signal.SIGTERM
    train.done.clear()
    assert seeds(3) == 0
    assert train.done == [("exp-seed4", True), ("exp-seed5", False)]
    train.done.clear()
    assert seeds(4, replace(CONFIG, workers=5)) == 0, "more seeds, and other workers"
    assert train.done == [("exp-seed6", False)]


def test_a_folder_without_a_run_in_it_is_begun_again_and_a_strange_one_is_left_alone(
    seeds: Callable[..., int], train: Trainings, tmp_path: Path
) -> None:
    train.end = {4: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        seeds(2)
    folder = tmp_path / "runs" / "exp-seed4"
    (folder / "config.yaml").unlink()
    (folder / ".config.yaml.7.tmp").touch()
    train.end = {4: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        seeds(2)
    assert train.done[-1] == ("exp-seed4", False)
    (folder / "config.yaml").rename(folder / "notes.txt")
    with pytest.raises(ConfigError, match="exp-seed4: is in the way"):
        seeds(2)


def test_other_settings_and_folders_that_are_there_get_another_name(
    seeds: Callable[..., int], train: Trainings, tmp_path: Path
) -> None:
    (tmp_path / "runs" / "exp-seed9").mkdir(parents=True)
    seeds(1)
    seeds(1, replace(CONFIG, recipe=RecipeConfig(epochs=3)))
    assert [name for name, _ in train.done] == ["exp2-seed3", "exp3-seed3"]
    assert not (tmp_path / "runs" / "exp-seeds.json").exists()


def test_a_run_that_was_changed_or_a_strange_journal_is_told(seeds: Callable[..., int], tmp_path: Path) -> None:
    seeds(2)
    Run(tmp_path / "runs" / "exp-seed4").save_config(to_plain(replace(CONFIG, recipe=RecipeConfig(epochs=9))))
    with pytest.raises(ConfigError, match="exp-seed3 and exp-seed4 differ in more than the seed"):
        seeds(2)
    (tmp_path / "runs" / "exp-seeds.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"exp-seeds\.json: was not written by --seeds"):
        seeds(2)
