"""What a predictor finds in the batches of an evaluation, handed to a metric; a batch that is too large, in parts."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from data.transforms import ten_crops
from engine.notes import FileNotes
from engine.step import StepClock
from engine.tiles import TileMerger
from models.info import ModelInfo, Predictor, Values
from models.postprocess import least_score, postprocess, to_array
from utils.faults import is_out_of_memory, memory_reason
from utils.memory import release_unused
from utils.metrics.build import Metric
from utils.metrics.classification import ClassificationMetric
from utils.metrics.detection import DetectionMetric
from utils.structures import Batch, Detections
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


@dataclass(eq=False)
class Counted:
    """Predicts batches; a thread hands what was found to a metric while the next batch is computed.

    Of tiles, it is handed over when all of an image are there.

    A batch that does not fit into memory is predicted in parts of half as many images, and so are those after it.

    Args:
        behind: the thread.
        most: images at a time; None: as many as a batch has.
        last: what the thread does, and for which images.
    """

    predictor: Predictor
    metric: Metric
    options: EvaluationOptions
    notes: FileNotes
    clock: StepClock
    behind: ThreadPoolExecutor
    most: int | None = None
    last: tuple[Future[None], Batch] | None = None

    def __post_init__(self) -> None:
        self.merger = None if self.options.grid is None else TileMerger(self.options.iou_thres, self.options.max_det)

    def add(self, batch: Batch) -> None:
        """Predict a batch, and count the one before it."""
        todo = [batch]
        while todo:
            part = todo.pop(0)
            if self.most is not None and len(part) > self.most:
                starts = range(0, len(part), self.most)
                todo = [*(part.part(start, start + self.most) for start in starts), *todo]
            elif not self._predict(part):
                todo.insert(0, part)

    def finish(self) -> None:
        """Wait until all is counted; nothing more comes."""
        self._wait()
        if self.merger is not None:
            self._count(self.merger.finish())
        self.clock.lap("postprocess")

    def _wait(self) -> None:
        """Until the last batch is counted."""
        while self.last is not None:
            (future, part), self.last, reason = self.last, None, ""
            try:
                future.result()
            except (RuntimeError, MemoryError) as error:
                reason = _memory_reason(error)
            del future  # and with it the memory that its error holds
            if reason:
                self._take_fewer(part, reason)
                self.add(part)
        self.clock.lap("postprocess")

    def _predict(self, part: Batch) -> bool:
        """Whether there was enough memory."""
        try:
            images = part.to(torch.device(self.predictor.device)).images
            self.clock.lap("preprocess")
            raw = predicted(self.predictor, images, self.options)
            self.clock.lap("inference")
        except (RuntimeError, MemoryError) as error:
            reason = _memory_reason(error)
        else:
            self._wait()
            self.last = self.behind.submit(self._note, raw, part), part
            return True
        self._take_fewer(part, reason)
        return False

    def _take_fewer(self, part: Batch, reason: str) -> None:
        """Halve the images at a time, after memory ran out with those of `part`."""
        release_unused(torch.device(self.predictor.device))
        height, width = part.images.shape[2:]
        where = f"out of memory on {self.predictor.device} in evaluation"
        if len(part) == 1:
            raise ValueError(
                f"{where}: not even one image of {height} x {width} px fits ({reason}); close other programs that use "
                "the device, or take a smaller --img-size or model"
            )
        self.most = len(part) // 2
        many = f"{len(part)} images of {height} x {width} px do not fit ({reason})"
        self.notes.add(f"{where}: {many}; it goes on with {self.most} at a time")

    @torch.inference_mode()
    def _note(self, raw: tuple[Values, Values] | Values, batch: Batch) -> None:
        """Hand the metric what was predicted for a batch."""
        if isinstance(self.metric, ClassificationMetric):
            assert not isinstance(raw, tuple)
            self.metric.update(batch.image_ids, to_array(raw))
            return
        assert isinstance(raw, tuple)
        found = detections_of_batch(raw, batch, self.predictor.info, self.options)
        if self.merger is None:
            self.metric.update(batch.image_ids, found)
        else:
            self._count(self.merger.add(batch.image_ids, batch.tiles, found))

    def _count(self, images: Sequence[tuple[Hashable, Detections]]) -> None:
        assert isinstance(self.metric, DetectionMetric)
        self.metric.update([image_id for image_id, _ in images], [found for _, found in images])


def _memory_reason(error: Exception) -> str:
    """What the allocator says, of an error that is about memory; any other error is raised."""
    if not is_out_of_memory(error):
        raise error
    return memory_reason(error)


def predicted(predictor: Predictor, images: Tensor, options: EvaluationOptions) -> tuple[Values, Values] | Values:
    """What an evaluation takes of a batch: candidates of a detector, or a classifier's probabilities.

    Args:
        images: (B, 3, H, W) float RGB in [0, 1].
    """
    if options.ten_crop is None:
        least = least_score(options.conf_thres, options.nms or predictor.info.nms)
        return predictor.candidates(images, least)
    return predict_ten_crops(predictor, images, options.ten_crop)


@torch.inference_mode()
def try_batch(predictor: Predictor, batch: Batch, options: EvaluationOptions) -> None:
    """Compute what an evaluation does for a batch, and nothing of it is kept: is there memory for it?"""
    raw = predicted(predictor, batch.to(torch.device(predictor.device)).images, options)
    if isinstance(raw, tuple):
        suppressed(raw, predictor.info, options)


def detections_of_batch(
    raw: tuple[Values, Values], batch: Batch, info: ModelInfo, options: EvaluationOptions
) -> list[Detections]:
    """What a detector predicted for a batch, as detections in pixels of the original images, or of their tiles.

    Args:
        raw: boxes (B, N, 4) xyxy pixels of the network input, and scores (B, N, C).
    """
    pairs = zip(suppressed(raw, info, options), batch.letterboxes, strict=True)
    originals = [each.to_original(letterbox, clipped=options.clip) for each, letterbox in pairs]
    for index, problem in enumerate(batch.problems):
        if problem:  # a grey image was in its place, in which nothing is to be found
            originals[index] = originals[index].select(np.zeros(len(originals[index]), bool))
    return originals


def suppressed(raw: tuple[Values, Values], info: ModelInfo, options: EvaluationOptions) -> list[Detections]:
    """The detections of each image in pixels of the network input; arguments as in `detections_of_batch`."""
    boxes, scores = map(torch.as_tensor, raw)  # of many candidates, torchvision's operator makes less work
    return postprocess(
        boxes,
        scores,
        conf_thres=options.conf_thres,
        iou_thres=options.iou_thres,
        max_det=options.max_det,
        nms=options.nms or info.nms,
        beta_nms=info.beta_nms,
    )


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
