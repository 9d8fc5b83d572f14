"""utils/training/tune.py: a search that finds, prunes, goes on and is shared."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from utils.config import ConfigError, load_yaml
from utils.training.tune import SPACE, Pruned, Trial, load_space, search

SPACE_OF_TWO = {"a.x": {"low": 0.0, "high": 1.0}, "b": [1, 2, 3]}


def values(trial: Trial) -> dict[str, float]:
    return {key: float(value) for key, value in (text.split("=") for text in trial.settings)}


def test_the_best_settings_are_written_as_a_recipe(tmp_path: Path) -> None:
    seen = []

    def objective(trial: Trial) -> float:
        found = values(trial)
        seen.append(trial.number)
        return -((found["a.x"] - 0.7) ** 2) - (found["b"] != 2)

    study = search(tmp_path, 25, objective, space=SPACE_OF_TWO)
    assert seen == list(range(25))
    assert abs(study.best_params["a.x"] - 0.7) < 0.2
    best = load_yaml(tmp_path / "best.yaml")
    assert best == {"a": {"x": study.best_params["a.x"]}, "b": 2}
    with open(tmp_path / "trials.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 25


def test_a_search_that_was_killed_goes_on_and_counts_only_what_was_finished(tmp_path: Path) -> None:
    def killed(trial: Trial) -> float:
        if trial.number == 2:
            raise KeyboardInterrupt
        return 0.0

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, 5, killed, space=SPACE_OF_TWO)
    numbers: list[int] = []

    def objective(trial: Trial) -> float:
        numbers.append(trial.number)
        return 1.0

    search(tmp_path, 5, objective, space=SPACE_OF_TWO)
    assert numbers == [3, 4, 5], "two were finished before, one was cut off"
    search(tmp_path, 5, objective, space=SPACE_OF_TWO)
    assert len(numbers) == 3, "nothing is left to do"


def test_a_trial_far_behind_is_not_finished(tmp_path: Path) -> None:
    finished = []

    def objective(trial: Trial) -> float:
        level = 1.0 if trial.number < 5 else 0.0
        for epoch in range(1, 11):
            trial.report(epoch, level * epoch)
        finished.append(trial.number)
        return level

    search(tmp_path, 8, objective, space=SPACE_OF_TWO)
    assert finished == list(range(5))
    assert "pruned" in (tmp_path / "trials.csv").read_text()
    assert issubclass(Pruned, Exception)


def test_a_space_is_checked(tmp_path: Path) -> None:
    assert load_space(None) == SPACE
    path = tmp_path / "space.yaml"
    path.write_text("optimizer.lr: {low: 2, high: 1}\n")
    with pytest.raises(ConfigError, match="low 2 is not below high 1"):
        load_space(path)
    path.write_text("optimizer.lr: 3\n")
    with pytest.raises(ConfigError, match=r"expected \{low: A, high: B"):
        load_space(path)
