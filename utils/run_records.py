"""Records of finished runs, read from their folders, and groups of runs that differ only in the seed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from utils.config import ConfigError, load_yaml
from utils.metrics.coco import COCO_LIMIT
from utils.metrics.figures import without_minus_one
from utils.results import columns_of, read_results
from utils.text import from_json


@dataclass(frozen=True)
class RunRecord:
    """The results in a folder of train.py or val.py.

    Args:
        folder: with metrics.json.
    """

    folder: Path

    @cached_property
    def figures(self) -> dict[str, Any]:
        """The content of metrics.json; a figure that there was nothing to measure on is None."""
        return without_minus_one(_read_json(self.folder / "metrics.json"))

    @property
    def max_det(self) -> int:
        """Detections of an image and class that counted."""
        return max((self.figures.get("protocol") or {}).get("max_det") or COCO_LIMIT, COCO_LIMIT)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of a training's config.yaml; empty for other runs."""
        path = self.folder / "config.yaml"
        return load_yaml(path) if path.is_file() else {}

    @cached_property
    def curves(self) -> dict[str, list[float]]:
        """The columns of a training's results.csv; empty for other runs. Missing values are NaN.

        Raises:
            ConfigError: the file cannot be read as a table.
        """
        path = self.folder / "results.csv"
        if not path.is_file():
            return {}
        return columns_of(read_results(path))

    @property
    def predictions(self) -> list[dict[str, Any]] | None:
        """The COCO results list, where the run has written one."""
        path = self.folder / "predictions.json"
        return _read_json(path) if path.is_file() else None

    @property
    def ground_truth(self) -> dict[str, Any] | None:
        """The ground truth of the predictions, where the run has written it."""
        path = self.folder / "ground_truth.json"
        return _read_json(path) if path.is_file() else None


class Spread(NamedTuple):
    """A figure over the runs of a group.

    Args:
        mean: None where there is no such figure.
        deviation: standard deviation (n - 1); None for one run.
    """

    mean: float | None
    deviation: float | None


def spread(values: Sequence[float | None]) -> Spread:
    """Mean and deviation of a figure of several runs.

    A figure that a run does not have (the ground truth has nothing to measure it on) has neither.
    """
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return Spread(None, None)
    return Spread(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None)


@dataclass(frozen=True)
class Group:
    """Runs that differ only in the seed.

    Args:
        name: of the first run's folder; with the folder above where two groups would have the same.
        runs: at least one.
    """

    name: str
    runs: tuple[RunRecord, ...]

    @property
    def label(self) -> str:
        """The name, with the number of runs where there are several."""
        return self.name if len(self.runs) == 1 else f"{self.name} ({len(self.runs)} seeds)"

    @property
    def figure_names(self) -> list[str]:
        """Numbers that all runs have, and figures without anything to measure."""
        return [
            key
            for key, value in self.runs[0].figures.items()
            if (value is None or isinstance(value, int | float)) and all(key in run.figures for run in self.runs)
        ]

    def figure(self, key: str) -> Spread:
        """A figure over the runs."""
        return spread([run.figures.get(key) for run in self.runs])

    def class_figure(self, name: str, key: str) -> Spread:
        """A figure of a class over the runs."""
        return spread([(run.figures.get("per_class") or {}).get(name, {}).get(key) for run in self.runs])


def open_runs(folders: Sequence[Path]) -> list[RunRecord]:
    """The records of several runs.

    Raises:
        ConfigError: not the folder of a finished run, or one folder given twice.
    """
    runs = [open_run(folder) for folder in folders]
    resolved = [run.folder.resolve() for run in runs]
    for number, folder in enumerate(resolved):
        if folder in resolved[:number]:
            raise ConfigError(f"{folders[number]}: the run is given twice and would count twice; leave one out")
    return runs


def open_run(folder: Path) -> RunRecord:
    """The record of a run.

    Raises:
        ConfigError: not the folder of a finished run.
    """
    folder = folder.parent if folder.is_file() else folder
    if not (folder / "metrics.json").is_file():
        why = "the training has not finished" if (folder / "config.yaml").is_file() else "is it the folder of a run?"
        raise ConfigError(f"{folder}: has no metrics.json; {why}")
    return RunRecord(folder)


def grouped(runs: Sequence[RunRecord]) -> list[Group]:
    """Runs in groups that differ only in the seed, in the order of the first of each.

    Among runs of the same settings, a seed that comes again begins another group, to which those after it belong:
    something outside the settings differs, such as the code.
    """
    groups: list[list[RunRecord]] = []
    for run in runs:
        home = next((group for group in reversed(groups) if _same_but_for_seed(run, group[0])), None)
        if home is None or run.config["seed"] in [other.config["seed"] for other in home]:
            groups.append([run])
        else:
            home.append(run)
    names = [group[0].folder.name for group in groups]
    if len(set(names)) < len(names):
        names = [f"{group[0].folder.parent.name}/{name}" for group, name in zip(groups, names, strict=True)]
    return [Group(name, tuple(group)) for group, name in zip(groups, names, strict=True)]


def _same_but_for_seed(run: RunRecord, other: RunRecord) -> bool:
    """False for runs of val.py, which have no seed."""
    return "seed" in run.config and "seed" in other.config and without_seed(run.config) == without_seed(other.config)


def without_seed(config: dict[str, Any]) -> dict[str, Any]:
    """What makes runs comparable: a configuration but for its seed and its loader processes."""
    return {key: value for key, value in config.items() if key not in ("seed", "workers")}


def _read_json(path: Path) -> Any:
    try:
        return from_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: is not JSON ({error}); was it written by train.py or val.py?") from None
