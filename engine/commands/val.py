"""What val.py does once its command line is read."""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from data.config import DataConfig, load_data_config
from data.formats.rows import summarize
from data.loader import build_eval_loader
from data.read import has_objects, read_split
from data.transforms import ten_crop_size
from engine.evaluate import evaluate, match_classes, protocol_and_speed, training_data, write_results
from engine.predictions import EvaluationOptions
from engine.temperature import calibrate
from engine.tiles import grid_of
from models.info import ModelInfo, Predictor
from models.predictor import open_predictor
from utils.arguments import given
from utils.choices import PADDED
from utils.config import ConfigError
from utils.log import say
from utils.metrics.build import Metric, build_metric
from utils.metrics.detection import DetectionMetric
from utils.metrics.operating import operating_text, with_operating_point
from utils.run import new_run_folder
from utils.structures import LabelledImages
from utils.tiles import Grid, Tiling

logger = logging.getLogger(__name__)


def run(args: argparse.Namespace, weights: Path) -> Path:
    """Evaluate as the command line says; returns the folder with the results."""
    predictor = open_predictor(weights, cfg=args.cfg, device=args.device, half=args.half, trust=args.trust)
    say(f"Weights: {weights} ({predictor.description})")
    size = args.img_size or predictor.image_size
    predictor.info.check_size(size, where="--img-size")
    resize = args.resize or predictor.resize
    config = load_data_config(args.data or training_data(predictor, weights))
    options = options_of(args, predictor.info, size, config.tiling)
    if args.rect:
        _check_rect(predictor.info, resize, options)
    setup = Setup(args, predictor, config, options, size, resize)
    images = setup.images(args.split)
    of_val = setup.images("val") if args.calibrate and args.split != "val" else None
    folder = new_run_folder(Path(args.project), args.name)
    figures, metric = setup.evaluated(images)
    if args.calibrate:
        assert isinstance(metric, DetectionMetric)
        on_val = metric if of_val is None else cast(DetectionMetric, setup.evaluated(of_val)[1])
        say(calibrate(on_val, metric, weights, split=args.split))
    if isinstance(metric, DetectionMetric):
        figures = with_operating_point(figures, metric)
    figures["protocol"] = {
        **options.protocol(images.task),
        "image_size": list(size),
        "precision": predictor.precision,
        "resize": f"{resize}, least padding" if args.rect else resize,
        "weights": str(weights),
        "data": str(config.source),
        "split": args.split,
    }
    about = (f"{weights} on {config.source}, {args.split}",)
    write_results(folder, figures, metric, images, save_predictions=args.save_json, page=args.html, about=about)
    page = "" if args.html is None else f"\nPage: {args.html}"
    tables = [metric.table(), *([operating_text(figures)] if isinstance(metric, DetectionMetric) else [])]
    say("\n" + "\n\n".join([*tables, f"{protocol_and_speed(figures)}\nResults: {folder}{page}"]))
    return folder


@dataclass(frozen=True)
class Setup:
    """How splits are evaluated; `size` and `resize` are those of the network input."""

    args: argparse.Namespace
    predictor: Predictor
    config: DataConfig
    options: EvaluationOptions
    size: tuple[int, int]
    resize: str

    def images(self, split: str) -> LabelledImages:
        """The images of a split; what is wrong with them is said."""
        images = read_split(self.config, split, task=self.predictor.info.task, truth="boxes")
        say(f"Data: {self.config.source}, {split}: {len(images)} images, {len(images.names)} classes")
        if images.problems:
            say(summarize(images.problems))
        if not has_objects(images):
            say(f"Note: no object in the images of {split}: there is no AP to count")
        match_classes(self.predictor, images)  # refuses other classes before anything is written
        return images

    def evaluated(self, images: LabelledImages) -> tuple[dict[str, Any], Metric]:
        """The figures of a split, and the metric with all that was found."""
        info, args, options = self.predictor.info, self.args, self.options
        metric = build_metric(
            images,
            category_ids=match_classes(self.predictor, images),
            names=self.predictor.names if info.named else images.names,
            backend=args.backend,
            max_det=options.max_det,
            temperature=info.temperature,
        )
        loader = build_eval_loader(
            images,
            image_size=ten_crop_size(self.size) if args.ten_crop else self.size,
            resize=self.resize,
            batch_size=args.batch_size,
            workers=args.workers,
            stride=info.stride if args.rect else None,
            grid=options.grid,
        )
        return evaluate(self.predictor, loader, metric, options), metric


def _check_rect(info: ModelInfo, resize: str, options: EvaluationOptions) -> None:
    """Refuse --rect where inputs have one shape.

    Raises:
        ConfigError: says why.
    """
    if resize not in PADDED:
        raise ConfigError(f"--rect: is for letterboxed images, and these get their size by {resize}; leave it out")
    if options.grid is not None:
        raise ConfigError("--rect: is for whole pictures, and these are in tiles; leave it out, or add --no-tile")
    if info.fixed_size:
        height, width = info.image_size
        raise ConfigError(f"--rect: this file takes {height} x {width} alone; leave it out, or export with --dynamic")


def options_of(
    args: argparse.Namespace, info: ModelInfo, size: tuple[int, int], tiling: Tiling | None
) -> EvaluationOptions:
    """What the command line says of the protocol, and the data YAML of tiles; `size` is that of the network input.

    Raises:
        ConfigError: an option of the other task.
    """
    detector_options = given(args, "conf_thres", "iou_thres", "max_det", "nms", "clip")
    detector = info.task == "detect"
    wrong = [] if detector else [f"--{name.replace('_', '-')}" for name in detector_options]
    wrong += ["--ten-crop"] if detector and args.ten_crop else []
    wrong += ["--calibrate"] if args.calibrate and not detector else []
    wrong += ["--resize crop"] if detector and args.resize == "crop" else []
    if wrong:
        other = "a classifier" if detector else "a detector"
        raise ConfigError(f"{wrong[0]}: is for {other}, and the model is not one; leave it out")
    options = EvaluationOptions(nms=info.nms, clip=info.clip, ten_crop=size if args.ten_crop else None)
    options = replace(options, **detector_options, grid=_grid(args, info, size, tiling))
    if options.nms == "none" and options.grid is None and args.iou_thres is not None:
        logger.warning("--iou-thres %g is not used: with nms 'none' nothing is suppressed", args.iou_thres)
    return options


def _grid(args: argparse.Namespace, info: ModelInfo, size: tuple[int, int], tiling: Tiling | None) -> Grid | None:
    """The tiles of the command line, or else of the data YAML, as a training on it is evaluated."""
    tile, overlap, classify = args.tile, args.overlap, info.task == "classify"
    if args.no_tile and (tile is not None or overlap is not None):
        raise ConfigError("--no-tile: contradicts --tile and --overlap; leave one of them out")
    if tiling is not None and not (args.no_tile or classify):
        tile = tiling.size if tile is None else tile
        overlap = tiling.overlap if overlap is None else overlap
    return grid_of(tile, overlap, image_size=size, classify=classify)
