"""Evaluate a model: COCO's figures of a detector, top-1 and top-5 of a classifier; a checkpoint or an exported file.

python val.py --data coco.yaml                          # the newest training run
python val.py --data coco.yaml --weights model.onnx     # same flags, same figures
python val.py --data imagenet.yaml --ten-crop           # of a classifier
"""

from __future__ import annotations

from utils.program import quiet_imports, quiet_start, run_program

if __name__ == "__main__":
    quiet_start()

import argparse
import os
from pathlib import Path

from data.config import EMBEDDED, load_data_config
from models.config import load_model_config
from models.predictor import NEED_CFG, check_file, default_weights
from utils.arguments import Parser, default_workers, share, whole_number
from utils.choices import BACKENDS, NMS_KINDS, RESIZES
from utils.config import ConfigError
from utils.faults import report
from utils.log import setup_logging


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = parse_args(argv)
    setup_logging()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see detect.py
    try:
        weights = check(args)
        with quiet_imports():
            from engine.commands.val import run

        run(args, weights)
    except Exception as error:
        return report(error)
    return 0


def check(args: argparse.Namespace) -> Path:
    """The weights to evaluate, once everything is looked at that needs neither torch nor pictures.

    Raises:
        ConfigError: a file that is missing or wrong.
    """
    weights = Path(args.weights) if args.weights else default_weights()
    check_file(weights, trust=args.trust)
    if args.html is not None and (args.html.is_dir() or not args.html.absolute().parent.is_dir()):
        raise ConfigError(f"--html {args.html}: expected a file in a folder that exists; make the folder first")
    if args.calibrate and weights.suffix.lower() != ".pt":
        raise ConfigError(
            f"--calibrate: stores what it finds in a checkpoint (.pt), and {weights} is none; calibrate the "
            "checkpoint, and export it again"
        )
    if args.data not in (None, *EMBEDDED):
        load_data_config(args.data)
    if args.cfg is not None and weights.suffix.lower() in NEED_CFG:
        load_model_config(args.cfg)
    return weights


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Options as in docs/reference.md."""
    description = "Evaluate a detector with COCO's figures, or a classifier with top-1 and top-5."
    parser = Parser(description=description)
    parser.add_model()
    parser.add_argument(
        "--data", nargs="?", const="shapes", help="data YAML: a path, or a name in cfg/data/ (default: the model's own)"
    )
    parser.add_argument("--split", choices=("val", "test", "train"), default="val", help="part of the data")
    parser.add_image_size()
    parser.add_argument("--batch-size", type=whole_number, default=16, help="images at a time; changes no figure")
    parser.add_argument("--conf-thres", type=share, help="detections score more than this, 0 to 1 (default: 0.001)")
    parser.add_argument("--iou-thres", type=share, help="NMS removes overlaps above this IoU, 0 to 1 (default: 0.65)")
    parser.add_argument("--max-det", type=whole_number, help="detections kept in an image (default: 100)")
    parser.add_argument("--ten-crop", action="store_true", help="of a classifier: judge ten parts of each image")
    parser.add_argument("--nms", choices=NMS_KINDS, help="kind of non-maximum suppression (default: the model's)")
    parser.add_argument(
        "--clip",
        action=argparse.BooleanOptionalAction,
        help="cut boxes to the image before they are counted (default: yes, but for darknet's and YOLOX's weights)",
    )
    parser.add_argument("--resize", choices=RESIZES, help="how images get their size")
    parser.add_argument("--rect", action="store_true", help="letterbox with the least padding, one shape a batch")
    parser.add_tiles()
    parser.add_argument("--no-tile", action="store_true", help="whole pictures, although the data YAML has 'tiling'")
    parser.add_argument("--device", help="cpu, cuda, cuda:N or mps (default: the fastest there is)")
    parser.add_argument("--half", action="store_true", help="fp16, on CUDA")
    parser.add_argument("--workers", type=int, default=default_workers(), help="loader processes")
    parser.add_argument("--backend", choices=BACKENDS, default=BACKENDS[0], help="what counts; the same figures")
    parser.add_argument(
        "--calibrate", action="store_true",
        help="fit a temperature on val and store it in the checkpoint, with the thresholds of best F1",
    )  # fmt: skip
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="write figures, errors and worst pictures to one page"
    )
    parser.add_argument("--save-json", action="store_true", help="write predictions.json, a COCO results file")
    parser.add_run_folder("val")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_program(main)
