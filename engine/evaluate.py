"""Evaluation: the figures of a detector or a classifier over a split, and what val.py writes down of them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from data.transforms import ten_crops
from engine.notes import FileNotes
from engine.step import StepClock
from engine.tiles import TileMerger
from models.info import ModelInfo, Predictor, Values
from models.postprocess import postprocess, to_array
from utils import dist
from utils.config import ConfigError
from utils.files import write_json
from utils.log import Progress, first_few
from utils.metrics.build import Metric
from utils.metrics.classification import ClassificationMetric
from utils.metrics.detection import DetectionMetric
from utils.plots import plot_figures
from utils.read_ahead import ReadAhead
from utils.structures import Batch, Detections, LabelledImages
from utils.tiles import Grid, Tiling
from utils.train_config import TrainConfig


@dataclass(frozen=True)
class EvaluationOptions:
    """What an evaluation counts.

    Args:
        conf_thres, iou_thres, max_det, nms: of a detector, as in `postprocess`; nms None takes the model's own kind.
        clip: cut a detector's boxes to the image.
        ten_crop: a classifier sees ten crops of this (height, width) of every image, which is larger, and their mean
            counts.
        grid: of the tiles that a detector sees in place of images; None where it sees whole images.
    """

    conf_thres: float = 0.001
    iou_thres: float = 0.65
    max_det: int = 100
    nms: str | None = None
    clip: bool = True
    ten_crop: tuple[int, int] | None = None
    grid: Grid | None = None

    @classmethod
    def of_training(
        cls, config: TrainConfig, task: Literal["detect", "classify"], tiling: Tiling | None = None
    ) -> EvaluationOptions:
        """What the recipe of a training says, and the data YAML of tiles."""
        recipe = config.recipe.evaluation
        if task == "classify":
            return cls(ten_crop=config.image_size if recipe.ten_crop else None)
        return cls(recipe.conf_thres, recipe.iou_thres, recipe.max_det, grid=tiling.grid if tiling else None)

    def protocol(self, task: Literal["detect", "classify"]) -> dict[str, Any]:
        """The options that matter to a task, for metrics.json."""
        if task == "classify":
            return {"ten_crop": self.ten_crop is not None}
        values = {name: getattr(self, name) for name in ("conf_thres", "iou_thres", "max_det", "nms", "clip")}
        return {**values, **tiles_of(self.grid)}


def tiles_of(grid: Grid | None) -> dict[str, Any]:
    """The part of a protocol that tells of tiles; empty without them."""
    return {} if grid is None else {"tile": list(grid.size), "overlap": grid.overlap}


PARTS = ("preprocess", "inference", "postprocess")
"""The keys of 'speed_ms'."""


def evaluate(
    predictor: Predictor,
    loader: DataLoader,
    metric: Metric,
    options: EvaluationOptions,
    *,
    over_ranks: bool = False,
    notes: FileNotes | None = None,
) -> dict[str, Any]:
    """The figures of a metric over the images of a loader, and what they cost in time.

    Args:
        loader: Batches with letterboxes, each image once, or all tiles of each image one after another.
        metric: without anything found yet; it has it all afterwards.
        over_ranks: the loaders of all ranks together give each image once, and every rank calls this; every rank then
            gets the figures of all.
        notes: of the run that the evaluation belongs to.
    Returns:
        What `metric.compute` gives, and 'speed_ms': milliseconds an image that each part adds to the whole, by the
        clock: 'preprocess' (reading, resizing, and the way to the device), 'inference' and 'postprocess'. Loader
        processes or a thread prepare the next batches meanwhile, and a thread finishes the last one; what they hide is
        not counted.
    """
    device = torch.device(predictor.device)
    seen, clock, unreadable, notes = set[int](), StepClock(device), list[str](), notes or FileNotes()
    counted = _Counted(metric, predictor.info, options)
    last: Future[None] | None = None
    with (
        torch.inference_mode(),
        ThreadPoolExecutor(1) as behind,
        Progress(len(loader), "Evaluating", quiet=over_ranks and dist.rank() != 0) as progress,
        _ahead(loader) as batches,
    ):
        for batch in batches:
            images = batch.to(device).images
            clock.lap("preprocess")
            if options.ten_crop is None:
                raw = predictor.candidates(images, options.conf_thres)
            else:
                raw = predict_ten_crops(predictor, images, options.ten_crop)
            clock.lap("inference")
            if last is not None:
                last.result()
            last = behind.submit(counted.add, raw, batch)
            seen.update(batch.image_ids)
            unreadable += [problem for problem in batch.problems if problem]
            notes.add(*batch.notes)
            progress.advance()
            clock.lap("postprocess")
        if last is not None:
            last.result()
        counted.finish()
        clock.lap("postprocess")
    seconds = clock.take(wait=True)
    speed = {part: 1000 * seconds.get(part, 0.0) / max(len(seen), 1) for part in PARTS}
    notes.tell_unread(unreadable, over_ranks=over_ranks)
    return {**(_of_all_ranks(metric) if over_ranks else metric.compute()), "speed_ms": speed}


def _of_all_ranks(metric: Metric) -> dict[str, Any]:
    """The figures over the images of all ranks."""
    for rows in dist.gather(metric.predictions()):
        metric.extend(rows)
    return dist.broadcast(metric.compute() if dist.rank() == 0 else None)


@contextmanager
def _ahead(loader: DataLoader) -> Iterator[Iterable[Batch]]:
    """Its batches, read ahead by its processes or, where it has none, by a thread."""
    if loader.num_workers:
        yield loader
        return
    batches = ReadAhead(loader, depth=2)
    try:
        yield batches
    finally:
        batches.close()


class _Counted:
    """What is predicted, handed to a metric; of tiles, when all of an image are there."""

    def __init__(self, metric: Metric, info: ModelInfo, options: EvaluationOptions) -> None:
        self.metric, self.info, self.options = metric, info, options
        self.merger = None if options.grid is None else TileMerger(options.iou_thres, options.max_det)

    @torch.inference_mode()
    def add(self, raw: tuple[Values, Values] | Values, batch: Batch) -> None:
        """Take what was predicted for a batch."""
        if isinstance(self.metric, ClassificationMetric):
            assert not isinstance(raw, tuple)
            self.metric.update(batch.image_ids, to_array(raw))
            return
        assert isinstance(raw, tuple)
        found = detections_of_batch(raw, batch, self.info, self.options)
        if self.merger is None:
            self.metric.update(batch.image_ids, found)
        else:
            self._count(self.merger.add(batch.image_ids, batch.tiles, found))

    def finish(self) -> None:
        """Nothing more comes."""
        if self.merger is not None:
            self._count(self.merger.finish())

    def _count(self, images: Sequence[tuple[Hashable, Detections]]) -> None:
        assert isinstance(self.metric, DetectionMetric)
        self.metric.update([image_id for image_id, _ in images], [found for _, found in images])


def detections_of_batch(
    raw: tuple[Values, Values], batch: Batch, info: ModelInfo, options: EvaluationOptions
) -> list[Detections]:
    """What a detector predicted for a batch, as detections in pixels of the original images, or of their tiles.

    Args:
        raw: boxes (B, N, 4) xyxy pixels of the network input, and scores (B, N, C).
    """
    boxes, scores = map(torch.as_tensor, raw)  # of many candidates, torchvision's operator makes less work
    detections = postprocess(
        boxes,
        scores,
        conf_thres=options.conf_thres,
        iou_thres=options.iou_thres,
        max_det=options.max_det,
        nms=options.nms or info.nms,
        beta_nms=info.beta_nms,
    )
    pairs = zip(detections, batch.letterboxes, strict=True)
    originals = [each.to_original(letterbox, clipped=options.clip) for each, letterbox in pairs]
    for index, problem in enumerate(batch.problems):
        if problem:  # a grey image was in its place, in which nothing is to be found
            originals[index] = originals[index].select(np.zeros(len(originals[index]), bool))
    return originals


def predict_ten_crops(predictor: Predictor, images: Tensor, size: tuple[int, int]) -> Tensor:
    """A classifier's mean probabilities over ten crops of each image.

    Args:
        images: (B, 3, H, W) float RGB in [0, 1].
        size: (height, width) of a crop, at most that of the images.
    Returns:
        (B, C) in [0, 1].
    """
    probabilities = predictor.predict(ten_crops(images, size))
    assert not isinstance(probabilities, tuple)
    return torch.as_tensor(probabilities).unflatten(0, (len(images), -1)).mean(dim=1)


def match_classes(predictor: Predictor, images: LabelledImages) -> tuple[int, ...]:
    """The data set's category id of each label of the model, by name; by position where the model has no own names.

    Raises:
        ConfigError: model and data do not have the same classes.
    """
    if not predictor.info.named and len(predictor.names) == len(images.names):
        return images.category_ids
    if sorted(predictor.names) != sorted(images.names):
        only_model = first_few(sorted(set(predictor.names) - set(images.names)), 5)
        only_data = first_few(sorted(set(images.names) - set(predictor.names)), 5)
        raise ConfigError(
            f"the model has {len(predictor.names)} classes and the data {len(images.names)}; only the model knows "
            f"{only_model or 'nothing more'}, only the data has {only_data or 'nothing more'}. Evaluate on data with "
            "the model's classes, or correct 'names' in the data YAML"
        )
    ids = dict(zip(images.names, images.category_ids, strict=True))
    return tuple(ids[name] for name in predictor.names)


def training_data(predictor: Predictor, weights: Path) -> str:
    """The data that a model was trained on: a data YAML or 'shapes'.

    Raises:
        ConfigError: the file of the weights does not say, or the data is gone.
    """
    source = predictor.info.data
    if source is None:
        raise ConfigError(f"--data is missing, and {weights} does not say what it was trained on; name a data YAML")
    if source != "shapes" and not Path(source).is_file():
        raise ConfigError(f"--data is missing, and {source}, which the model was trained on, is gone; name a data YAML")
    return source


def write_results(
    folder: Path, figures: dict[str, Any], metric: Metric, images: LabelledImages, *, save_predictions: bool
) -> None:
    """Write metrics.json and the pictures of an evaluation, and predictions.json with `save_predictions`."""
    if save_predictions:
        write_json(folder / "predictions.json", prediction_rows(metric, images))
        if isinstance(metric, DetectionMetric):
            write_json(folder / "ground_truth.json", metric.ground_truth)
    write_json(folder / "metrics.json", figures, indent=2)  # after the others: it marks a training as finished
    plot_figures(metric, folder)


def prediction_rows(metric: Metric, images: LabelledImages) -> list[dict[str, Any]]:
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


def protocol_and_speed(figures: dict[str, Any]) -> str:
    """The protocol and the speed of an evaluation, one line each."""
    protocol, speed = figures["protocol"], figures["speed_ms"]
    height, width = protocol["image_size"]
    if "ten_crop" in protocol:
        parts = ["ten crops" if protocol["ten_crop"] else "one crop"]
    else:
        nms = "no NMS" if protocol["nms"] == "none" else f"NMS IoU {protocol['iou_thres']:g} ({protocol['nms']})"
        parts = [f"conf {protocol['conf_thres']:g}", nms, f"max-det {protocol['max_det']}"]
    if tile := protocol.get("tile"):
        parts.append(str(Grid((tile[0], tile[1]), protocol["overlap"])))
    parts += [f"size {height}x{width}", protocol["precision"], protocol["resize"]]
    parts += [] if protocol.get("clip", True) else ["boxes uncut"]
    times = ", ".join(f"{part} {value:.1f}" for part, value in speed.items())
    return f"Protocol: {', '.join(parts)}\nSpeed: {times} ms an image, {figures['images']} images"
