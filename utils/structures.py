"""The types that cross folders: Sample, LabelledImages, Targets, Batch, Detections.

Targets and Batch hold tensors; torch is imported where they need it, so that programs without them do without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from utils.boxes import Letterbox
from utils.text import printable, shorten

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Sample:
    """One image on disk with its labels.

    Args:
        path: the image file.
        image_id: COCO's id where the data is COCO JSON, else 1, 2, ... in the order of the split.
        height, width: pixels of the upright image (EXIF orientation applied).
        boxes: (N, 4) float64 xyxy pixels of the upright image.
        labels: (N,) int64, zero-based class index.
        crowd: (N,) bool; a crowd region is neither an object to find nor background.
    """

    path: Path
    image_id: int
    height: int
    width: int
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.boxes)
        if self.boxes.shape != (count, 4) or self.labels.shape != (count,) or self.crowd.shape != (count,):
            raise ValueError(
                f"{self.path}: boxes {self.boxes.shape}, labels {self.labels.shape} and crowd {self.crowd.shape} "
                "do not belong together; expected (N, 4), (N,) and (N,)"
            )


@dataclass(frozen=True)
class LabelProblem:
    """One bad label or file: what is wrong, where, and what was done about it."""

    where: str
    what: str
    action: str

    def __str__(self) -> str:
        return f"{printable(self.where)}: {shorten(self.what, 600)}; {printable(self.action)}"


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """One split of a data set, as read from disk.

    Args:
        samples: the images in the order of the split.
        names: class names by zero-based class index.
        category_ids: the data set's own id of each class (COCO's category ids; 1, 2, ... elsewhere).
        ground_truth: the split as a COCO dict; for COCO JSON the file's own content, so that area, iscrowd and ids are
            exactly what pycocotools would read.
        problems: every label that was mended or left out, with file and line.
        task: what the labels are for. For 'classify' every sample has one label, its box is the whole image, and
            `ground_truth` is empty.
        label_files: image -> its label file, where each image has one of its own.
    """

    samples: tuple[Sample, ...]
    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    ground_truth: dict[str, Any]
    problems: tuple[LabelProblem, ...] = ()
    task: Literal["detect", "classify"] = "detect"
    label_files: Mapping[Path, Path] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.samples)


@dataclass(frozen=True, eq=False)
class Targets:
    """The objects of a batch, all images in one list; of a classifier, the part of an image that shows a class.

    A loss gets them on the host, in main memory, whatever the device is: what it counts and selects there keeps no
    device waiting. Only what it computes with goes `to` the device.

    Args:
        boxes: (M, 4) float32 xyxy pixels of the network input.
        labels: (M,) int64 zero-based class index.
        image_index: (M,) int64 position of the image in the batch.
        crowd: (M,) bool; no prediction inside a crowd region counts as background.
        weights: (M,) float32 share of its image that a label has, for a classifier, whose images may be mixed from
            several; those of an image add up to 1. None for a detector.
    """

    boxes: Tensor
    labels: Tensor
    image_index: Tensor
    crowd: Tensor
    weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def to(self, device: torch.device) -> Targets:
        """The same targets on another device; nobody waits for the copy to it."""
        return self._each(lambda part: part.to(device, non_blocking=True))

    def pin_memory(self) -> Targets:
        """The same targets in page-locked memory."""
        return self._each(lambda part: part.pin_memory())

    def select(self, mask: Tensor) -> Targets:
        """The targets where `mask` (M,) bool is true, or those at the positions `mask` (K,) int64."""
        return self._each(lambda part: part[mask])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Targets:
        weights = None if self.weights is None else change(self.weights)
        return Targets(change(self.boxes), change(self.labels), change(self.image_index), change(self.crowd), weights)

    @staticmethod
    def empty() -> Targets:
        """No objects at all."""
        import torch

        nothing = torch.zeros(0, dtype=torch.int64)
        return Targets(torch.zeros(0, 4), nothing, nothing, nothing.bool())


@dataclass(frozen=True, eq=False)
class Batch:
    """Images of one size with their targets.

    Args:
        images: (B, 3, H, W) RGB; uint8 as the loader makes it, float32 in [0, 1] after `to`.
        targets: objects of all images; empty in evaluation, where the metric holds the ground truth.
        image_ids: B ids as in Sample.image_id.
        paths: B image files, for messages.
        letterboxes: B maps from the original image to the network input; empty in training (augmentation has none).
        problems: B texts, one a line, of files that could not be read and have something else in their place; empty
            where all could.
        notes: what is wrong with files that are used all the same, each once.

    >>> import torch
    >>> images = torch.full((2, 3, 32, 64), 255, dtype=torch.uint8)
    >>> batch = Batch(images, Targets.empty(), image_ids=(7, 8), paths=("a.jpg", "b.jpg"))
    >>> len(batch), len(batch.targets)
    (2, 0)
    >>> on_device = batch.to(torch.device("cpu"))
    >>> on_device.images.dtype, on_device.images.max().item()
    (torch.float32, 1.0)
    """

    images: Tensor
    targets: Targets
    image_ids: tuple[int, ...]
    paths: tuple[str, ...]
    letterboxes: tuple[Letterbox, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory (torch's loader calls this)."""
        targets = self.targets.pin_memory()
        return replace(self, images=self.images.pin_memory(), targets=targets)

    def to(self, device: torch.device, *, channels_last: bool = False) -> Batch:
        """The batch with its images on `device`, as float32 in [0, 1]; the targets stay on the host (see Targets)."""
        import torch

        images = self.images.to(device, non_blocking=True)
        if images.dtype == torch.uint8:
            images = images.float().div_(255)
        if channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return replace(self, images=images)


