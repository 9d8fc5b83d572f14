"""The command line of train.py."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from utils.arguments import whole_number
from utils.config import ROOT, ConfigError
from utils.run import Run
from utils.train_config import TrainConfig, saved_config

FIXED_BY_A_RUN = ("cfg", "data", "hyp", "weights", "batch_size", "img_size", "seed", "set", "deterministic", "dry_run")
FIXED_BY_A_RUN += ("seeds", "tune", "tune_space")
"""Options that --resume takes from the run, so that it goes on as it began."""


def parse_train_args(argv: list[str] | None) -> argparse.Namespace:
    """Options as in docs/reference.md."""
    parser = argparse.ArgumentParser(prog="train.py", description="Train a detector.", allow_abbrev=False)
    parser.add_argument("--cfg", help="model: a path, or a name in cfg/; or a darknet .cfg")
    parser.add_argument("--data", nargs="?", const="shapes", help="data YAML (default: shapes, the embedded set)")
    parser.add_argument("--hyp", help="recipe: a path, or a name in cfg/train/ (default: default; for shapes: shapes)")
    parser.add_argument("--weights", help="checkpoint, or darknet .weights or .conv.N file, to start from")
    parser.add_argument("--epochs", type=epochs, help="passes over the training images; +N with --resume: N more")
    parser.add_argument("--batch-size", type=batch_size, help="images in a batch, over all processes; or auto")
    parser.add_argument("--img-size", type=whole_number, help="side of the network input in pixels")
    parser.add_argument("--device", help="cpu, cuda, cuda:N or mps (default: the fastest there is)")
    parser.add_argument("--workers", type=int, help="loader processes (default: half the cores, at most 8)")
    parser.add_argument("--threads", type=whole_number, help="CPU threads of PyTorch (default: its own choice)")
    parser.add_argument("--seed", type=int, help="of weights, order and augmentation (default: 0)")
    parser.add_argument(
        "--seeds", type=whole_number, metavar="N", help="train N times, seeds from --seed on; mean and SD"
    )
    parser.add_argument(
        "--tune", type=whole_number, metavar="N", help="search the recipe's best settings in N trainings"
    )
    parser.add_argument(
        "--tune-space", metavar="FILE", help="YAML of what --tune varies (default: rate, losses, images)"
    )
    parser.add_argument("--deterministic", action="store_true", help="on CUDA: only kernels that repeat to the bit")
    parser.add_argument("--resume", nargs="?", const="", metavar="RUN", help="continue a run (default: the newest)")
    parser.add_argument("--trust", action="store_true", help="let --weights run the code in a foreign pickle file")
    parser.add_argument("--dry-run", action="store_true", help="try everything on one batch, say what it will cost")
    parser.add_argument("--replay", metavar="FILE", help="repeat the step that a replay file holds")
    parser.add_argument("--project", default=str(ROOT / "runs" / "train"), help="folder of runs")
    parser.add_argument("--name", default="exp", help="folder of this run in PROJECT; never overwritten")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a key of the recipe (optimizer.lr=0.01) or of the model (model.neck.spp_kernels=null); may be repeated",
    )
    return parser.parse_args(argv)


def resume_config(args: argparse.Namespace) -> tuple[TrainConfig, Run]:
    """The configuration of the run that --resume names, with the processes and epochs of the command line.

    More epochs stretch the schedule: from here on the learning rate is that of the longer training at the same step.

    Raises:
        ConfigError: no such run, or an option that a run keeps.
    """
    values = {name: getattr(args, name) for name in FIXED_BY_A_RUN}
    # --seed 0 is given too, although 0 == False.
    values = {name: value for name, value in values.items() if value is not False and value not in (None, [])}
    given = [f"--{name.replace('_', '-')}" for name in values]
    if given:
        raise ConfigError(f"--resume continues a run as it was started; leave out {', '.join(given)}")
    run = Run.find(args.resume, Path(args.project))
    config = saved_config(run.folder / "config.yaml", workers=args.workers)
    epochs = total_epochs(args.epochs, planned=config.recipe.epochs)
    if epochs is not None and epochs < config.recipe.epochs:
        planned = config.recipe.epochs
        raise ConfigError(f"--epochs {epochs}: the run was planned for {planned}; --resume can only lengthen it")
    return replace(config, recipe=replace(config.recipe, epochs=epochs or config.recipe.epochs)), run


def epochs(text: str) -> str:
    """N or +N; kept as text until it is known what it adds to."""
    digits = text.removeprefix("+")
    if not digits.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, or +N, found {text}")
    whole_number(digits)
    return text


def batch_size(text: str) -> int | str:
    """A whole number from 1, or 'auto'."""
    return text if text == "auto" else whole_number(text)


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
