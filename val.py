"""Evaluate a detector: COCO's figures for a checkpoint, an ONNX file or an OpenVINO model.

python val.py --data coco.yaml                          # the newest training run
python val.py --data coco.yaml --weights model.onnx     # same flags, same figures
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from data.config import load_data_config, read_split, summarize
from data.loader import build_eval_loader, default_workers
from models.postprocess import NMS_KINDS, postprocess
from models.predictor import Predictor, default_weights, open_predictor
from utils import dist, plots
from utils.arguments import share, whole_number
from utils.config import ROOT, ConfigError
from utils.log import Progress, error_text, setup_logging
from utils.metrics.coco import BACKENDS
from utils.metrics.detection import DetectionMetric
from utils.run import new_run_folder
from utils.structures import LabelledImages


def evaluate(
    predictor: Predictor,
    loader: DataLoader,
    metric: DetectionMetric,
    *,
    conf_thres: float,
    iou_thres: float,
    max_det: int,
    nms: str | None = None,
    clip: bool = True,
    over_ranks: bool = False,
) -> dict[str, Any]:
    """The figures of a metric over the images of a loader, and what they cost in time.

    Args:
        loader: Batches with letterboxes, each image once.
        metric: without detections yet; it has them all afterwards.
        conf_thres, iou_thres, max_det, nms: as in `postprocess`; None takes the model's own kind.
        clip: cut boxes to the image.
        over_ranks: the loaders of all ranks together give each image once, and every rank calls this; every rank then
            gets the figures of all.
    Returns:
        What `metric.compute` gives, and 'speed_ms': milliseconds an image, by the clock, for 'preprocess' (reading and
        resizing as far as the loader's workers do not hide it, and the way to the device), 'inference' and
        'postprocess'. The three add up to the whole time.
    """
    seconds = {"preprocess": 0.0, "inference": 0.0, "postprocess": 0.0}
    count, mark = 0, time.perf_counter()

    def lap(part: str) -> None:
        nonlocal mark
        if predictor.device.type == "cuda":
            torch.cuda.synchronize(predictor.device)
        now = time.perf_counter()
        seconds[part], mark = seconds[part] + now - mark, now

    options = {"conf_thres": conf_thres, "iou_thres": iou_thres, "max_det": max_det}
    options |= {"nms": nms or predictor.info.nms, "beta_nms": predictor.info.beta_nms}
    quiet = over_ranks and dist.rank() != 0
    with torch.inference_mode(), Progress(len(loader), "Evaluating", quiet=quiet) as progress:
        for batch in loader:
            images = batch.to(predictor.device).images
            lap("preprocess")
            boxes, scores = predictor.predict(images)
            lap("inference")
            found = postprocess(boxes, scores, **options)
            pairs = zip(found, batch.letterboxes, strict=True)
            originals = [each.to_original(letterbox, clipped=clip) for each, letterbox in pairs]
            metric.update(batch.image_ids, originals)
            count += len(batch)
            progress.advance()
            lap("postprocess")
    speed = {part: 1000 * value / max(count, 1) for part, value in seconds.items()}
    if not over_ranks:
        return {**metric.compute(), "speed_ms": speed}
    for rows in dist.gather(metric.predictions()):
        metric.extend(rows)
    figures = metric.compute() if dist.rank() == 0 else None
    return {**dist.broadcast(figures), "speed_ms": speed}


def match_classes(predictor: Predictor, images: LabelledImages) -> tuple[int, ...]:
    """The data set's category id of each label of the model, by name; by position where the model has no own names.

    Raises:
        ConfigError: model and data do not have the same classes.
    """
    if not predictor.info.named and len(predictor.names) == len(images.names):
        return images.category_ids
    if sorted(predictor.names) != sorted(images.names):
        only_model = sorted(set(predictor.names) - set(images.names))
        only_data = sorted(set(images.names) - set(predictor.names))
        raise ConfigError(
            f"the model has {len(predictor.names)} classes and the data {len(images.names)}; only the model knows "
            f"{_some(only_model)}, only the data has {_some(only_data)}. Evaluate on data with the model's classes, or "
            "correct 'names' in the data YAML"
        )
    ids = dict(zip(images.names, images.category_ids, strict=True))
    return tuple(ids[name] for name in predictor.names)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = parse_args(argv)
    setup_logging()
    try:
        run(args)
    except (ConfigError, ValueError, OSError) as error:
        print(f"error: {error_text(error)}", file=sys.stderr)
        return 2
    return 0


def run(args: argparse.Namespace) -> Path:
    """Evaluate as the command line says; returns the folder with the results."""
    weights = Path(args.weights) if args.weights else default_weights()
    predictor = open_predictor(weights, cfg=args.cfg, device=args.device, half=args.half)
    print(f"Weights: {weights} ({predictor.description})")
    size = (args.img_size, args.img_size) if args.img_size else predictor.image_size
    predictor.info.check_size(size, where="--img-size")
    resize = args.resize or predictor.resize
    source = args.data or _trained_on(predictor, weights)
    config = load_data_config(source)
    images = read_split(config, args.split)
    print(f"Data: {config.source}, {args.split}: {len(images)} images, {len(images.names)} classes")
    if images.problems:
        print(summarize(images.problems))
    category_ids = match_classes(predictor, images)
    names = predictor.names if predictor.info.named else images.names
    metric = DetectionMetric(images.ground_truth, category_ids, names, backend=args.backend)
    loader = build_eval_loader(images, image_size=size, resize=resize, batch_size=args.batch_size, workers=args.workers)
    folder = new_run_folder(Path(args.project), args.name)
    options = {"conf_thres": args.conf_thres, "iou_thres": args.iou_thres, "max_det": args.max_det}
    options |= {"nms": args.nms or predictor.info.nms, "clip": not args.no_clip}
    figures = evaluate(predictor, loader, metric, **options)
    figures["protocol"] = {
        **options,
        "image_size": list(size),
        "precision": predictor.precision,
        "resize": resize,
        "weights": str(weights),
        "data": str(config.source),
        "split": args.split,
    }
    _write_json(folder / "metrics.json", figures, indent=2)
    if args.save_json:
        _write_json(folder / "predictions.json", metric.predictions())
    plots.plot_pr_curves(*metric.pr_curves(), folder / "pr_curve.png")
    print(f"\n{metric.table()}\n\n{describe(figures)}\nResults: {folder}")
    missing = figures["images"] - len(images)
    if missing:
        print(f"Note: {missing} images of the ground truth could not be read; their objects count as not found")
    return folder


def describe(figures: dict[str, Any]) -> str:
    """The protocol and the speed, one line each."""
    protocol, speed = figures["protocol"], figures["speed_ms"]
    height, width = protocol["image_size"]
    parts = (
        f"conf {protocol['conf_thres']:g}",
        f"NMS IoU {protocol['iou_thres']:g} ({protocol['nms']})",
        f"max-det {protocol['max_det']}",
        f"size {height}x{width}",
        protocol["precision"],
        protocol["resize"],
        *(() if protocol.get("clip", True) else ("boxes uncut",)),
    )
    times = ", ".join(f"{part} {value:.1f}" for part, value in speed.items())
    return f"Protocol: {', '.join(parts)}\nSpeed: {times} ms an image, {figures['images']} images"


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Options as in docs/reference.md."""
    parser = argparse.ArgumentParser(description="Evaluate a detector with COCO's figures.", allow_abbrev=False)
    parser.add_argument(
        "--weights", help=".pt, .weights, .onnx or OpenVINO .xml (default: newest runs/train/*/weights/best.pt)"
    )
    parser.add_argument("--cfg", help="darknet .cfg or model config, for darknet .weights only")
    parser.add_argument(
        "--data", nargs="?", const="shapes", help="data YAML: a path, or a name in cfg/data/ (default: the model's own)"
    )
    parser.add_argument("--split", choices=("val", "test", "train"), default="val", help="part of the data")
    parser.add_argument(
        "--img-size", type=whole_number, help="side of the network input in pixels (default: the model's)"
    )
    parser.add_argument("--batch-size", type=whole_number, default=16, help="images at a time; changes no figure")
    parser.add_argument("--conf-thres", type=share, default=0.001, help="detections score more than this (0 to 1)")
    parser.add_argument("--iou-thres", type=share, default=0.65, help="NMS removes overlaps above this IoU (0 to 1)")
    parser.add_argument("--max-det", type=whole_number, default=100, help="detections kept in an image")
    parser.add_argument("--nms", choices=NMS_KINDS, help="kind of non-maximum suppression (default: the model's)")
    parser.add_argument("--no-clip", action="store_true", help="count boxes as they come, not cut to the image")
    parser.add_argument("--resize", choices=("letterbox", "stretch"), help="how images get their size")
    parser.add_argument("--device", help="cpu, cuda, cuda:N or mps (default: the fastest there is)")
    parser.add_argument("--half", action="store_true", help="fp16, on CUDA")
    parser.add_argument("--workers", type=int, default=default_workers(), help="loader processes")
    parser.add_argument("--backend", choices=BACKENDS, default=BACKENDS[0], help="what counts; the same figures")
    parser.add_argument("--save-json", action="store_true", help="write predictions.json, a COCO results file")
    parser.add_argument("--project", default=str(ROOT / "runs" / "val"), help="folder of runs")
    parser.add_argument("--name", default="exp", help="folder of this run in PROJECT; never overwritten")
    return parser.parse_args(argv)


def _trained_on(predictor: Predictor, weights: Path) -> str:
    source = predictor.info.data
    if source is None:
        raise ConfigError(f"--data is missing, and {weights} does not say what it was trained on; name a data YAML")
    if source != "shapes" and not Path(source).is_file():
        raise ConfigError(f"--data is missing, and {source}, which the model was trained on, is gone; name a data YAML")
    return source


def _write_json(path: Path, value: Any, *, indent: int | None = None) -> None:
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") or "nothing more"


if __name__ == "__main__":
    sys.exit(main())
