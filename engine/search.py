"""Hyper-parameter search with Optuna: trials in one storage file, which several machines may share."""

from __future__ import annotations

import copy
import csv
import io
import json
import logging
import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.config import ConfigError, dump_yaml, load_yaml
from utils.files import write_atomically
from utils.program import is_alive
from utils.text import shown

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)

SPACE: dict[str, Any] = {
    "optimizer.lr": {"low": 0.001, "high": 0.05, "log": True},
    "optimizer.weight_decay": {"low": 0.001, "high": 0.1, "log": True},
    "schedule.warmup_epochs": {"low": 0.5, "high": 5.0},
    "loss.box_gain": {"low": 2.0, "high": 12.0},
    "loss.class_gain": {"low": 0.25, "high": 2.0, "log": True},
    "augment.mosaic": {"low": 0.0, "high": 1.0},
    "augment.close_mosaic": {"low": 0.05, "high": 0.5},
    "augment.mixup": {"low": 0.0, "high": 0.3},
    "augment.scale": {"low": 0.1, "high": 0.7},
    "augment.translate": {"low": 0.0, "high": 0.3},
    "augment.hue": {"low": 0.0, "high": 0.1},
    "augment.saturation": {"low": 0.0, "high": 0.9},
    "augment.value": {"low": 0.0, "high": 0.6},
}
"""What is searched when --tune-space names no file: keys of the recipe, each with bounds or a list of choices."""

MISSING = "--tune needs the package optuna, which is not installed; install it with: pip install 'optuna>=4.3'"


LOCK_SECONDS = 30
"""After so long a lock of the journal counts as left behind by a killed process; a record takes milliseconds."""


class Pruned(Exception):
    """A trial that is so far behind the others that it is not worth finishing."""


class Trial:
    """One training of a search.

    Args:
        record: of the trial in Optuna's study.
        settings: KEY=VALUE assignments of the recipe, values as YAML.
    """

    def __init__(self, record: optuna.Trial, settings: list[str]) -> None:
        self.record = record
        self.number = record.number
        """Counted from 0 over all machines."""
        self.settings = settings
        self.results: list[float] = []

    def report(self, epoch: int, result: float) -> None:
        """Note the main figure of an evaluation.

        Raises:
            Pruned: the trial is far behind the others.
        """
        self.results.append(result)
        self.record.report(result, epoch)
        if self.record.should_prune():
            raise Pruned(f"trial {self.number} is behind the others after epoch {epoch}")


def load_space(path: Path | None) -> dict[str, Any]:
    """The search space of a YAML file: {key: {low, high, log}} or {key: [choices]}; None: `SPACE`.

    Raises:
        ConfigError: an entry that is neither.
    """
    space = SPACE if path is None else load_yaml(path)
    for key, entry in space.items():
        bounds = isinstance(entry, Mapping) and {"low", "high"} <= set(entry) <= {"low", "high", "log"}
        if bounds and all(isinstance(entry[side], int | float) for side in ("low", "high")):
            if not entry["low"] < entry["high"]:
                raise ConfigError(f"{path}: {key}: low {entry['low']} is not below high {entry['high']}")
            if entry.get("log") and entry["low"] <= 0:
                raise ConfigError(f"{path}: {key}: log: true needs a low above 0, found {entry['low']}")
        elif not (isinstance(entry, list) and entry):
            raise ConfigError(f"{path}: {key}: expected {{low: A, high: B, log: true}} or a list, found {shown(entry)}")
        elif not all(choice is None or isinstance(choice, str | int | float) for choice in entry):
            raise ConfigError(
                f"{path}: {key}: expected a list of numbers, texts, true, false or null, found {shown(entry)}"
            )
    return dict(space)


def search(
    folder: Path,
    trials: int,
    objective: Callable[[Trial], float],
    *,
    space: Mapping[str, Any],
    seed: int = 0,
    base: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
) -> optuna.Study:
    """Run trials until the storage in `folder` has so many finished ones; best.yaml and trials.csv follow each.

    The storage is Optuna's journal file, made for a folder that several machines share: each starts the same command,
    and together they stop at `trials`. A search that was killed goes on where it was.

    Args:
        folder: with tune.journal, made if it is new.
        objective: a training; gives the figure to be made large.
        seed: what a trial draws depends on it, on the trial's number, and on the trials before.
        base: the recipe, in plain values, that the settings are put into, as best.yaml has it with those of the best.
        about: what else the trials have in common, in plain values; a search goes on with the same alone.
    Raises:
        ConfigError: Optuna is not installed, the journal is damaged, or the search in `folder` was begun with another
            space, `base` or `about`.
    """
    try:
        import optuna
    except ImportError:
        raise ConfigError(MISSING) from None

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name="cspdet",
        storage=_open_journal(folder / "tune.journal"),
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=3),
        load_if_exists=True,
    )
    wanted = {"search space": space, "recipe": base, **(about or {})}
    _check_same(study, json.loads(json.dumps(wanted)), folder)
    _close_abandoned(study)

    def run(trial: optuna.Trial) -> float:
        # By the number, which no other machine has: together they must not try the same.
        study.sampler = optuna.samplers.TPESampler(seed=1000 * seed + trial.number)
        return _run_trial(trial, objective, space)

    states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    enough = optuna.study.MaxTrialsCallback(trials, states=states)
    if len(study.get_trials(deepcopy=False, states=states)) < trials:
        study.optimize(run, callbacks=[lambda study, _: _write_results(study, folder, base), enough])
    _write_results(study, folder, base)
    return study


