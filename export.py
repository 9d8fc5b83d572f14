"""Write a trained detector for other runtimes: ONNX, OpenVINO, TorchScript or darknet.

python export.py --format onnx                                  # the newest training run
python export.py --format onnx --with-nms --with-preprocess     # one file from a picture's bytes to its detections
python export.py --format openvino --weights best.pt --dynamic  # any batch and size
python export.py --format darknet --output csdarknet53.conv.105  # the first 105 layers, to start a detector from
"""

from __future__ import annotations

from utils.program import quiet_imports, quiet_start, run_program

if __name__ == "__main__":
    quiet_start()

import argparse
from pathlib import Path

from data.config import EMBEDDED, load_data_config
from models.export.formats import FORMATS, check_options, output_path
from models.layouts import LAYOUTS
from models.predictor import check_file, default_weights
from utils.arguments import Parser, share, whole_number
from utils.config import ConfigError
from utils.faults import report
from utils.log import setup_logging


def main(argv: list[str] | None = None) -> int:
    """Command line; 0 when the file is there, 1 when it differs from the original, 2 for a wrong command line."""
    args = parse_args(argv)
    setup_logging()
    try:
        weights, output = check(args)
        with quiet_imports():
            from engine.commands.export import run

        return run(args, weights, output)
    except Exception as error:
        return report(error)


def check(args: argparse.Namespace) -> tuple[Path, Path]:
    """The file to read and the one to write, once everything is looked at that needs no torch.

    Raises:
        ConfigError: an option that does not belong, or a file that is missing or wrong.
    """
    check_options(args)
    if args.int8 not in (None, *EMBEDDED):
        load_data_config(args.int8)
    weights = Path(args.weights) if args.weights else default_weights()
    output = output_path(args.output, weights, FORMATS[args.format].suffix)
    if weights.suffix.lower() in (".onnx", ".xml", ".torchscript"):
        raise ConfigError(f"--weights {weights}: is an exported file; name the checkpoint (.pt) that it came from")
    check_file(weights)
    return weights, output


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Options as in docs/reference.md."""
    parser = Parser(description="Write a detector for other runtimes.")
    parser.add_argument("--weights", help=".pt or darknet .weights (default: newest runs/train/*/weights/best.pt)")
    parser.add_argument("--cfg", help="model config, for darknet .weights only")
    parser.add_argument("--format", choices=tuple(FORMATS), required=True, help="what to write")
    parser.add_image_size()
    parser.add_argument("--batch-size", type=whole_number, default=1, help="images at a time")
    parser.add_argument("--dynamic", action="store_true", help="take any batch, and any size that the stride divides")
    parser.add_argument("--half", action="store_true", help="store weights in fp16: half the size, computed in fp32")
    parser.add_argument(
        "--int8", metavar="DATA", help="compute in int8; ranges from images of this data set's train split"
    )
    parser.add_argument("--with-nms", action="store_true", help="end in final boxes, scores and classes")
    parser.add_argument("--conf-thres", type=share, help="with --with-nms: scores above this (default: 0.25)")
    parser.add_argument("--iou-thres", type=share, help="with --with-nms: overlaps above this fall (default: 0.45)")
    parser.add_argument("--max-det", type=whole_number, help="with --with-nms: the best so many (default: 300)")
    parser.add_argument("--with-preprocess", action="store_true", help="take a uint8 RGB picture of any size")
    parser.add_argument("--layout", choices=LAYOUTS, default="own", help="of the outputs: ours, or other programs'")
    parser.add_argument("--output", help="file or folder to write (default: beside the weights)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_program(main)