@dataclass(frozen=True, eq=False)
class Detections:
    """What was found in one image, best score first.

    Args:
        boxes: (N, 4) float32 xyxy pixels, of the network input or, after `to_original`, of the original image.
        scores: (N,) float32 in [0, 1].
        labels: (N,) int64 zero-based class index.
    Raises:
        ValueError: another type or shape.

    >>> from utils.boxes import plan_resize
    >>> boxes = np.array([[80, 120, 160, 200], [40, 80, 80, 160]], np.float32)
    >>> detections = Detections(boxes, scores=np.array([0.9, 0.3], np.float32), labels=np.array([2, 0]))
    >>> letterbox = plan_resize(480, 640, (320, 320), "letterbox")  # how the image went into the network
    >>> detections.to_original(letterbox).boxes.tolist()
    [[160.0, 160.0, 320.0, 320.0], [80.0, 80.0, 160.0, 240.0]]
    >>> best = detections.select(detections.scores > 0.5)
    >>> len(best), best.labels.tolist()
    (1, [2])
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.boxes)
        expected = {"boxes": ("float32", (count, 4)), "scores": ("float32", (count,)), "labels": ("int64", (count,))}
        for name, (dtype, shape) in expected.items():
            value = getattr(self, name)
            if not isinstance(value, np.ndarray):
                raise ValueError(f"{name}: expected a NumPy array, found {type(value).__name__}")
            if value.dtype != dtype or value.shape != shape:
                raise ValueError(f"{name}: expected {dtype} of shape {shape}, found {value.dtype} of {value.shape}")

    def __len__(self) -> int:
        return len(self.boxes)

    def to_original(self, letterbox: Letterbox, *, clipped: bool = True) -> Detections:
        """Boxes mapped back to the original image and cut to it unless `clipped` is False."""
        return Detections(letterbox.invert(self.boxes, clipped=clipped), self.scores, self.labels)

    def select(self, rows: np.ndarray) -> Detections:
        """The detections where `rows` (N,) bool is true, or those at the positions `rows` (K,) int64."""
        return Detections(self.boxes[rows], self.scores[rows], self.labels[rows])


@dataclass(frozen=True)
class Features:
    """The contract between parts of a network: channels and stride of each map it gives, finest first."""

    channels: tuple[int, ...] = field()
    strides: tuple[int, ...] = field()

    def __post_init__(self) -> None:
        if len(self.channels) != len(self.strides):
            raise ValueError(f"{len(self.channels)} channel counts {self.channels} for strides {self.strides}")
