"""Train a detector or a classifier.

python train.py --cfg csppeleenet-prn.yaml                        # on the embedded data set
python train.py --cfg cspresnext50-panet-spp.yaml --data my.yaml  # on your own
torchrun --nproc_per_node 8 train.py ...                          # on several GPUs
"""

from __future__ import annotations

from utils.program import quiet_start, run_program

if __name__ == "__main__":
    quiet_start()

import argparse
from pathlib import Path

import torch

from engine.dry_run import dry_run
from engine.loop import train
from engine.options import RunOptions, batch_size, epochs, resolve
from engine.replay import replay
from engine.restart import continued
from engine.seeds import train_with_seeds
from engine.tune import tune
from utils import dist
from utils.arguments import Parser, whole_number
from utils.device import select_device
from utils.launch import run_together
from utils.log import setup_logging


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = parse_args(argv)
    setup_logging(rank=dist.launched_rank())
    return run_together(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """Train once or several times, or repeat a step, as the command line says; returns the exit status."""
    device = select_device(args.device, local_rank=dist.local_rank())
    if device.type == "cuda":
        torch.cuda.set_device(device)  # events, page-locked memory and generators are those of the current one
    if args.replay:
        return replay(Path(args.replay), device)
    args = args if args.seeds else continued(args)  # --seeds finds by its journal what is left
    config, resumed = resolve(args)
    options = RunOptions.of(args)
    if args.dry_run:
        return dry_run(config, options, device)
    if resumed is None and args.seeds:
        return train_with_seeds(config, options, device, count=args.seeds)
    if resumed is None and args.tune:
        space = Path(args.tune_space) if args.tune_space else None
        return tune(config, options, device, count=args.tune, space_file=space)
    return train(config, options, device, resumed=resumed)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Options as in docs/reference.md."""
    parser = Parser(prog="train.py", description="Train a detector.", allow_abbrev=False)
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
    parser.add_run_folder("train")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a key of the recipe (optimizer.lr=0.01) or of the model (model.neck.spp_kernels=null); may be repeated",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_program(main)
