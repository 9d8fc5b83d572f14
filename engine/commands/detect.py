"""What detect.py does once its command line is read; for an exported file without torch, which is not imported then."""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path

from data.media.recorder import Outputs
from data.media.sizes import of_one_shape
from data.media.sources import Source, open_source
from data.media.window import Window
from engine.stream import DetectOptions, class_indices, process
from engine.tiles import grid_of
from models.info import Predictor
from models.predictor import check_file, default_weights
from models.runtime_cache import open_fastest
from utils.arguments import AUTO, given
from utils.choices import PADDED
from utils.config import ConfigError
from utils.faults import report
from utils.log import say, say_error
from utils.threads import limit_threads

logger = logging.getLogger(__name__)


def run(args: argparse.Namespace) -> int:
    """Look for objects as the command line says; returns the exit status."""
    try:
        weights = Path(args.weights) if args.weights else default_weights()
        check_file(weights, trust=args.trust)
        source = open_source(*args.source, frame_step=args.frame_step)
        if not source.media:
            return _nothing()
        predictor, options = open_model(args, weights, source)
        window = Window("CSPDet") if args.view else None
    except Exception as error:
        return report(error)
    try:
        return look(args, predictor, options, source, window)
    except (OSError, ValueError) as error:
        say_error(error)
        return 2 if isinstance(error, ConfigError) else 1
    except (RuntimeError, MemoryError) as error:
        return report(error)


def open_model(args: argparse.Namespace, weights: Path, source: Source) -> tuple[Predictor, DetectOptions]:
    """The model and options of the command line.

    Raises:
        ConfigError: whatever is wrong with them.
    """
    if args.threads:
        limit_threads(args.threads)
    predictor, why = open_fastest(
        weights,
        runtime=args.runtime,
        cfg=args.cfg,
        device=args.device,
        half=args.half,
        trust=args.trust,
        threads=args.threads,
        pictures=len(source.media) if all(media.kind == "image" for media in source.media) else None,
    )
    size = args.img_size or predictor.image_size
    predictor.info.check_size(size, where="--img-size")
    classify = predictor.info.task == "classify"
    for option in ("iou_thres", "nms"):
        if classify and getattr(args, option) is not None:
            raise ConfigError(
                f"--{option.replace('_', '-')}: is for detectors, and {weights} is a classifier; leave it out"
            )
    grid = grid_of(args.tile, args.overlap, image_size=size, classify=classify)
    if (args.nms or predictor.info.nms) == "none" and grid is None and args.iou_thres is not None:
        logger.warning("--iou-thres %g is not used: with nms 'none' nothing is suppressed", args.iou_thres)
    options = DetectOptions(
        image_size=size,
        resize=args.resize or predictor.resize,
        classes=class_indices(args.classes, predictor.names) if args.classes else None,
        batch_size=args.batch_size,
        every_frame=args.every_frame,
        grid=grid,
    )
    least = options.resize in PADDED and not (args.square or classify or predictor.info.fixed_size)
    options = replace(options, rectangle=least and of_one_shape(source.media))
    if classify:
        options = replace(options, conf_thres=0.0, max_det=5)
    options = replace(options, **given(args, "iou_thres", "max_det", "nms"))
    if args.conf_thres == AUTO:
        options = replace(options, thresholds=predictor.info.auto_thresholds(where="--conf-thres auto"))
    elif args.conf_thres is not None:
        options = replace(options, conf_thres=args.conf_thres)
    padding = ", least padding" if options.rectangle else ""
    padding += f", {grid}" if grid else ""
    if why:
        say(f"Runtime: {predictor.runtime}, {why}")
    say(f"Weights: {weights} ({predictor.description}), input {size[0]}x{size[1]} {options.resize}{padding}")
    if options.thresholds is not None:
        say(f"Threshold: {options.thresholds.told(predictor.names)}")
    return predictor, options


def look(
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
        return _nothing()
    say(summary)
    if folder is not None:
        say(f"Results: {folder}")
    return 0


def _nothing() -> int:
    say_error("nothing could be processed; see the lines above")
    return 1
