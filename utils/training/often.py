"""The options of train.py that train more than once: --seeds and --tune."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path

from utils.config import ConfigError
from utils.run import Run
from utils.training.config import RecipeConfig, TrainConfig
from utils.training.repeats import OnResult, train_with_seeds
from utils.training.trials import tune

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
