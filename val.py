"""Evaluate a model: COCO's figures of a detector, top-1 and top-5 of a classifier; a checkpoint or an exported file.

python val.py --data coco.yaml                          # the newest training run
python val.py --data coco.yaml --weights model.onnx     # same flags, same figures
python val.py --data imagenet.yaml --ten-crop           # of a classifier
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from data.config import load_data_config
from data.loader import build_eval_loader, default_workers
from data.read import read_split, summarize
from data.transforms import ten_crop_size, ten_crops
from models.postprocess import NMS_KINDS, postprocess
from models.predictor import Predictor, default_weights, open_predictor
from utils import dist
from utils.arguments import share, whole_number
from utils.config import ROOT, ConfigError
from utils.faults import report
from utils.files import write_json
from utils.log import Progress, setup_logging
from utils.metrics.build import Metric, build_metric
from utils.metrics.classification import ClassificationMetric
from utils.metrics.coco import BACKENDS
from utils.metrics.detection import DetectionMetric
from utils.run import new_run_folder
from utils.structures import Batch, Detections, LabelledImages
from utils.task_plots import plot_figures

logger = logging.getLogger(__name__)

DETECT = {"conf_thres": 0.001, "iou_thres": 0.65, "max_det": 100}
"""How detectors are evaluated where the command line says nothing else."""


def evaluate(
    predictor: Predictor,
    loader: DataLoader,
    metric: Metric,
    *,
    conf_thres: float = DETECT["conf_thres"],
    iou_thres: float = DETECT["iou_thres"],
    max_det: int = DETECT["max_det"],
    nms: str | None = None,
    clip: bool = True,
    ten_crop: tuple[int, int] | None = None,
    over_ranks: bool = False,
) -> dict[str, Any]:
    """The figures of a metric over the images of a loader, and what they cost in time.

    Args:
        loader: Batches with letterboxes, each image once.
        metric: without anything found yet; it has it all afterwards.
        conf_thres, iou_thres, max_det, nms: of a detector, as in `postprocess`; None takes the model's own kind.
        clip: cut a detector's boxes to the image.
        ten_crop: a classifier sees ten crops of this (height, width) of every image, which is larger, and their mean
            counts.
        over_ranks: the loaders of all ranks together give each image once, and every rank calls this; every rank then
            gets the figures of all.
    Returns:
        What `metric.compute` gives, and 'speed_ms': milliseconds an image, by the clock, for 'preprocess' (reading and
        resizing as far as the loader's workers do not hide it, and the way to the device), 'inference' and
        'postprocess'. The three add up to the whole time.
    """
    seconds = {"preprocess": 0.0, "inference": 0.0, "postprocess": 0.0}
    count, mark = 0, time.perf_counter()
    unreadable: list[str] = []

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
            found = predictor.predict(images) if ten_crop is None else predict_ten_crops(predictor, images, ten_crop)
            lap("inference")
            if predictor.info.task == "detect":
                found = in_originals(postprocess(*found, **options), batch, clip=clip)
            metric.update(batch.image_ids, found)
            count += len(batch)
            unreadable += [problem for problem in batch.problems if problem]
            progress.advance()
            lap("postprocess")
    if unreadable:
        logger.warning("Evaluation without %d images that cannot be read: %s", len(unreadable), unreadable[0])
    speed = {part: 1000 * value / max(count, 1) for part, value in seconds.items()}
    if not over_ranks:
        return {**metric.compute(), "speed_ms": speed}
    for rows in dist.gather(metric.predictions()):
        metric.extend(rows)
    figures = metric.compute() if dist.rank() == 0 else None
    return {**dist.broadcast(figures), "speed_ms": speed}


def in_originals(found: list[Detections], batch: Batch, *, clip: bool) -> list[Detections]:
    """What was found in the network's input, in pixels of the original images."""
    pairs = zip(found, batch.letterboxes, strict=True)
    originals = [each.to_original(letterbox, clipped=clip) for each, letterbox in pairs]
    for place, problem in enumerate(batch.problems):
        if problem:  # a grey image was in its place, in which nothing is to be found
            originals[place] = originals[place].select(torch.zeros(len(originals[place]), dtype=torch.bool))
    return originals


def predict_ten_crops(predictor: Predictor, images: Tensor, size: tuple[int, int]) -> Tensor:
    """A classifier's mean probabilities (B, C) over ten crops of `size` of each image."""
    return predictor.predict(ten_crops(images, size)).unflatten(0, (len(images), -1)).mean(dim=1)


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
    except Exception as error:
        return report(error)
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
    options = options_of(args, predictor)
    images = read_split(config, args.split, task=predictor.info.task)
    print(f"Data: {config.source}, {args.split}: {len(images)} images, {len(images.names)} classes")
    if images.problems:
        print(summarize(images.problems))
    category_ids = match_classes(predictor, images)
    names = predictor.names if predictor.info.named else images.names
    metric = build_metric(images, category_ids=category_ids, names=names, backend=args.backend)
    shown, crop = (ten_crop_size(size), size) if args.ten_crop else (size, None)
    loader = build_eval_loader(
        images, image_size=shown, resize=resize, batch_size=args.batch_size, workers=args.workers
    )
    folder = new_run_folder(Path(args.project), args.name)
    figures = evaluate(predictor, loader, metric, **{**options, "ten_crop": crop})
    figures["protocol"] = {
        **options,
        "image_size": list(size),
        "precision": predictor.precision,
        "resize": resize,
        "weights": str(weights),
        "data": str(config.source),
        "split": args.split,
    }
    write_json(folder / "metrics.json", figures, indent=2)
    if args.save_json:
        write_json(folder / "predictions.json", predictions(metric, images))
        if isinstance(metric, DetectionMetric):
            write_json(folder / "ground_truth.json", metric.ground_truth)
    plot_figures(metric, folder)
    print(f"\n{metric.table()}\n\n{describe(figures)}\nResults: {folder}")
    missing = figures["images"] - len(images)
    if missing:
        print(f"Note: {missing} images of the ground truth could not be read; their objects count as not found")
    return folder


def options_of(args: argparse.Namespace, predictor: Predictor) -> dict[str, Any]:
    """What the protocol says of the model's task.

    Raises:
        ConfigError: an option of the other task.
    """
    detector = predictor.info.task == "detect"
    given = [name for name in (*DETECT, "nms", "clip") if getattr(args, name) is not None]
    given += ["ten_crop"] if args.ten_crop else []
    wrong = [f"--{name.replace('_', '-')}" for name in given if (name == "ten_crop") == detector]
    wrong += ["--resize crop"] if detector and args.resize == "crop" else []
    if wrong:
        option, other = wrong[0], "a classifier" if detector else "a detector"
        raise ConfigError(f"{option}: is for {other}, and the model is not one; leave it out")
    if not detector:
        return {"ten_crop": args.ten_crop}
    chosen = {name: default if getattr(args, name) is None else getattr(args, name) for name, default in DETECT.items()}
    clip = predictor.info.clip if args.clip is None else args.clip
    nms = args.nms or predictor.info.nms
    if nms == "none" and args.iou_thres is not None:
        logger.warning("--iou-thres %g is not used: with nms 'none' nothing is suppressed", args.iou_thres)
    return chosen | {"nms": nms, "clip": clip}


def predictions(metric: Metric, images: LabelledImages) -> list[dict[str, Any]]:
    """The content of predictions.json: of a classifier also the file of each image and the names of its classes."""
    rows = metric.predictions()
    if not isinstance(metric, ClassificationMetric):
        return rows
    files = {sample.image_id: str(sample.path) for sample in images.samples}
    return [
        {"file": files[row["image_id"]], "name": metric.names[row["label"]], **row}
        | {"names": [metric.names[label] for label in row["labels"]]}
        for row in rows
    ]


def describe(figures: dict[str, Any]) -> str:
    """The protocol and the speed, one line each."""
    protocol, speed = figures["protocol"], figures["speed_ms"]
    height, width = protocol["image_size"]
    if "ten_crop" in protocol:
        of_task = ("ten crops" if protocol["ten_crop"] else "one crop",)
    else:
        nms = "no NMS" if protocol["nms"] == "none" else f"NMS IoU {protocol['iou_thres']:g} ({protocol['nms']})"
        of_task = (f"conf {protocol['conf_thres']:g}", nms, f"max-det {protocol['max_det']}")
    parts = (
        *of_task,
        f"size {height}x{width}",
        protocol["precision"],
        protocol["resize"],
        *(() if protocol.get("clip", True) else ("boxes uncut",)),
    )
    times = ", ".join(f"{part} {value:.1f}" for part, value in speed.items())
    return f"Protocol: {', '.join(parts)}\nSpeed: {times} ms an image, {figures['images']} images"


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Options as in docs/reference.md."""
    description = "Evaluate a detector with COCO's figures, or a classifier with top-1 and top-5."
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
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


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") or "nothing more"


if __name__ == "__main__":
    sys.exit(main())
