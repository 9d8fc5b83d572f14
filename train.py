"""Train a detector or a classifier.

python train.py --cfg csppeleenet-prn.yaml                        # on the embedded data set
python train.py --cfg cspresnext50-panet-spp.yaml --data my.yaml  # on your own
torchrun --nproc_per_node 8 train.py ...                          # on several GPUs
"""

from __future__ import annotations

from utils.program import quiet_imports, quiet_start, run_program

if __name__ == "__main__":
    quiet_start()

import argparse

from engine.options import resolve
from utils.arguments import Parser, batch_size, epochs, whole_number
from utils.faults import report
from utils.log import setup_logging
from utils.torchrun import launched_by_torchrun, launched_rank


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = parse_args(argv)
    setup_logging(rank=launched_rank())
    asked = None
    if not (launched_by_torchrun() or args.replay):  # of several processes, one speaks
        try:
            asked = resolve(args)
        except Exception as error:
            return report(error)
    with quiet_imports():
        from engine.commands.train import run
        from utils.launch import run_together

    return run_together(lambda: run(args, asked))


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Options as in docs/reference.md."""
    parser = Parser(prog="train.py", description="Train a detector.")
    parser.add_argument("--cfg", help="model: a path, or a name in cfg/ (default: cspdet-n); or a darknet .cfg")
    parser.add_argument(
        "--data", nargs="?", const="shapes", help="data YAML or folder (default: shapes, the embedded set)"
    )
    parser.add_argument("--write", action="store_true", help="save what --data FOLDER holds as FOLDER/data.yaml")
    parser.add_argument("--hyp", help="recipe: a path, or a name in cfg/train/ (default: default; for shapes: shapes)")
    parser.add_argument("--weights", help="checkpoint, darknet .weights or .conv.N, or YOLOX .pth, to start from")
    parser.add_argument("--epochs", type=epochs, help="passes over the training images; +N with --resume: N more")
    parser.add_argument("--batch-size", type=batch_size, help="images in a batch, over all processes; or auto")
    parser.add_image_size()
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
