"""train.py --seeds N: the same training with several seeds, and what its figures come to.

PROJECT/NAME-seeds.json names the runs, PROJECT/NAME-seed0, -seed1, ...; the same command finds it again and goes on
with what is unfinished, or, if N has grown, with the seeds that are missing.
"""

from __future__ import annotations

import itertools
import json
import logging
import shutil
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from engine.failure import RunFailed
from engine.tune import Pruned, Trial, load_space, search
from utils import dist
from utils.config import ConfigError, apply_overrides, to_plain
from utils.files import write_json
from utils.launch import Stop, graceful_stop
from utils.provenance import file_hash
from utils.recipe import RecipeConfig, recipe_from
from utils.report import as_text
from utils.run import Run
from utils.run_records import Group, grouped, open_run
from utils.train_config import TrainConfig, saved_config


class _Interrupted(Exception):
    """Somebody asked a trial to stop.

    Args:
        status: of the training.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"stopped with status {status}")
        self.status = status


def tune(
    config: TrainConfig,
    count: int,
    train: Trainer,
    *,
    folder: Path,
    space_file: Path | None,
    check: Callable[[RecipeConfig], None],
    fingerprint: Callable[[], Mapping[str, str]],
) -> int:
    """Search until `folder` has `count` finished trials; returns the exit status.

    Args:
        config: what the trials have in common; each has its recipe with some keys changed.
        space_file: --tune-space; None for the usual one, less what the model has no use for.
        check: refuses a recipe that does not fit the model, with a ConfigError.
        fingerprint: reads the data, and gives the fingerprint of each split.
    Raises:
        ConfigError: a space that does not fit, a search that was begun with other settings, data or weights, or a
            launch by torchrun.
    """
    if dist.launched_by_torchrun():
        raise ConfigError(
            "--tune trains in one process; start it without torchrun, on each machine or GPU (--device cuda:N) once: "
            "searches with one --project and --name share their trials"
        )
    base = to_plain(config.recipe)
    space = fitting(load_space(space_file), base, check, given=space_file)

    def objective(trial: Trial) -> float:
        return _train_trial(trial, config, train, folder / f"trial-{trial.number}")

    weights = Path(config.weights) if config.weights else None
    about = {"model": config.model, "image size": list(config.image_size), "weights": weights and file_hash(weights)}
    about["data"] = dict(fingerprint())
    with graceful_stop():
        try:
            study = search(folder, count, objective, space=space, seed=config.seed, base=base, about=about)
        except _Interrupted as stopped:
            logger.info("The same command goes on with the search in %s", folder)
            return stopped.status
    print(_summary(study, folder))
    return 0


def fitting(
    space: Mapping[str, Any], base: dict[str, Any], check: Callable[[RecipeConfig], None], *, given: Path | None
) -> dict[str, Any]:
    """The part of a search space whose keys exist for the model, with bounds that the recipe takes.

    Args:
        base: recipe in plain values.
        given: the file of the space; what does not fit is left out of the usual space alone.
    Raises:
        ConfigError: a key or a bound of a file that does not fit, all of them at once, or nothing is left.
    """
    problems = {key: problem for key, entry in space.items() if (problem := _problem(key, entry, base, check))}
    if problems and given is not None:
        raise ConfigError("\n".join(f"{given}: {problem}" for problem in problems.values()))
    if problems:
        logger.info("Not searched, for this model does not have them: %s", ", ".join(problems))
    found = {key: entry for key, entry in space.items() if key not in problems}
    if not found:
        raise ConfigError("--tune: nothing to search; name keys of the recipe in a file (--tune-space FILE)")
    return found


def _problem(key: str, entry: Any, base: dict[str, Any], check: Callable[[RecipeConfig], None]) -> str | None:
    """What is wrong with a key or one of its outermost values."""
    for value in entry if isinstance(entry, list) else (entry["low"], entry["high"]):
        try:
            check(recipe_from(apply_overrides(base, [f"{key}={json.dumps(value)}"]), where="recipe"))
        except ConfigError as error:
            return str(error)
    return None


def _train_trial(trial: Trial, config: TrainConfig, train: Trainer, folder: Path) -> float:
    """The best result of a training with the trial's settings.

    Raises:
        Pruned: it is far behind, or a loss was not a finite number.
        _Interrupted: it was asked to stop.
    """
    results: list[float] = []

    def on_result(epoch: int, result: float) -> None:
        results.append(result)
        trial.report(epoch, result)

    recipe = recipe_from(apply_overrides(to_plain(config.recipe), trial.settings), where="recipe")
    try:
        status = train(folder, replace(config, recipe=recipe), on_result=on_result)
    except RunFailed as error:
        if not any(folder.glob("replay_step*.pt")):  # no fault of the settings
            raise
        raise Pruned(f"trial {trial.number} is no training: {str(error).splitlines()[0]}") from None
    if status:
        raise _Interrupted(status)
    return max(results)


def _summary(study: Any, folder: Path) -> str:
    """The best trial, and how to train with its settings."""
    finished = [trial for trial in study.get_trials(deepcopy=False) if trial.value is not None]
    if not any(trial.state.name == "COMPLETE" for trial in finished):
        return f"\nNo trial was finished; {folder / 'trials.csv'} lists what became of them"
    best = study.best_trial
    lines = [f"\nBest of {len(finished)} trials: {best.value:.4f} by trial {best.number}, {folder}/trial-{best.number}"]
    lines += [
        f"  {key}: {value:.4g}" if isinstance(value, float) else f"  {key}: {value}"
        for key, value in best.params.items()
    ]
    return "\n".join(
        [*lines, f"Recipe: {folder / 'best.yaml'}\nNext: python train.py --hyp {folder / 'best.yaml'} ..."]
    )


logger = logging.getLogger(__name__)


OnResult = Callable[[int, float], None]
"""Called after each evaluation with the epochs done and the main figure; what it raises ends the training."""


class Trainer(Protocol):
    """Trains one configuration in a folder that is new, or on from a run; returns the exit status of the training."""

    def __call__(
        self, folder: Path, config: TrainConfig, run: Run | None = None, *, on_result: OnResult | None = None
    ) -> int: ...


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
            found = cls(project / f"{stem}-seeds.json", settings)
            if found.journal.is_file():
                if _read(found.journal)["settings"] == settings:
                    return found
            elif not any(project.glob(f"{stem}-seed[0-9]*")):
                return found
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


def train_with_seeds(config: TrainConfig, count: int, train: Trainer, *, project: Path, name: str) -> int:
    """Train with `count` seeds from the configuration's on, one after the other; returns the exit status.

    Every process of a torchrun launch calls this; the first decides what is to be done.

    Raises:
        ConfigError: a journal that cannot be read, or runs that were changed since.
    """
    seeds = [config.seed + number for number in range(count)]
    first = dist.launched_rank() == 0
    found = None
    if first:
        found = Repeats.find(project, name, config)
        found.begin(seeds)
    journal = dist.exchange(found and str(found.journal))[0]
    repeats = Repeats(Path(journal), _settings(config))
    with graceful_stop() as stop:
        for place, seed in enumerate(seeds):
            status = _stopped(stop) or _train_one(repeats, seed, config, train, title=f"{place + 1} of {count}")
            if status:
                logger.info("The same command goes on with what is left of %s", repeats.journal)
                return status
    if first:
        print(f"\n{as_text([repeats.finish(seeds)], [])}\n\nMean and standard deviation: {repeats.journal}")
    return 0


def _train_one(repeats: Repeats, seed: int, config: TrainConfig, train: Trainer, *, title: str) -> int:
    """Train with one seed, or on from where it was; nothing if it is finished. Returns the exit status."""
    folder = repeats.folder(seed)
    state = dist.exchange(_state_of(folder) if dist.launched_rank() == 0 else None)[0]
    if state == "finished":
        logger.info("Seed %d (%s): finished before, %s", seed, title, folder)
        return 0
    logger.info("Seed %d (%s): %s", seed, title, folder)
    if state == "new":
        return train(folder, replace(config, seed=seed))
    return train(folder, saved_config(folder / "config.yaml", workers=config.workers), Run(folder))


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
    plain = {key: value for key, value in to_plain(config).items() if key not in ("seed", "workers")}
    return json.loads(json.dumps(plain))


def _read(journal: Path) -> dict[str, Any]:
    try:
        content = json.loads(journal.read_text(encoding="utf-8"))
        return {"settings": content["settings"], "runs": dict(content["runs"])}
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{journal}: was not written by --seeds; move it, or take another --name") from None


__all__ = ["OnResult", "check_options", "train_often"]


def check_options(args: Namespace) -> None:
    """Refuse options that contradict each other.

    Raises:
        ConfigError: names them.
    """
    if args.seeds and args.tune:
        raise ConfigError(
            "--seeds and --tune: choose one; the best recipe of a search can be trained with --seeds after it"
        )
    if args.tune_space and not args.tune:
        raise ConfigError("--tune-space is what --tune N varies; give --tune N too")
    if (args.seeds or args.tune) and args.batch_size == "auto":
        option = "--seeds" if args.seeds else "--tune"
        raise ConfigError(
            f"{option}: trainings that are compared need one batch size; name the number (--dry-run --batch-size auto "
            "finds one)"
        )


def train_often(
    config: TrainConfig,
    args: Namespace,
    train: Callable[..., int],
    *,
    check: Callable[[RecipeConfig], None],
    fingerprint: Callable[[], Mapping[str, str]],
) -> int:
    """Do what --seeds or --tune asks for; returns the exit status.

    Args:
        train: (config, run to resume, options, on_result=...) -> exit status.
        check: refuses a recipe that does not fit the model, with a ConfigError.
        fingerprint: reads the data, and gives the fingerprint of each split.
    """

    def train_in(
        folder: Path, config: TrainConfig, run: Run | None = None, *, on_result: OnResult | None = None
    ) -> int:
        place = {"project": str(folder.parent), "name": folder.name}
        return train(config, run, Namespace(**vars(args) | place), on_result=on_result)

    project = Path(args.project)
    if args.seeds:
        return train_with_seeds(config, args.seeds, train_in, project=project, name=args.name)
    space = Path(args.tune_space) if args.tune_space else None
    about = {"check": check, "fingerprint": fingerprint}
    return tune(config, args.tune, train_in, folder=project / args.name, space_file=space, **about)
