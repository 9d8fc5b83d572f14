"""Evaluate a model: COCO's figures of a detector, top-1 and top-5 of a classifier; a checkpoint or an exported file.

python val.py --data coco.yaml                          # the newest training run
python val.py --data coco.yaml --weights model.onnx     # same flags, same figures
python val.py --data imagenet.yaml --ten-crop           # of a classifier
"""

from __future__ import annotations

from utils.program import quiet_start, run_program

if __name__ == "__main__":
    quiet_start()

import argparse
import logging
from dataclasses import replace
from pathlib import Path

from data.config import load_data_config
from data.loader import build_eval_loader, default_workers
from data.read import has_objects, read_split, summarize
from data.transforms import ten_crop_size
from engine.evaluate import EvaluationOptions, evaluate, match_classes, protocol_and_speed, training_data, write_results
from models.info import ModelInfo
from models.predictor import default_weights, open_predictor
from models.suppression import NMS_KINDS
from utils.arguments import Parser, given, share, whole_number
from utils.config import ConfigError
from utils.faults import report
from utils.log import say, setup_logging
from utils.metrics.build import build_metric
from utils.metrics.coco import BACKENDS
from utils.run import new_run_folder

logger = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = parse_args(argv)
    setup_logging()
    try:
        run(args)
    except Exception as error:
        return report(error)
    return 0


def run(args: argparse.Namespace) -> Path:
    """Evaluate as the command line says; returns the folder with the results."""
    weights = Path(args.weights) if args.weights else default_weights()
    predictor = open_predictor(weights, cfg=args.cfg, device=args.device, half=args.half, trust=args.trust)
    say(f"Weights: {weights} ({predictor.description})")
    size = (args.img_size, args.img_size) if args.img_size else predictor.image_size
    predictor.info.check_size(size, where="--img-size")
    resize = args.resize or predictor.resize
    config = load_data_config(args.data or training_data(predictor, weights))
    options = options_of(args, predictor.info, size)
    images = read_split(config, args.split, task=predictor.info.task)
    say(f"Data: {config.source}, {args.split}: {len(images)} images, {len(images.names)} classes")
    if images.problems:
        say(summarize(images.problems))
    if not has_objects(images):
        say(f"Note: no object in the images of {args.split}: there is no AP to count")
    category_ids = match_classes(predictor, images)
    names = predictor.names if predictor.info.named else images.names
    metric = build_metric(images, category_ids=category_ids, names=names, backend=args.backend, max_det=options.max_det)
    shown = ten_crop_size(size) if args.ten_crop else size
    loader = build_eval_loader(
        images, image_size=shown, resize=resize, batch_size=args.batch_size, workers=args.workers
    )
    folder = new_run_folder(Path(args.project), args.name)
    figures = evaluate(predictor, loader, metric, options)
    figures["protocol"] = {
        **options.protocol(images.task),
        "image_size": list(size),
        "precision": predictor.precision,
        "resize": resize,
        "weights": str(weights),
        "data": str(config.source),
        "split": args.split,
    }
    write_results(folder, figures, metric, images, save_predictions=args.save_json)
    say(f"\n{metric.table()}\n\n{protocol_and_speed(figures)}\nResults: {folder}")
    return folder


def options_of(args: argparse.Namespace, info: ModelInfo, size: tuple[int, int]) -> EvaluationOptions:
    """What the command line says of the protocol; `size` is that of the network input.

    Raises:
        ConfigError: an option of the other task.
    """
    detector_options = given(args, "conf_thres", "iou_thres", "max_det", "nms", "clip")
    detector = info.task == "detect"
    wrong = [] if detector else [f"--{name.replace('_', '-')}" for name in detector_options]
    wrong += ["--ten-crop"] if detector and args.ten_crop else []
    wrong += ["--resize crop"] if detector and args.resize == "crop" else []
    if wrong:
        other = "a classifier" if detector else "a detector"
        raise ConfigError(f"{wrong[0]}: is for {other}, and the model is not one; leave it out")
    options = EvaluationOptions(nms=info.nms, clip=info.clip, ten_crop=size if args.ten_crop else None)
    options = replace(options, **detector_options)
    if options.nms == "none" and args.iou_thres is not None:
        logger.warning("--iou-thres %g is not used: with nms 'none' nothing is suppressed", args.iou_thres)
    return options


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Options as in docs/reference.md."""
    description = "Evaluate a detector with COCO's figures, or a classifier with top-1 and top-5."
    parser = Parser(description=description, allow_abbrev=False)
    parser.add_model()
    parser.add_argument(
        "--data", nargs="?", const="shapes", help="data YAML: a path, or a name in cfg/data/ (default: the model's own)"
    )
    parser.add_argument("--split", choices=("val", "test", "train"), default="val", help="part of the data")
    parser.add_argument(
        "--img-size", type=whole_number, help="side of the network input in pixels (default: the model's)"
    )
    parser.add_argument("--batch-size", type=whole_number, default=16, help="images at a time; changes no figure")
    parser.add_argument("--conf-thres", type=share, help="detections score more than this, 0 to 1 (default: 0.001)")
    parser.add_argument("--iou-thres", type=share, help="NMS removes overlaps above this IoU, 0 to 1 (default: 0.65)")
    parser.add_argument("--max-det", type=whole_number, help="detections kept in an image (default: 100)")
    parser.add_argument("--ten-crop", action="store_true", help="of a classifier: judge ten parts of each image")
    parser.add_argument("--nms", choices=NMS_KINDS, help="kind of non-maximum suppression (default: the model's)")
    parser.add_argument(
        "--clip",
        action=argparse.BooleanOptionalAction,
        help="cut boxes to the image before they are counted (default: yes, but for darknet weights)",
    )
    parser.add_argument("--resize", choices=("letterbox", "stretch", "crop"), help="how images get their size")
    parser.add_argument("--device", help="cpu, cuda, cuda:N or mps (default: the fastest there is)")
    parser.add_argument("--half", action="store_true", help="fp16, on CUDA")
    parser.add_argument("--workers", type=int, default=default_workers(), help="loader processes")
    parser.add_argument("--backend", choices=BACKENDS, default=BACKENDS[0], help="what counts; the same figures")
    parser.add_argument("--save-json", action="store_true", help="write predictions.json, a COCO results file")
    parser.add_run_folder("val")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_program(main)
