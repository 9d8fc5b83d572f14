"""Time of exported files and checkpoints by image, in turn: python benchmarks/exports.py best.pt best.onnx int8.onnx.

Each is opened as detect.py opens it, and predicts made-up images of its own size. By default the time is that of the
process on its cores, which other programs hardly change; --wall prints that of the clock.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.export.compare import made_up_images
from models.info import Predictor
from models.predictor import open_predictor
from utils.arguments import Parser, whole_number
from utils.config import ConfigError
from utils.faults import report
from utils.log import say


def main(argv: list[str] | None = None) -> int:
    """Command line; prints a row for each file."""
    parser = Parser(description="Time of exported files and checkpoints by image.")
    parser.add_argument("weights", nargs="+", help="files as detect.py --weights takes them")
    parser.add_argument("--rounds", type=whole_number, default=7, help="measurements of each file")
    parser.add_argument("--images", type=whole_number, default=10, help="images of a measurement")
    parser.add_argument("--threads", type=whole_number, default=1, help="of each runtime")
    parser.add_argument("--trust", action="store_true", help="run the code that a .torchscript file contains")
    parser.add_argument("--wall", action="store_true", help="time of the clock instead of the process")
    args = parser.parse_args(argv)
    try:
        torch.set_num_threads(args.threads)
        predictors = [
            open_predictor(file, device="cpu", trust=args.trust, threads=args.threads) for file in args.weights
        ]
        compare(args.weights, predictors, args.rounds, args.images, wall=args.wall)
    except ConfigError as error:
        return report(error)
    return 0


def compare(files: list[str], predictors: list[Predictor], rounds: int, images: int, *, wall: bool) -> None:
    """Measure the files in turn and print the median of each."""
    clock = time.perf_counter if wall else time.process_time
    inputs = [made_up_images((1, *each.image_size), seed=0).mul(255).byte().numpy() for each in predictors]
    times: list[list[float]] = [[] for _ in files]
    for number in range(rounds + 1):
        for predictor, image, row in zip(predictors, inputs, times, strict=True):
            start = clock()
            for _ in range(images):
                predictor.predict(image)
            if number > 0:  # the first round makes buffers
                row.append((clock() - start) / images * 1000)
    for file, predictor, row in zip(files, predictors, times, strict=True):
        spread = f"{min(row):.2f} to {max(row):.2f}"
        size = "x".join(map(str, predictor.image_size))
        say(f"{statistics.median(row):8.2f} ms  {spread}  {file}  {size}  {predictor.description}")


if __name__ == "__main__":
    sys.exit(main())