def _run_trial(trial: optuna.Trial, objective: Callable[[Trial], float], space: Mapping[str, Any]) -> float:
    """Draw the settings of a trial and train with them; ends early where the trial is far behind the others."""
    import optuna

    trial.set_user_attr("host", platform.node())
    trial.set_user_attr("process", os.getpid())
    settings = [f"{key}={json.dumps(_draw(trial, key, entry))}" for key, entry in space.items()]

    logger.info("Trial %d: %s", trial.number, ", ".join(settings))
    try:
        return objective(Trial(trial, settings))
    except Pruned as pruned:
        logger.info("Stopped: %s", pruned)
        raise optuna.TrialPruned from None


def _open_journal(path: Path) -> optuna.storages.JournalStorage:
    """The storage in a file, which is mended first."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    # Optuna's usual lock is a link to the journal's path, and once left behind it can only be told to be old where that
    # path leads to the journal: not where it is relative, and not on a machine that has the folder elsewhere.
    lock = JournalFileOpenLock(str(path), grace_period=LOCK_SECONDS)
    storage = JournalFileBackend(str(path), lock_obj=lock)
    lock.acquire()  # nobody is writing now, so that a line without an end will not get one
    try:
        _cut_torn_end(path)
    finally:
        lock.release()
    return JournalStorage(storage)


def _cut_torn_end(path: Path) -> None:
    """Cut off a last record that a power cut or a full disk left unfinished: the next one would be joined to it.

    Raises:
        ConfigError: a record before the last is damaged.
    """
    whole, torn = 0, None
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if torn is not None:
                raise ConfigError(
                    f"{path}: line {torn} is damaged, and others follow it. Keep the lines before it alone (head -n "
                    f"{torn - 1}): the search goes on from there; or take another --name"
                )
            if _is_record(line):
                whole += len(line)
            else:
                torn = number
    if torn is not None:
        logger.warning("%s: the last line was not written to its end and is cut off", path)
        with open(path, "rb+") as file:
            file.truncate(whole)
            os.fsync(file.fileno())


def _is_record(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _check_same(study: optuna.Study, wanted: dict[str, Any], folder: Path) -> None:
    """Note what the search is about when it begins, and refuse another one later."""
    known = study.user_attrs.get("about")
    if known is None:
        study.set_user_attr("about", wanted)
    elif parts := " and ".join(key for key in known if known[key] != wanted.get(key)):  # older releases noted less
        raise ConfigError(
            f"{folder}: this search was begun with other settings (not the same: {parts}); give the same again to go "
            "on with it, or take another --name"
        )


def _draw(trial: optuna.Trial, key: str, entry: Any) -> Any:
    if isinstance(entry, list):
        return trial.suggest_categorical(key, entry)
    whole = all(isinstance(entry[side], int) for side in ("low", "high"))
    draw = trial.suggest_int if whole else trial.suggest_float
    return draw(key, entry["low"], entry["high"], log=bool(entry.get("log", False)))


def _close_abandoned(study: optuna.Study) -> None:
    """Mark trials as failed whose process on this machine is gone; a killed search leaves them as running."""
    import optuna

    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        mine = trial.user_attrs.get("host") == platform.node()
        if mine and not is_alive(trial.user_attrs.get("process", 0)):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            logger.info("Trial %d was cut off and does not count", trial.number)


def _write_results(study: optuna.Study, folder: Path, base: Mapping[str, Any] | None) -> None:
    """trials.csv with every trial, and best.yaml, the recipe of the best one, for --hyp."""
    import optuna

    trials = study.get_trials(deepcopy=False)
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["trial", "state", "value", *names])
    for trial in trials:
        drawn = [trial.params.get(name, "") for name in names]
        writer.writerow([trial.number, trial.state.name.lower(), "" if trial.value is None else trial.value, *drawn])
    write_atomically(folder / "trials.csv", text.getvalue())
    if any(trial.state == optuna.trial.TrialState.COMPLETE for trial in trials):
        best = copy.deepcopy(dict(base or {}))
        for key, value in study.best_trial.params.items():
            group = best
            *path, last = key.split(".")
            for part in path:
                group = group.setdefault(part, {})
            group[last] = value
        write_atomically(folder / "best.yaml", dump_yaml(best))
