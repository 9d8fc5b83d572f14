"""What a command line of train.py asks for: a configuration, and how and where it is trained."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

from data.config import load_data_config, write_data_yaml
from models.config import load_model_config
from utils.arguments import default_workers
from utils.config import ROOT, ConfigError, to_plain
from utils.recipe import load_recipe
from utils.run import Run, check_there
from utils.train_config import TrainConfig, saved_config

FIXED_BY_A_RUN = (
    *("cfg", "data", "hyp", "weights", "batch_size", "img_size", "seed", "set", "deterministic", "dry_run"),
    *("seeds", "tune", "tune_space"),
)
"""Options that --resume takes from the run, so that it continues as it began."""

MODEL = "cspdet-n"
"""Trained on --data where nothing else is said."""


@dataclass(frozen=True)
class RunOptions:
    """What the command line says about a run beside its configuration.

    Args:
        project, name: a new run gets the folder PROJECT/NAME, or NAME2, NAME3, ...
        threads: CPU threads of PyTorch; None leaves them alone.
        auto_batch: the batch size is found by trial.
        dry_run: everything is tried once, and nothing is kept.
        trust: --weights may run the code in a foreign pickle file.
        command: the options as they were typed, by name; what a restarted launch finds its run by.
    """

    project: Path
    name: str
    threads: int | None = None
    auto_batch: bool = False
    dry_run: bool = False
    trust: bool = False
    command: argparse.Namespace | None = None

    @classmethod
    def of(cls, args: argparse.Namespace) -> RunOptions:
        """The options of a parsed command line."""
        return cls(
            project=Path(args.project),
            name=args.name,
            threads=args.threads,
            auto_batch=args.batch_size == "auto",
            dry_run=args.dry_run,
            trust=args.trust,
            command=args,
        )


def resolve(args: argparse.Namespace) -> tuple[TrainConfig, Run | None]:
    """The configuration that the command line asks for, and the run to resume, if any.

    It looks at what YAML and the names of files can show, before torch is imported; `models.build.check_recipe` and
    the model itself come after it.

    Raises:
        ConfigError: anything wrong with the command line or a file that it names.
    """
    if args.resume is not None:
        return _resumed(args)
    _check_several(args)
    if args.cfg is None and (args.data in (None, "shapes") or args.weights):
        known = ", ".join(sorted(path.name for path in (ROOT / "cfg").glob("*.yaml")))
        raise ConfigError(f"--cfg is missing: name a model, for example --cfg csppeleenet-prn.yaml. Known: {known}")
    if args.weights is not None:
        check_there(Path(args.weights), option="--weights")
    data = "shapes" if args.data in (None, "shapes") else _data_source(args)
    for_model = [text.removeprefix("model.") for text in args.set if text.startswith("model.")]
    for_recipe = [text for text in args.set if not text.startswith("model.")]
    model = load_model_config(args.cfg or MODEL, for_model)
    usual = "imagenet-small" if model.head.get("type") == "classify" else "shapes" if data == "shapes" else "default"
    recipe = load_recipe(args.hyp or usual, for_recipe)
    recipe = replace(
        recipe,
        epochs=total_epochs(args.epochs) or recipe.epochs,
        batch_size=recipe.batch_size if args.batch_size in (None, "auto") else args.batch_size,
        image_size=_as_key(args.img_size) if args.img_size else recipe.image_size,
        deterministic=args.deterministic or recipe.deterministic,
    )
    size, workers = recipe.size or model.size, default_workers() if args.workers is None else args.workers
    return TrainConfig(to_plain(model), recipe, data, size, args.weights, args.seed or 0, workers), None


def _as_key(size: tuple[int, int]) -> int | list[int]:
    """A (height, width) as the recipe's key `image_size`: one number for a square."""
    height, width = size
    return height if height == width else [height, width]


def _data_source(args: argparse.Namespace) -> str:
    """The data YAML or folder that --data names; --write saves what a folder holds as its YAML."""
    config = load_data_config(args.data)
    return str(write_data_yaml(config) if args.write else config.source)


def _resumed(args: argparse.Namespace) -> tuple[TrainConfig, Run]:
    """The configuration of the run that --resume names, with the processes and epochs of the command line.

    More epochs stretch the schedule: from here on the learning rate is that of the longer training at the same step.

    Raises:
        ConfigError: no such run, or an option that a run keeps.
    """
    values = {name: getattr(args, name) for name in FIXED_BY_A_RUN}
    # --seed 0 is given too, although 0 == False.
    given = [name for name, value in values.items() if value is not False and value not in (None, [])]
    if given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(f"--resume continues a run as it was started; leave out {options}")
    run = Run.find(args.resume, Path(args.project))
    config = saved_config(run.folder / "config.yaml", workers=args.workers)
    planned = config.recipe.total_epochs
    epochs = total_epochs(args.epochs, planned=planned)
    if epochs is not None and epochs < planned:
        raise ConfigError(f"--epochs {epochs}: the run was planned for {planned}; --resume can only lengthen it")
    return replace(config, recipe=replace(config.recipe, epochs=epochs or planned)), run


def _check_several(args: argparse.Namespace) -> None:
    """Refuse options of several trainings that contradict each other.

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


def total_epochs(text: str | None, *, planned: int | None = None) -> int | None:
    """What --epochs means: a number, or `planned` and some more; None where it is left out.

    Raises:
        ValueError: '+N' where nothing is planned yet.
    """
    if text is None or not text.startswith("+"):
        return None if text is None else int(text)
    if planned is None:
        raise ValueError(f"--epochs {text}: '+N' adds to a run that --resume names; give the number alone to start one")
    return planned + int(text)
