"""train.py --tune N: a search in which each trial is a training with settings of its own.

PROJECT/NAME holds the search: tune.journal (the storage of Optuna), trials.csv, best.yaml, and a folder for each trial.
The same command goes on with it, on this machine or on others that share the folder.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from data.read import check_objects, read_splits
from engine.failure import RunFailed
from engine.loop import train
from engine.options import RunOptions
from engine.search import Pruned, Trial, load_space, search
from models.build import check_recipe, task_of
from models.config import ModelConfig, model_config_from
from utils.config import ConfigError, apply_overrides, to_plain
from utils.launch import graceful_stop
from utils.log import say
from utils.provenance import file_hash
from utils.recipe import recipe_from
from utils.torchrun import launched_by_torchrun
from utils.train_config import TrainConfig

logger = logging.getLogger(__name__)


class _Interrupted(Exception):
    """Somebody asked a trial to stop; its argument is the exit status of the training."""


def tune(
    config: TrainConfig, options: RunOptions, device: torch.device, *, count: int, space_file: Path | None = None
) -> int:
    """Search until the folder PROJECT/NAME has `count` finished trials; returns the exit status.

    Args:
        config: what the trials have in common; each has its recipe with some keys changed.
        space_file: --tune-space; None for the usual one, less what the model has no use for.
    Raises:
        ConfigError: a space that does not fit, a search that was begun with other settings, data or weights, or a
            launch by torchrun.
    """
    if launched_by_torchrun():
        raise ConfigError(
            "--tune trains in one process; start it without torchrun, on each machine or GPU (--device cuda:N) once: "
            "searches with one --project and --name share their trials"
        )
    model = model_config_from(config.model, where="model")
    folder, base = options.project / options.name, to_plain(config.recipe)
    space = fitting_space(load_space(space_file), base, model, given=space_file)

    def objective(trial: Trial) -> float:
        return _train_trial(trial, config, replace(options, project=folder, name=f"trial-{trial.number}"), device)

    images = read_splits(config.data, task_of(model))
    check_objects(images.val, f"{config.data}: val: --tune has nothing to compare trials by")
    about = {
        "model": config.model,
        "image size": list(config.image_size),
        "weights": config.weights and file_hash(Path(config.weights)),
        "data": images.fingerprint(),
        "image files": {split: sha256(each.numpy().tobytes()).hexdigest() for split, each in images.files().items()},
    }
    with graceful_stop():
        try:
            study = search(folder, count, objective, space=space, seed=config.seed, base=base, about=about)
        except _Interrupted as stopped:
            logger.info("The same command goes on with the search in %s", folder)
            return stopped.args[0]
    say(_summary(study, folder))
    return 0


def fitting_space(
    space: Mapping[str, Any], base: dict[str, Any], model: ModelConfig, *, given: Path | None
) -> dict[str, Any]:
    """The part of a search space whose keys exist for the model, with bounds that the recipe takes.

    Args:
        base: recipe in plain values.
        given: the file of the space; what does not fit is left out of the usual space alone.
    Raises:
        ConfigError: a key or a bound of a file that does not fit, all of them at once, or nothing is left.
    """
    problems = {key: problem for key, entry in space.items() if (problem := _problem(key, entry, base, model))}
    if problems and given is not None:
        raise ConfigError(*(f"{given}: {problem}" for problem in problems.values()))
    if problems:
        logger.info("Not searched, for this model does not have them: %s", ", ".join(problems))
    fitting = {key: entry for key, entry in space.items() if key not in problems}
    if not fitting:
        raise ConfigError("--tune: nothing to search; name keys of the recipe in a file (--tune-space FILE)")
    return fitting


def _problem(key: str, entry: Any, base: dict[str, Any], model: ModelConfig) -> str | None:
    """What is wrong with a key or one of its outermost values."""
    for value in entry if isinstance(entry, list) else (entry["low"], entry["high"]):
        try:
            check_recipe(model, recipe_from(apply_overrides(base, [f"{key}={json.dumps(value)}"]), where="recipe"))
        except ConfigError as error:
            return str(error)
    return None


def _train_trial(trial: Trial, config: TrainConfig, options: RunOptions, device: torch.device) -> float:
    """The best result of a training with the trial's settings.

    Raises:
        Pruned: it is far behind, or a loss was not a finite number.
        _Interrupted: it was asked to stop.
    """
    recipe = recipe_from(apply_overrides(to_plain(config.recipe), trial.settings), where="recipe")
    try:
        status = train(replace(config, recipe=recipe), options, device, trial=trial)
    except RunFailed as error:
        if not any((options.project / options.name).glob("replay_step*.pt")):  # no fault of the settings
            raise
        raise Pruned(f"trial {trial.number} is no training: {str(error).splitlines()[0]}") from None
    if status:
        raise _Interrupted(status)
    return max(trial.results)


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
