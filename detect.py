"""Find objects in images, videos, cameras and streams; with a classifier, say what they show.

python detect.py --source photos/                              # with the newest training run
python detect.py --source 'clips/**/*.mp4' --weights best.pt --save-json
python detect.py --source rtsp://camera/stream --no-save --view
"""

from __future__ import annotations

from utils.program import quiet_start, run_program

if __name__ == "__main__":
    quiet_start()

import argparse
import logging
import os
from dataclasses import replace
from pathlib import Path

from data.media.recorder import Outputs
from data.media.sources import Source, open_source
from data.media.window import Window
from engine.stream import DetectOptions, class_indices, process
from models.info import Predictor
from models.predictor import default_weights, open_predictor
from models.suppression import NMS_KINDS
from utils.arguments import Parser, given, share, whole_number
from utils.config import ConfigError
from utils.faults import report
from utils.log import say, say_error, setup_logging

logger = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Command line; 0 when something was processed, 1 when nothing could be, 2 for a wrong command line."""
    args = parse_args(argv)
    setup_logging()
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what FFmpeg says of damaged files names none of them
    try:
        predictor, options = open_model(args)
        window = Window("CSPDet") if args.view else None
    except Exception as error:
        return report(error)
    source = open_source(*args.source)
    try:
        return run(args, predictor, options, source, window)
    except (OSError, ValueError) as error:
        say_error(error)
        return 2 if isinstance(error, ConfigError) else 1
    except (RuntimeError, MemoryError) as error:
        return report(error)


def open_model(args: argparse.Namespace) -> tuple[Predictor, DetectOptions]:
    """The model and options of the command line.

    Raises:
        ConfigError: whatever is wrong with them.
    """
    weights = Path(args.weights) if args.weights else default_weights()
    predictor = open_predictor(weights, cfg=args.cfg, device=args.device, half=args.half, trust=args.trust)
    size = (args.img_size, args.img_size) if args.img_size else predictor.image_size
    predictor.info.check_size(size, where="--img-size")
    classify = predictor.info.task == "classify"
    for option in ("iou_thres", "nms"):
        if classify and getattr(args, option) is not None:
            raise ConfigError(
                f"--{option.replace('_', '-')}: is for detectors, and {weights} is a classifier; leave it out"
            )
    if (args.nms or predictor.info.nms) == "none" and args.iou_thres is not None:
        logger.warning("--iou-thres %g is not used: with nms 'none' nothing is suppressed", args.iou_thres)
    options = DetectOptions(
        image_size=size,
        resize=args.resize or predictor.resize,
        classes=class_indices(args.classes, predictor.names) if args.classes else None,
        batch_size=args.batch_size,
        every_frame=args.every_frame,
    )
    if classify:
        options = replace(options, conf_thres=0.0, max_det=5)
    options = replace(options, **given(args, "conf_thres", "iou_thres", "max_det", "nms"))
    say(f"Weights: {weights} ({predictor.description}), input {size[0]}x{size[1]} {options.resize}")
    return predictor, options


def run(
    args: argparse.Namespace, predictor: Predictor, options: DetectOptions, source: Source, window: Window | None
) -> int:
    """Look at every frame, write what is wanted, and say what was found; returns the exit status."""
    outputs = Outputs(
        drawings=not args.no_save,
        txt=args.save_txt or args.save_conf,
        confidence=args.save_conf,
        json=args.save_json,
        jsonl=args.save_jsonl,
        crops=args.save_crop,
    )
    summary, folder = process(
        predictor, source, options, outputs, project=Path(args.project), name=args.name, window=window
    )
    if source.skipped:
        say(f"Skipped: {len(source.skipped)}, named above")
    if summary.frames == 0:
        say_error("nothing could be processed; see the lines above")
        return 1
    say(summary)
    if folder is not None:
        say(f"Results: {folder}")
    return 0


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Options as in docs/reference.md."""
    parser = Parser(description="Find objects in images and videos.", allow_abbrev=False)
    parser.add_argument(
        "--source", nargs="+", required=True, metavar="SOURCE",
        help="image, video, folder, 'glob' in quotes, .txt list, camera number, or rtsp:// or http:// stream",
    )  # fmt: skip
    parser.add_model()
    parser.add_argument("--conf-thres", type=share, help="detections score more than this, 0 to 1 (default: 0.25)")
    parser.add_argument("--iou-thres", type=share, help="NMS removes overlaps above this IoU, 0 to 1 (default: 0.45)")
    parser.add_argument("--max-det", type=whole_number, help="detections kept in an image (default: 300)")
    parser.add_argument("--nms", choices=NMS_KINDS, help="kind of non-maximum suppression (default: the model's)")
    parser.add_argument("--classes", nargs="+", metavar="ID_OR_NAME", help="look for these classes only")
    parser.add_argument(
        "--img-size", type=whole_number, help="side of the network input in pixels (default: the model's)"
    )
    parser.add_argument("--resize", choices=("letterbox", "stretch"), help="how images get their size")
    parser.add_argument("--batch-size", type=whole_number, default=1, help="frames at a time")
    parser.add_argument("--every-frame", action="store_true", help="drop no late frames of cameras and streams")
    parser.add_argument("--device", help="cpu, cuda, cuda:N or mps (default: the fastest there is)")
    parser.add_argument("--half", action="store_true", help="fp16, on CUDA")
    parser.add_argument("--save-txt", action="store_true", help="write YOLO rows 'class cx cy w h' to labels/NAME.txt")
    parser.add_argument("--save-conf", action="store_true", help="add the score as sixth number of a YOLO row")
    parser.add_argument("--save-json", action="store_true", help="write detections.json, boxes in original pixels")
    parser.add_argument("--save-jsonl", action="store_true", help="write detections.jsonl, a line as each frame ends")
    parser.add_argument("--save-crop", action="store_true", help="cut detections out into crops/CLASS/")
    parser.add_argument("--no-save", action="store_true", help="write no annotated images and videos")
    parser.add_argument("--view", action="store_true", help="show frames in a window; q or Escape ends the run")
    parser.add_run_folder("detect")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_program(main)
