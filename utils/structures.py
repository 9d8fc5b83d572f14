"""The types that cross folders: Sample (from utils.samples), LabelledImages, Targets, Batch, Detections.

Targets and Batch hold tensors; torch is imported where they need it, so that programs without them do without it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from utils.boxes import Letterbox, xyxy_to_xywh
from utils.samples import Sample, Samples
from utils.text import class_name, printable, shorten
from utils.tiles import Tile, Tiling

__all__ = ["Batch", "Detections", "Features", "LabelProblem", "LabelledImages", "Sample", "Samples", "Targets"]

if TYPE_CHECKING:
    import supervision
    import torch
    from PIL.Image import Image
    from torch import Tensor


def may_copy_later(device: torch.device) -> bool:
    """Whether a copy to a device may still be under way when the source is freed.

    CUDA takes what is not page-locked into a buffer of its own first. Apple's GPUs read the source itself, later.
    """
    return device.type != "mps"


@dataclass(frozen=True, slots=True)
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
        samples: the images in the order of the split; any sequence of them is stored as `Samples`.
        names: class names by zero-based class index.
        category_ids: the data set's own id of each class (COCO's category ids; 1, 2, ... elsewhere).
        ground_truth: the split as a COCO dict; for COCO JSON the file's own content, so that area, iscrowd and ids are
            exactly what pycocotools would read.
        problems: every label that was mended or left out, with file and line.
        task: what the labels are for. For 'classify' every sample has one label, its box is the whole image, and
            `ground_truth` is empty.
        label_files: image -> its label file, where each image has one of its own.
        tiling: how its images are cut into tiles, for training and evaluation; None where they are used whole.
    """

    samples: Samples
    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    ground_truth: dict[str, Any]
    problems: Sequence[LabelProblem] = ()
    task: Literal["detect", "classify"] = "detect"
    label_files: Mapping[Path, Path] = field(default_factory=dict)
    tiling: Tiling | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples", Samples.of(self.samples))

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
        """The same targets on another device; nobody waits for the copy to it, unless that is unsafe there."""
        return self._each(lambda part: part.to(device, non_blocking=may_copy_later(device)))

    def pin_memory(self) -> Targets:
        """The same targets in page-locked memory."""
        return self._each(lambda part: part.pin_memory())

    def select(self, mask: Tensor | slice) -> Targets:
        """The targets where `mask` (M,) bool is true, those at the positions `mask` (K,) int64, or those of a slice."""
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
        tiles: B parts of the original images, where these are tiles; the letterboxes are then from a tile.

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
    tiles: tuple[Tile, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def part(self, start: int, stop: int) -> Batch:
        """The images from `start` up to `stop`, with their targets; notes are those of the whole batch."""
        first = self.targets.image_index
        targets = self.targets.select((first >= start) & (first < stop))
        return Batch(
            self.images[start:stop],
            replace(targets, image_index=targets.image_index - start),
            self.image_ids[start:stop],
            self.paths[start:stop],
            self.letterboxes[start:stop],
            self.problems[start:stop],
            self.notes,
            self.tiles[start:stop],
        )

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory (torch's loader calls this)."""
        targets = self.targets.pin_memory()
        return replace(self, images=self.images.pin_memory(), targets=targets)

    def to(self, device: torch.device, *, channels_last: bool = False) -> Batch:
        """The batch with its images on `device`, as float32 in [0, 1]; the targets stay on the host (see Targets)."""
        import torch

        images = self.images.to(device, non_blocking=may_copy_later(device))
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
        class_names: of the model, by class index; empty where they are not known.
        category_ids: the data set's own id of each class; empty where they are not known.
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
    class_names: tuple[str, ...] = field(default=(), repr=False)
    category_ids: tuple[Hashable, ...] = field(default=(), repr=False)

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
        return replace(self, boxes=letterbox.invert(self.boxes, clipped=clipped))

    def select(self, rows: np.ndarray) -> Detections:
        """The detections where `rows` (N,) bool is true, or those at the positions `rows` (K,) int64."""
        return replace(self, boxes=self.boxes[rows], scores=self.scores[rows], labels=self.labels[rows])

    @property
    def names(self) -> np.ndarray:
        """(N,) text: the name of each detection's class, its number where no name is known."""
        return np.array([class_name(self.class_names, label) for label in self.labels.tolist()], np.str_)

    def to_dicts(self) -> list[dict[str, Any]]:
        """The entries of detections.json without source and frame: class, name, score, box [x1, y1, x2, y2].

        Scores are rounded to 6 decimals and boxes to 1/1000 pixel, as in the file.
        """
        rows = zip(self.labels.tolist(), self.scores.tolist(), self.boxes.tolist(), strict=True)
        return [
            {
                "class": label,
                "name": class_name(self.class_names, label),
                "score": round(score, 6),
                "box": [round(value, 3) for value in box],
            }
            for label, score, box in rows
        ]

    def to_coco(self, image_id: Hashable = 1) -> list[dict[str, Any]]:
        """A COCO results list: image_id, category_id, bbox [x, y, width, height], score; nothing is rounded.

        Raises:
            ValueError: a class whose category id is not known.
        """
        unknown = sorted({label for label in self.labels.tolist() if not 0 <= label < len(self.category_ids)})
        if unknown:
            raise ValueError(f"category_ids: {len(self.category_ids)} ids, none for class {unknown[0]}; COCO needs one")
        boxes, scores = xyxy_to_xywh(self.boxes.astype(np.float64)).tolist(), self.scores.astype(np.float64).tolist()
        return [
            {"image_id": image_id, "category_id": self.category_ids[label], "bbox": box, "score": score}
            for label, box, score in zip(self.labels.tolist(), boxes, scores, strict=True)
        ]

    def to_supervision(self) -> supervision.Detections:
        """The same for the package supervision: xyxy, confidence, class_id, and data['class_name'].

        Raises:
            ImportError: it is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            if error.name != "supervision":
                raise
            raise ImportError("to_supervision() needs the package supervision: pip install supervision") from None
        return supervision.Detections(
            xyxy=self.boxes.copy(),
            confidence=self.scores.copy(),
            class_id=self.labels.copy(),
            data={"class_name": self.names},
        )

    def draw(self, image: np.ndarray | Image) -> np.ndarray:
        """A copy of the image, (H, W, 3) uint8 RGB, with boxes, class names and scores on it.

        Args:
            image: the picture of these detections, as `as_rgb` takes it: an (H, W, 3) uint8 RGB array or a Pillow
                image. It stays as it is.
        Raises:
            ValueError: something else.
        """
        from utils.draw import draw_detections
        from utils.rgb import as_rgb

        return draw_detections(as_rgb(image), self.boxes, self.labels, self.scores, self.class_names)


@dataclass(frozen=True)
class Features:
    """The contract between parts of a network: channels and stride of each map it gives, finest first."""

    channels: tuple[int, ...] = field()
    strides: tuple[int, ...] = field()

    def __post_init__(self) -> None:
        if len(self.channels) != len(self.strides):
            raise ValueError(f"{len(self.channels)} channel counts {self.channels} for strides {self.strides}")
