"""Evaluation: the figures of a detector or a classifier over a split, and what val.py writes down of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from engine.evaluation_page import write_page
from engine.notes import FileNotes
from engine.predictions import Counted, EvaluationOptions
from engine.step import StepClock
from models.info import Predictor
from utils import dist
from utils.config import ConfigError
from utils.device import without_tf32
from utils.files import write_json
from utils.log import Progress, first_few
from utils.metrics.build import Metric
from utils.metrics.classification import ClassificationMetric
from utils.metrics.detection import DetectionMetric
from utils.plots_metric import plot_metric
from utils.read_ahead import ReadAhead
from utils.structures import Batch, LabelledImages
from utils.tiles import Grid

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
    clock = StepClock(torch.device(predictor.device))
    seen, unreadable, notes = set[int](), list[str](), notes or FileNotes()
    with (
        torch.inference_mode(),
        without_tf32(),
        ThreadPoolExecutor(1) as behind,
        Progress(len(loader), "Evaluating", quiet=over_ranks and dist.rank() != 0) as progress,
        _ahead(loader) as batches,
    ):
        counted = Counted(predictor, metric, options, notes, clock, behind)
        for batch in batches:
            counted.add(batch)
            seen.update(batch.image_ids)
            unreadable += [problem for problem in batch.problems if problem]
            notes.add(*batch.notes)
            progress.advance()
        counted.finish()
    seconds = clock.take(wait=True)
    speed = {part: 1000 * seconds.get(part, 0.0) / max(len(seen), 1) for part in PARTS}
    notes.tell_unread(unreadable, over_ranks=over_ranks)
    if not over_ranks:
        return {**metric.compute(), "speed_ms": speed}
    for rows in dist.collect(metric.predictions()):  # by rank 0 alone, which counts
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
    folder: Path,
    figures: dict[str, Any],
    metric: Metric,
    images: LabelledImages,
    *,
    save_predictions: bool,
    page: Path | None = None,
    about: tuple[str, ...] = (),
) -> None:
    """Write metrics.json and the pictures of an evaluation.

    Args:
        save_predictions: predictions.json too, and what the comparison of runs needs beside it.
        page: where the page of the evaluation goes; None writes none.
        about: lines below its title.
    """
    if save_predictions:
        write_json(folder / "predictions.json", prediction_rows(metric, images))
        if isinstance(metric, DetectionMetric):
            write_json(folder / "ground_truth.json", metric.ground_truth)
    if isinstance(metric, DetectionMetric):
        figures = {**figures, "errors": metric.errors()}
    plot_metric(metric, figures, folder)
    if page is not None or save_predictions:
        write_page(page, figures, metric, images, folder=folder, about=about, store=save_predictions)
    write_json(folder / "metrics.json", figures, indent=2)  # after the others: it marks a training as finished


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
