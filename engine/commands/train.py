"""What train.py does once its command line is read."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from engine.dry_run import dry_run
from engine.loop import train
from engine.options import RunOptions, resolve
from engine.replay import replay
from engine.restart import continued
from engine.seeds import train_with_seeds
from engine.tune import tune
from models.build import check_recipe
from models.config import model_config_from
from utils.device import select_device
from utils.run import Run
from utils.torchrun import local_rank
from utils.train_config import TrainConfig


def run(args: argparse.Namespace, asked: tuple[TrainConfig, Run | None] | None = None) -> int:
    """Train once or several times, or repeat a step, as the command line says; returns the exit status.

    Args:
        asked: what `resolve` makes of the command line, where that is known already.
    """
    device = select_device(args.device, local_rank=local_rank())
    if device.type == "cuda":
        torch.cuda.set_device(device)  # events, page-locked memory and generators are those of the current one
    if args.replay:
        return replay(Path(args.replay), device)
    if asked is None:
        args = args if args.seeds else continued(args)  # --seeds finds by its journal what is left
        asked = resolve(args)
    config, resumed = asked
    if resumed is None:
        check_recipe(model_config_from(config.model, where="model"), config.recipe)
    options = RunOptions.of(args)
    if args.dry_run:
        return dry_run(config, options, device)
    if resumed is None and args.seeds:
        return train_with_seeds(config, options, device, count=args.seeds)
    if resumed is None and args.tune:
        space = Path(args.tune_space) if args.tune_space else None
        return tune(config, options, device, count=args.tune, space_file=space)
    return train(config, options, device, resumed=resumed)
