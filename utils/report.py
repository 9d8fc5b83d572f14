"""Tables and curves of runs as one HTML file, and whether one run is better than another.

python -m utils.report runs/train/exp runs/train/exp2
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from utils.arguments import whole_number
from utils.config import ROOT, ConfigError, load_yaml
from utils.files import write_atomically
from utils.metrics.bootstrap import Comparison, compare
from utils.report_html import to_html
from utils.run import new_run_folder


@dataclass(frozen=True)
class RunRecord:
    """What a folder of train.py or val.py says about its run.

    Args:
        folder: with metrics.json.
    """

    folder: Path

    @cached_property
    def figures(self) -> dict[str, Any]:
        """The content of metrics.json."""
        return _read_json(self.folder / "metrics.json")

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of a training's config.yaml; empty for other runs."""
        path = self.folder / "config.yaml"
        return load_yaml(path) if path.is_file() else {}

    @cached_property
    def curves(self) -> dict[str, list[float]]:
        """The columns of a training's results.csv; empty for other runs. What is missing is not a number."""
        path = self.folder / "results.csv"
        if not path.is_file():
            return {}
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return {key: [float(row[key] or math.nan) for row in rows] for key in (rows[0] if rows else {})}

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

    A figure that a run does not have, or has as -1 (the ground truth has nothing to count it on), has neither.
    """
    if any(value is None or value == -1 for value in values):
        return Spread(None, None)
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but the seed, each with another.

    Args:
        name: of the first run's folder; with the folder above where two groups would have the same.
        runs: at least one.
    """

    name: str
    runs: tuple[RunRecord, ...] = field(default=())

    @property
    def label(self) -> str:
        """The name, with the number of runs where there are several."""
        return self.name if len(self.runs) == 1 else f"{self.name} ({len(self.runs)} seeds)"

    @property
    def figure_names(self) -> list[str]:
        """Numbers that all runs have."""
        return [
            key
            for key, value in self.runs[0].figures.items()
            if isinstance(value, int | float) and all(key in run.figures for run in self.runs)
        ]

    def figure(self, key: str) -> Spread:
        """A figure over the runs."""
        return spread([run.figures.get(key) for run in self.runs])

    def class_figure(self, name: str, key: str) -> Spread:
        """A figure of a class over the runs."""
        return spread([(run.figures.get("per_class") or {}).get(name, {}).get(key) for run in self.runs])


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.report", description="Compare runs: tables, curves, and whether a difference is real."
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of train.py or val.py; seeds are grouped")
    parser.add_argument("--samples", type=whole_number, default=500, help="resamples of the images for a comparison")
    parser.add_argument("--html", type=Path, help="the file to write (default: PROJECT/report/report.html)")
    parser.add_argument("--project", type=Path, default=ROOT / "runs" / "report", help="folder of reports")
    parser.add_argument("--json", action="store_true", help="print JSON, write no HTML")
    args = parser.parse_args(argv)
    try:
        groups = grouped(open_runs([Path(name) for name in args.runs]))
        comparisons = compare_with_first(groups, samples=args.samples)
        if args.json:
            print(json.dumps(as_dict(groups, comparisons), indent=2, ensure_ascii=False))
            return 0
        print(as_text(groups, comparisons))
        path = args.html or new_run_folder(args.project, "report") / "report.html"
        write_atomically(path, to_html(groups, comparisons))
        print(f"\nReport: {path}")
    except (ConfigError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def open_runs(folders: Sequence[Path]) -> list[RunRecord]:
    """The records of several runs.

    Raises:
        ConfigError: not the folder of a finished run, or one folder given twice.
    """
    runs = [open_run(folder) for folder in folders]
    places = [run.folder.resolve() for run in runs]
    for number, place in enumerate(places):
        if place in places[:number]:
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
    return "seed" in run.config and "seed" in other.config and _without_seed(run.config) == _without_seed(other.config)


def compare_with_first(groups: Sequence[Group], *, samples: int) -> list[Comparison | str]:
    """Each later group against the first: a comparison, or why there is none."""
    return [_compare(groups[0], group, samples=samples) for group in groups[1:]]


def as_text(groups: Sequence[Group], comparisons: Sequence[Comparison | str]) -> str:
    """The table and the verdicts, for a terminal."""
    keys = groups[0].figure_names[:6]
    width = max(len(group.label) for group in groups)
    lines = [f"{'run':{width}}  " + "  ".join(f"{key:>15}" for key in keys)]
    for group in groups:
        cells = (cell(group, key) if key in group.figure_names else "" for key in keys)
        lines.append(f"{group.label:{width}}  " + "  ".join(f"{text:>15}" for text in cells))
    for group, found in zip(groups[1:], comparisons, strict=True):
        lines.append(f"\nA = {groups[0].name}, B = {group.name}: {found}")
    return "\n".join(lines)


def as_dict(groups: Sequence[Group], comparisons: Sequence[Comparison | str]) -> dict[str, Any]:
    """The same as plain values."""
    rows = [
        {
            "name": group.name,
            "runs": [str(run.folder) for run in group.runs],
            "mean": {key: group.figure(key).mean for key in group.figure_names},
            "deviation": {key: group.figure(key).deviation for key in group.figure_names},
        }
        for group in groups
    ]
    found = [
        {"note": each} if isinstance(each, str) else {**each.__dict__, "verdict": each.verdict} for each in comparisons
    ]
    return {"groups": rows, "against_first": found}


def cell(group: Group, key: str) -> str:
    """A figure of a group as text, with its standard deviation where there is one; a dash where there is none."""
    mean, deviation = group.figure(key)
    if mean is None:
        return "–"
    return f"{mean:.4g}" if deviation is None else f"{mean:.4f} ± {deviation:.4f}"


def _compare(first: Group, second: Group, *, samples: int) -> Comparison | str:
    """The bootstrap of two groups; a text where they have no predictions on the same images."""
    truths, sides = [], []
    for group in (first, second):
        predictions = [run.predictions for run in group.runs]
        if any(rows is None for rows in predictions):
            return f"not compared: {group.name} has no predictions.json (val.py writes it with --save-json)"
        truths += [run.ground_truth for run in group.runs]
        sides.append(predictions)
    if any(truth is None for truth in truths):
        return "not compared: a run has no ground_truth.json (val.py writes it with --save-json)"
    if any(truth != truths[0] for truth in truths[1:]):
        return "not compared: the runs were not evaluated on the same images and labels"
    return compare(truths[0], *sides, samples=samples)


def _without_seed(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in ("seed", "workers")}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: is not JSON ({error}); was it written by train.py or val.py?") from None


if __name__ == "__main__":
    sys.exit(main())
