"""train.py --seeds N: the same training with several seeds, and what its figures come to.

PROJECT/NAME-seeds.json names the runs, PROJECT/NAME-seed0, -seed1, ...; the same command finds it again and goes on
with what is unfinished, or, if N has grown, with the seeds that are missing.
"""

from __future__ import annotations

import itertools
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from engine.loop import train
from engine.options import RunOptions
from utils import dist
from utils.config import ConfigError, to_plain
from utils.files import write_json
from utils.launch import Stop, graceful_stop
from utils.log import say
from utils.report import as_text
from utils.run import Run
from utils.run_records import Group, grouped, open_run, without_seed
from utils.text import from_json
from utils.torchrun import launched_rank
from utils.train_config import TrainConfig, saved_config

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Repeats:
    """The runs of one set of seeds.

    Args:
        journal: PROJECT/NAME-seeds.json.
        settings: what the runs have in common, in plain values.
    """

    journal: Path
    settings: dict[str, Any]

    @classmethod
    def find(cls, project: Path, name: str, config: TrainConfig) -> Repeats:
        """The set that was begun with these settings, or a new one under the first of NAME, NAME2, ... that is free.

        Raises:
            ConfigError: a journal that cannot be read.
        """
        settings = _settings(config)
        for number in itertools.count(1):
            stem = name if number == 1 else f"{name}{number}"
            repeats = cls(project / f"{stem}-seeds.json", settings)
            if repeats.journal.is_file():
                if _read(repeats.journal)["settings"] == settings:
                    return repeats
            elif not any(project.glob(f"{stem}-seed[0-9]*")):
                return repeats
        raise AssertionError("unreachable")

    def folder(self, seed: int) -> Path:
        """Of the run with a seed."""
        return self.journal.with_name(f"{self.journal.name.removesuffix('s.json')}{seed}")

    def begin(self, seeds: Sequence[int]) -> None:
        """Write the journal, which keeps seeds that it named before."""
        self.journal.parent.mkdir(parents=True, exist_ok=True)
        self._write(seeds)

    def finish(self, seeds: Sequence[int]) -> Group:
        """Note mean and standard deviation of the runs' figures in the journal.

        Raises:
            ConfigError: the runs differ in more than the seed.
        """
        groups = grouped([open_run(self.folder(seed)) for seed in seeds])
        if len(groups) > 1:
            one, two = (group.runs[0].folder for group in groups[:2])
            raise ConfigError(
                f"{self.journal}: {one.name} and {two.name} differ in more than the seed; was one of them lengthened "
                "(--resume RUN --epochs N)? Bring the others to the same, or take another --name"
            )
        group = Group(self.journal.name.removesuffix("-seeds.json"), groups[0].runs)
        names = group.figure_names
        self._write(
            seeds,
            mean={key: group.figure(key).mean for key in names},
            deviation={key: group.figure(key).deviation for key in names},
            figures={run.folder.name: {key: run.figures[key] for key in names} for run in group.runs},
        )
        return group

    def _write(self, seeds: Sequence[int], **result: Any) -> None:
        before = [int(seed) for seed in _read(self.journal)["runs"]] if self.journal.is_file() else []
        runs = {str(seed): self.folder(seed).name for seed in sorted({*before, *seeds})}
        write_json(self.journal, {"settings": self.settings, "runs": runs, **result}, indent=2)


def train_with_seeds(config: TrainConfig, options: RunOptions, device: torch.device, *, count: int) -> int:
    """Train with `count` seeds from the configuration's on, one after the other; returns the exit status.

    Every process of a torchrun launch calls this; the first decides what is to be done.

    Raises:
        ConfigError: a journal that cannot be read, or runs that were changed since.
    """
    seeds = [config.seed + number for number in range(count)]
    first = launched_rank() == 0
    journal = None
    if first:
        begun = Repeats.find(options.project, options.name, config)
        begun.begin(seeds)
        journal = str(begun.journal)
    repeats = Repeats(Path(dist.exchange(journal)[0]), _settings(config))
    with graceful_stop() as stop:
        for number, seed in enumerate(seeds, start=1):
            folder = repeats.folder(seed)
            status = _stopped(stop)
            if not status:
                logger.info("Seed %d (%d of %d): %s", seed, number, count, folder)
                status = _train_one(replace(config, seed=seed), folder, options, device)
            if status:
                logger.info("The same command goes on with what is left of %s", repeats.journal)
                return status
    if first:
        say(f"\n{as_text([repeats.finish(seeds)], [])}\n\nMean and standard deviation: {repeats.journal}")
    return 0


def _train_one(config: TrainConfig, folder: Path, options: RunOptions, device: torch.device) -> int:
    """Train in `folder`, or on from where it was; nothing if it is finished. Returns the exit status."""
    state = dist.exchange(_state_of(folder) if launched_rank() == 0 else None)[0]
    options = replace(options, project=folder.parent, name=folder.name)
    if state == "finished":
        logger.info("It was finished before")
        return 0
    if state == "new":
        return train(config, options, device)
    return train(saved_config(folder / "config.yaml", workers=config.workers), options, device, resumed=Run(folder))


def _state_of(folder: Path) -> str:
    """'new', 'begun' or 'finished'; what a killed training left before its first file is taken away."""
    if (folder / "metrics.json").is_file():
        return "finished"
    if (folder / "config.yaml").is_file():
        return "begun"
    if folder.exists():
        if any(path.is_file() and path.suffix != ".tmp" for path in (folder, *folder.rglob("*"))):
            raise ConfigError(f"{folder}: is in the way and not the folder of a run; move it, or take another --name")
        shutil.rmtree(folder)
    return "new"


def _stopped(stop: Stop) -> int:
    """The exit status when somebody has asked to stop, 0 otherwise; the same in all processes."""
    asked = [number for number in dist.exchange(stop.signal) if number]
    return 128 + asked[0] if asked else 0


def _settings(config: TrainConfig) -> dict[str, Any]:
    """What runs have in common, as JSON gives it back."""
    return json.loads(json.dumps(without_seed(to_plain(config))))


def _read(journal: Path) -> dict[str, Any]:
    try:
        content = from_json(journal.read_text(encoding="utf-8"))
        return {"settings": content["settings"], "runs": dict(content["runs"])}
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{journal}: was not written by --seeds; move it, or take another --name") from None
