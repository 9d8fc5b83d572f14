"""Where an export meets data: images that int8 is calibrated on, its AP before and after, and whole pictures."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from data.config import load_data_config
from data.images import read_image
from data.loader import build_eval_loader
from data.read import has_objects, read_split
from data.tiles import training_tiles
from data.transforms import resize_image
from engine.evaluate import EvaluationOptions, evaluate, match_classes
from models.export.compare import Difference, made_up_images
from models.export.compare_detections import compare_matched, detections_of, final_detections
from models.export.network import ExportSpec
from models.export.write import export
from models.info import Predictor
from models.layouts import OWN
from models.postprocess import to_array
from models.predictor import open_predictor
from models.predictor_torch import ModelPredictor
from utils.boxes import Letterbox, plan_resize
from utils.log import say
from utils.metrics.build import build_metric

CALIBRATION_IMAGES = 100
"""At most so many, evenly over the split; ranges hardly change beyond."""


def calibration_images(data: str, spec: ExportSpec) -> np.ndarray:
    """(K, 3, H, W) uint8 images, or tiles, of the training split, as the model sees them.

    Raises:
        ConfigError: a split that is missing or for another task.
    """
    images = read_split(load_data_config(data), "train", task=spec.info.task, truth="none")
    samples = training_tiles(images, seed=0)[0].samples
    count = min(CALIBRATION_IMAGES, len(samples))
    chosen = np.linspace(0, len(samples) - 1, count).round().astype(int)
    size, inputs = spec.info.image_size, []
    for index in chosen.tolist():
        sample = samples[index]
        image = read_image(sample.path) if sample.tile is None else sample.tile.cut(read_image(sample.path))
        letterbox = plan_resize(image.shape[0], image.shape[1], size, spec.info.resize)
        inputs.append(resize_image(image, letterbox, size, mode=spec.info.resize).transpose(2, 0, 1))
    whole = -(-count // spec.batch_size) * spec.batch_size  # the file may take several at a time, and no fewer
    return np.stack([inputs[index % count] for index in range(whole)])


def report_accuracy(original: ModelPredictor, kind: str, output: Path, spec: ExportSpec, data: str) -> None:
    """Say the AP and the time of the validation split in the same runtime, with and without int8.

    Args:
        output: the int8 file. One that does not give all candidates is evaluated in our own layout.
    """
    plain = replace(spec, layout=OWN)
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "fp32", output.name), Path(folder, "int8", output.name)
        export(original, kind, before, replace(plain, calibration=None))
        if spec.layout == plain.layout:
            after = output
        else:
            export(original, kind, after, plain)
        names = ("fp32", "int8")
        for name, file in zip(names, (before, after), strict=True):
            say(f"{name}: {_figures(open_predictor(file, device='cpu'), plain, data)}")


def _figures(predictor: Predictor, spec: ExportSpec, data: str) -> str:
    """The figures of val.py, in words."""
    images = read_split(load_data_config(data), "val", task=spec.info.task, truth="boxes")
    metric = build_metric(images, category_ids=match_classes(predictor, images), names=predictor.names)
    grid = images.tiling.grid if images.tiling else None
    loader = build_eval_loader(
        images,
        image_size=spec.info.image_size,
        resize=spec.info.resize,
        batch_size=spec.batch_size,
        workers=0,
        grid=grid,
    )
    figures = evaluate(predictor, loader, metric, EvaluationOptions(nms=spec.info.nms, clip=spec.info.clip, grid=grid))
    speed = f"{figures['speed_ms']['inference']:.1f} ms an image ({predictor.description})"
    if spec.info.task == "classify":
        return f"top-1 {figures['top1']:.4f}, {speed}"
    if not has_objects(images):
        return f"no object in the validation split, so no AP; {speed}"
    return f"AP {figures['AP']:.4f}, AP50 {figures['AP50']:.4f} of {len(images)} validation images, {speed}"


PICTURES = ((480, 640), (333, 500), (97, 61))
"""Height and width of made-up pictures."""


def compare_pictures(original: Predictor, output: Path, spec: ExportSpec) -> Difference:
    """How far a file that takes pictures is from our own letterbox and the original, on made-up pictures."""
    exported, worst = open_predictor(output, device="cpu"), Difference(0.0, 0.0, 0.0)
    for seed, (height, width) in enumerate(PICTURES):
        picture = made_up_images((1, height, width), seed=seed).mul(255).round().byte().numpy()
        image = np.ascontiguousarray(picture[0].transpose(1, 2, 0))
        letterbox, size = picture_plan(height, width, spec)
        network = resize_image(image, letterbox, size, mode=spec.info.resize).transpose(2, 0, 1)[None]
        boxes, scores = map(to_array, original.predict(network))
        found_boxes, found_scores = map(to_array, exported.predict(picture))
        if spec.layout.final is None:
            apart = np.abs(letterbox.invert(boxes, clipped=False) - found_boxes)
            share = float((apart / np.maximum(np.abs(found_boxes), max(height, width))).max())
            difference = Difference(float(apart.max()), share, float(np.abs(scores - found_scores).max()))
        else:
            (wanted,) = final_detections(boxes, scores, spec.layout.final, spec)
            wanted = wanted.to_original(letterbox)
            wanted = wanted.select(np.all(wanted.boxes[:, 2:] > wanted.boxes[:, :2], axis=1))
            difference, _ = compare_matched(
                wanted, detections_of(found_boxes[0], found_scores[0]), longest=max(height, width)
            )
        worst = worst.larger(difference)
    return worst


def picture_plan(height: int, width: int, spec: ExportSpec) -> tuple[Letterbox, tuple[int, int]]:
    """How a file that takes pictures puts one into the network input, and the input's (height, width)."""
    letterbox = plan_resize(height, width, spec.info.image_size, spec.info.resize)
    if not spec.dynamic or spec.info.resize != "letterbox":
        return letterbox, spec.info.image_size
    inner = round(height * letterbox.scale_y), round(width * letterbox.scale_x)
    rows, columns = (-(-side // spec.info.stride) * spec.info.stride for side in inner)
    pad_x, pad_y = float((columns - inner[1]) // 2), float((rows - inner[0]) // 2)
    return replace(letterbox, pad_x=pad_x, pad_y=pad_y), (rows, columns)
